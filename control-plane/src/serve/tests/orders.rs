//! Commands over two replicas, as they are posted to one of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use weft_proto::discovery::{CommandReply, client_message, command, server_message};

use super::harness::{Mesh, hello};
use super::replicas::Places;
use crate::serve::admin::Admin;
use crate::serve::admin::access::Gate;

const PATIENCE: Duration = Duration::from_secs(20);

/// A sidecar that does what it is told and counts it, but for log levels, which it refuses.
async fn obedient(mesh: &Mesh, account: &str, workload: &str) -> Arc<AtomicUsize> {
    let (mut stream, _) = mesh.stream_as(account, hello(workload)).await.unwrap();
    let told = Arc::new(AtomicUsize::new(0));
    let counter = told.clone();
    tokio::spawn(async move {
        while let Ok(Some(said)) = stream.next().await {
            let server_message::Kind::Command(command) = said else {
                continue;
            };
            let (payload, error) = match command.kind {
                Some(command::Kind::Breaker(_)) => (json!({"breakers": 2}), ""),
                Some(command::Kind::LogLevel(_)) => (Value::Null, "no such level"),
                other => panic!("commanded {other:?}"),
            };
            counter.fetch_add(1, Ordering::Relaxed);
            let reply = CommandReply {
                id: command.id,
                error: error.to_owned(),
                payload: if error.is_empty() {
                    payload.to_string()
                } else {
                    String::new()
                },
            };
            stream.say(client_message::Kind::CommandReply(reply)).await;
        }
    });
    told
}

/// The admin port of a replica.
async fn admin(mesh: &Mesh) -> SocketAddr {
    let admin = Admin {
        progress: Default::default(),
        models: watch::channel(Some(mesh.models.subscribe())).1,
        streams: mesh.streams.clone(),
        metrics: mesh.metrics.clone(),
        replicas: watch::channel(Some(mesh.replicas.clone())).1,
        gate: Gate::Loopback,
        keeper: watch::channel(None).1,
        log: None,
        end: CancellationToken::new(),
    };
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(admin.run(listener));
    address
}

/// The status and the body that are answered.
async fn post(to: SocketAddr, kind: &str, body: &str) -> (String, String) {
    let mut tcp = TcpStream::connect(to).await.unwrap();
    let request = format!(
        "POST /command HTTP/1.1\r\nhost: admin\r\ncontent-type: {kind}\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].to_owned(), body.to_owned())
}

async fn order(to: SocketAddr, body: &Value) -> Value {
    let (status, answer) = post(to, "application/json", &body.to_string()).await;
    assert_eq!(status, "200", "{answer}");
    serde_json::from_str(&answer).unwrap()
}

fn names(answer: &Value, list: &str) -> Vec<String> {
    let names = answer[list].as_array().unwrap().iter();
    names
        .map(|it| it["name"].as_str().unwrap().to_owned())
        .collect()
}

/// Each replica has one sidecar; asked is either, and both are commanded, once each.
#[tokio::test]
async fn either_replica_commands_all() {
    let (places, [first, second]) = Places::new().await;
    let (a, b) = (places.start(0, first), places.start(1, second));
    let web = obedient(&a, "web", "web-1").await;
    let cart = obedient(&b, "cart", "cart-1").await;
    let reset = json!({"command": {"kind": "breaker", "action": "reset"}});
    // Until they have found each other.
    let until = Instant::now() + PATIENCE;
    loop {
        let (of_a, of_b) = (a.replicas.ask_all().await, b.replicas.ask_all().await);
        let mut all = of_a.iter().chain(&of_b);
        if all.clone().count() == 4 && all.all(|it| it.answer.is_ok()) {
            break;
        }
        assert!(Instant::now() < until);
        sleep(Duration::from_millis(50)).await;
    }
    let (at_a, at_b) = (admin(&a).await, admin(&b).await);
    for (at, round) in [(at_a, 1), (at_b, 2)] {
        let answer = order(at, &reset).await;
        assert_eq!(names(&answer, "answers"), ["cart-1", "web-1"]);
        for one in answer["answers"].as_array().unwrap() {
            assert_eq!(
                (&one["error"], &one["payload"]["breakers"]),
                (&Value::Null, &json!(2))
            );
        }
        assert_eq!(answer["answers"][0]["replica"], "replica-1");
        assert_eq!(answer["answers"][1]["replica"], "replica-0");
        assert_eq!(
            names(&answer, "notConnected"),
            ["cart-2", "cart-3", "cart-4"]
        );
        let told = (web.load(Ordering::Relaxed), cart.load(Ordering::Relaxed));
        assert_eq!(told, (round, round));
    }

    // One that is at the other replica, and why it did not do it.
    let level = json!({"kind": "logLevel", "level": "loud"});
    let one = json!({"namespace": "shop", "workload": "cart-1", "command": level});
    let answer = order(at_a, &one).await;
    assert_eq!(names(&answer, "answers"), ["cart-1"]);
    assert_eq!(answer["answers"][0]["error"], "no such level");
    assert_eq!(web.load(Ordering::Relaxed), 2);
    // Nobody.
    let one = json!({"namespace": "shop", "workload": "card-1", "command": level});
    let answer = order(at_a, &one).await;
    assert!(names(&answer, "answers").is_empty());
    let nobody = json!([{"namespace": "shop", "name": "card-1", "known": false}]);
    assert_eq!(answer["notConnected"], nobody);

    // What is no command reaches nobody.
    for (kind, body, status) in [
        ("application/json", "{}", "400"),
        ("text/plain", &*reset.to_string(), "415"),
        ("application/json", &*" ".repeat(9_000), "400"),
    ] {
        assert_eq!(post(at_a, kind, body).await.0, status);
    }
    assert_eq!(web.load(Ordering::Relaxed), 2);

    // One that cannot be asked is said to be so; the others are commanded.
    b.end.cancel();
    b.server.await.unwrap();
    let answer = order(at_a, &reset).await;
    assert!(answer["replicas"][1]["error"].is_string(), "{answer}");
    assert_eq!(names(&answer, "answers"), ["web-1"]);
    assert_eq!(web.load(Ordering::Relaxed), 3);
}

/// A sidecar that says nothing is named, in bounded time, and holds up nobody's answer.
#[tokio::test]
async fn who_does_not_answer_is_named() {
    let mesh = Mesh::start().await;
    let web = obedient(&mesh, "web", "web-1").await;
    let (_silent, _) = mesh.stream_as("cart", hello("cart-1")).await.unwrap();
    let at = admin(&mesh).await;
    let begin = Instant::now();
    let reset = json!({"command": {"kind": "breaker", "action": "reset"}});
    let answer = order(at, &reset).await;
    assert!(begin.elapsed() < PATIENCE);
    assert_eq!(names(&answer, "answers"), ["cart-1", "web-1"]);
    assert_eq!(
        answer["answers"][0]["error"],
        "the sidecar did not answer in time"
    );
    assert_eq!(answer["answers"][1]["error"], Value::Null);
    assert_eq!(web.load(Ordering::Relaxed), 1);
}
