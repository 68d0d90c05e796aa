use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use super::ask::{AskError, Server, status};
use super::status::{Proxy, Refused, Replica, Status, Workload};
use super::{code, text};

fn proxy(name: &str) -> Proxy {
    Proxy {
        replica: "a".to_owned(),
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        version: "0.1.0".to_owned(),
        resources: 7,
        updated_seconds: Some(200.4),
        ..Proxy::default()
    }
}

fn of(proxies: Vec<Proxy>) -> Status {
    Status {
        model_revision: Some(1),
        replicas: vec![Replica::default()],
        proxies,
        not_connected: Some(Vec::new()),
    }
}

#[test]
fn everybody_in_step_is_said_so() {
    let mut late = proxy("late");
    late.behind = 1;
    late.behind_seconds = Some(1.9);
    let status = of(vec![proxy("web"), late]);
    assert_eq!(code(&status), 0);
    assert_eq!(
        text::of(&status),
        "\
WORKLOAD   SIDECAR  RESOURCES  UPDATED    STATE
shop/web   0.1.0    7          3m20s ago  in step
shop/late  0.1.0    7          3m20s ago  in step

2 connected: 2 in step, 0 behind, 0 refusing.
"
    );
}

#[test]
fn who_is_not_in_step_is_named_and_fits() {
    let mut late = proxy("a-workload-with-quite-a-long-name-5d4f8c9b7-x2x4z-and-more");
    late.behind = 3;
    late.behind_seconds = Some(7_500.0);
    let mut refusing = proxy("refusing");
    refusing.behind = 1;
    refusing.behind_seconds = Some(3.0);
    refusing.refused = vec![Refused {
        resource: "outbound 10.96.0.1:80".to_owned(),
        reason: "a circuit breaker of a kind that this build does not know".to_owned(),
    }];
    let mut status = of(vec![late, refusing]);
    status.not_connected = Some(vec![Workload {
        namespace: "shop".to_owned(),
        name: "gone".to_owned(),
    }]);
    assert_eq!(code(&status), 1);
    let printed = text::of(&status);
    for words in [
        "behind with 3 for 2h5m",
        "  refuses 1\n",
        "\nshop/refusing refuses outbound 10.96.0.1:80: a circuit breaker of a kind that",
        "not connected",
        "2 connected: 0 in step, 1 behind, 1 refusing. 1 not connected.",
    ] {
        assert!(printed.contains(words), "{words}: {printed}");
    }
    let widest = printed.lines().map(|line| line.chars().count()).max();
    assert!(widest.unwrap() <= 100, "{printed}");
    assert!(!printed.contains("behind with 1"), "{printed}");

    status.keep("other");
    assert_eq!(code(&status), 0);
}

#[test]
fn a_replica_without_an_answer_is_not_in_step() {
    let mut status = of(vec![proxy("web")]);
    status.replicas.push(Replica {
        address: Some("10.0.0.2:15180".to_owned()),
        error: Some("connecting: refused".to_owned()),
        ..Replica::default()
    });
    status.not_connected = None;
    assert_eq!(code(&status), 1);
    let printed = text::wide(&status);
    assert!(printed.contains("10.0.0.2:15180 did not answer: connecting: refused"));
}

#[test]
fn servers_are_http_urls() {
    let server: Server = "http://127.0.0.1".parse().unwrap();
    assert_eq!(server.to_string(), "http://127.0.0.1:15190");
    let server: Server = "http://[::1]:80/".parse().unwrap();
    assert_eq!(server.to_string(), "http://[::1]:80");
    for wrong in ["", "127.0.0.1:80", "https://a", "http://a/b", "http://"] {
        assert!(wrong.parse::<Server>().is_err(), "{wrong}");
    }
}

/// Whatever is on the other side.
fn answered(answer: &'static str) -> Result<Status, AskError> {
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
        assert!(asked.starts_with(b"GET /status HTTP/1.1\r\n"));
        tcp.write_all(answer.as_bytes()).unwrap();
    });
    let result = status(&format!("http://{address}").parse().unwrap());
    server.join().unwrap();
    result
}

#[test]
fn answers_are_read_and_others_refused() {
    let good = "HTTP/1.1 200 OK\r\n\r\n{\"modelRevision\": 3, \"replicas\": [], \"proxies\": [], \
                \"notConnected\": null, \"more\": 1}";
    assert_eq!(answered(good).unwrap().model_revision, Some(3));
    let forbidden = "HTTP/1.1 403 Forbidden\r\n\r\nfrom loopback only\n";
    let error = answered(forbidden).unwrap_err().to_string();
    assert_eq!(error, "403 Forbidden: from loopback only");
    assert!(matches!(answered("bytes"), Err(AskError::NotHttp)));
    let old = "HTTP/1.1 200 OK\r\n\r\n{\"workloads\": []}";
    assert!(matches!(answered(old), Err(AskError::NotStatus(_))));
    let nobody = status(&"http://127.0.0.1:1".parse().unwrap());
    assert!(nobody.unwrap_err().to_string().contains("port-forward"));
}
