use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use serde_json::{Value, json};

use super::{Told, Workload};
use crate::proxy_status::ask::AskError;

/// What is asked of somebody who answers so.
fn asked(answer: String, workload: Option<&Workload>) -> (Value, Result<Told, AskError>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            tcp.read_exact(&mut byte).unwrap();
            asked.push(byte[0]);
        }
        let head = String::from_utf8(asked).unwrap();
        assert!(head.starts_with("POST /command HTTP/1.1\r\n"), "{head}");
        assert!(
            head.contains("\r\ncontent-type: application/json\r\n"),
            "{head}"
        );
        let length = head.split("content-length: ").nth(1).unwrap();
        let length = length.split('\r').next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        tcp.read_exact(&mut body).unwrap();
        tcp.write_all(answer.as_bytes()).unwrap();
        serde_json::from_slice(&body).unwrap()
    });
    let to = format!("http://{address}").parse().unwrap();
    let answers = Told::ask(&to, Some("jobs"), workload, &json!({"kind": "config"}));
    (server.join().unwrap(), answers)
}

fn answer() -> Value {
    json!({
        "replicas": [
            {"name": "a", "address": null, "error": null},
            {"name": "", "address": "10.0.0.2:15180", "error": "connecting: refused"},
        ],
        "answers": [
            {"replica": "a", "namespace": "shop", "name": "api", "error": null, "payload": {"n": 1}},
            {"replica": "a", "namespace": "shop", "name": "web", "error": "late", "payload": null},
        ],
        "notConnected": [
            {"namespace": "shop", "name": "gone", "known": true},
            {"namespace": "shop", "name": "typo", "known": false},
        ],
    })
}

#[test]
fn what_is_asked_and_answered() {
    let good = format!("HTTP/1.1 200 OK\r\n\r\n{}", answer());
    let (body, answers) = asked(good.clone(), None);
    let wanted = json!({"namespace": "jobs", "workload": "", "command": {"kind": "config"}});
    assert_eq!(body, wanted);
    let answers = answers.unwrap();
    assert_eq!(serde_json::to_value(&answers).unwrap(), answer());
    let done: Vec<_> = answers.done().map(|it| &*it.name).collect();
    assert_eq!(done, ["api"]);

    // A workload's own namespace counts.
    let web = "shop/web".parse().unwrap();
    let (body, _) = asked(good, Some(&web));
    let wanted = json!({"namespace": "shop", "workload": "web", "command": {"kind": "config"}});
    assert_eq!(body, wanted);

    let (_, refused) = asked(
        "HTTP/1.1 400 Bad Request\r\n\r\nno backend\n".to_owned(),
        None,
    );
    assert_eq!(
        refused.unwrap_err().to_string(),
        "400 Bad Request: no backend"
    );
}

#[test]
fn who_did_not_do_it_is_named() {
    let mut answers: Told = serde_json::from_value(answer()).unwrap();
    assert!(!answers.is_whole());
    assert_eq!(
        answers.problems(),
        [
            "The replica at 10.0.0.2:15180 did not answer, and its sidecars are not known: \
             connecting: refused",
            "shop/web: late",
            "shop/gone: its sidecar is not connected",
            "shop/typo: no such workload; weft proxy status lists them",
        ]
    );
    answers.replicas.pop();
    assert!(!answers.is_whole());
    answers.answers.pop();
    assert!(!answers.is_whole());
    answers.not_connected.clear();
    assert!(answers.is_whole());
    assert!(answers.problems().is_empty());
}

#[test]
fn workloads_have_two_names() {
    let web: Workload = "shop/web-1".parse().unwrap();
    assert_eq!((&*web.namespace, &*web.name), ("shop", "web-1"));
    assert_eq!(web.to_string(), "shop/web-1");
    for wrong in ["", "web", "/web", "shop/", "a/b/c"] {
        assert!(wrong.parse::<Workload>().is_err(), "{wrong}");
    }
}
