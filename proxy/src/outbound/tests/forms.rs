//! The forms that HTTP messages have: what comes in one goes out in it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::policy::Protocol;
use crate::testing::policies::{endpoint, retries, target};
use crate::testing::soon;

/// A client and a server, both played byte by byte, with the sidecar between them.
struct Wire {
    client: TcpStream,
    listener: TcpListener,
    _sidecar: Sidecar,
}

impl Wire {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut policy = target("api", &["api"]);
        policy.protocol = Protocol::Http1;
        policy.routes[0].retries = Some(retries());
        let endpoints = vec![endpoint(listener.local_addr().unwrap(), None)];
        let sidecar = Sidecar::knowing(policy, endpoints);
        Self {
            client: sidecar.dial(api()).await.tcp,
            listener,
            _sidecar: sidecar,
        }
    }

    async fn accept(&self) -> TcpStream {
        soon(self.listener.accept()).await.unwrap().0
    }
}

async fn say(tcp: &mut TcpStream, bytes: &str) {
    tcp.write_all(bytes.as_bytes()).await.unwrap();
}

/// Reads until `end` has come.
async fn hear(tcp: &mut TcpStream, end: &str) -> String {
    let mut heard = Vec::new();
    while !heard.ends_with(end.as_bytes()) {
        match soon(tcp.read_u8()).await {
            Ok(byte) => heard.push(byte),
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&heard)),
        }
    }
    String::from_utf8(heard).unwrap()
}

const END: &str = "\r\n\r\n";

#[tokio::test]
async fn responses_without_a_body() {
    let mut wire = Wire::new().await;
    say(&mut wire.client, "HEAD /a HTTP/1.1\r\nhost: api\r\n\r\n").await;
    let mut server = wire.accept().await;
    let head = hear(&mut server, END).await;
    assert!(head.starts_with("HEAD /a HTTP/1.1\r\n"), "{head}");
    assert!(!head.contains("transfer-encoding"), "{head}");
    say(&mut server, "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n").await;
    let head = hear(&mut wire.client, END).await;
    assert!(head.contains("content-length: 7\r\n"), "{head}");

    for status in ["204 No Content", "304 Not Modified"] {
        say(&mut wire.client, "GET /b HTTP/1.1\r\nhost: api\r\n\r\n").await;
        hear(&mut server, END).await;
        say(
            &mut server,
            &format!("HTTP/1.1 {status}\r\netag: \"1\"\r\n\r\n"),
        )
        .await;
        let head = hear(&mut wire.client, END).await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{head}"
        );
        assert!(!head.contains("transfer-encoding"), "{head}");
    }
}

#[tokio::test]
async fn a_client_that_expects_to_be_told_to_continue() {
    let mut wire = Wire::new().await;
    let head = "POST /a HTTP/1.1\r\nhost: api\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
    say(&mut wire.client, head).await;
    let told = hear(&mut wire.client, END).await;
    assert!(told.starts_with("HTTP/1.1 100 "), "{told}");
    say(&mut wire.client, "body").await;
    let mut server = wire.accept().await;
    hear(&mut server, "body").await;
    say(
        &mut server,
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    )
    .await;
    let answer = hear(&mut wire.client, "ok").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let mut wire = Wire::new().await;
    say(
        &mut wire.client,
        "POST /a HTTP/1.1\r\nhost: api\r\nte: trailers\r\n",
    )
    .await;
    say(
        &mut wire.client,
        "trailer: sum\r\ntransfer-encoding: chunked\r\n\r\n",
    )
    .await;
    say(&mut wire.client, "4\r\nbody\r\n0\r\nsum: 1\r\n\r\n").await;
    let mut server = wire.accept().await;
    let head = hear(&mut server, END).await;
    assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
    let rest = hear(&mut server, "0\r\nsum: 1\r\n\r\n").await;
    assert!(rest.contains("body"), "{rest}");
    say(&mut server, "HTTP/1.1 200 OK\r\ntrailer: sum\r\n").await;
    say(
        &mut server,
        "transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nsum: 2\r\n\r\n",
    )
    .await;
    hear(&mut wire.client, END).await;
    let rest = hear(&mut wire.client, "0\r\nsum: 2\r\n\r\n").await;
    assert!(rest.contains("ok"), "{rest}");
}

#[tokio::test]
async fn bodies_stream_both_ways_at_once() {
    let mut wire = Wire::new().await;
    say(&mut wire.client, "POST /a HTTP/1.1\r\nhost: api\r\n").await;
    say(
        &mut wire.client,
        "transfer-encoding: chunked\r\n\r\n2\r\nup\r\n",
    )
    .await;
    let mut server = wire.accept().await;
    hear(&mut server, "up\r\n").await;
    say(
        &mut server,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    )
    .await;
    say(&mut server, "4\r\ndown\r\n").await;
    hear(&mut wire.client, "down\r\n").await;
    say(&mut wire.client, "5\r\nagain\r\n0\r\n\r\n").await;
    hear(&mut server, "again\r\n0\r\n\r\n").await;
    say(&mut server, "0\r\n\r\n").await;
    hear(&mut wire.client, "0\r\n\r\n").await;
}

#[tokio::test]
async fn old_clients_are_served() {
    let mut wire = Wire::new().await;
    say(&mut wire.client, "GET /a HTTP/1.0\r\n\r\n").await;
    let mut server = wire.accept().await;
    let head = hear(&mut server, END).await;
    assert!(head.starts_with("GET /a HTTP/1.1\r\n"), "{head}");
    say(
        &mut server,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    )
    .await;
    say(&mut server, "2\r\nok\r\n0\r\n\r\n").await;
    let mut answer = String::new();
    soon(wire.client.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(!answer.contains("transfer-encoding"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
}

#[tokio::test]
async fn targets_keep_their_form() {
    let mut wire = Wire::new().await;
    let mut server = None;
    for target in ["http://api/a?b=%20#", "*"] {
        let method = if target == "*" { "OPTIONS" } else { "GET" };
        let target = target.trim_end_matches('#');
        let head = format!("{method} {target} HTTP/1.1\r\nhost: api\r\n\r\n");
        say(&mut wire.client, &head).await;
        let server = match &mut server {
            Some(server) => server,
            None => server.insert(wire.accept().await),
        };
        let heard = hear(server, END).await;
        assert!(
            heard.starts_with(&format!("{method} {target} HTTP/1.1\r\n")),
            "{heard}"
        );
        say(server, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        hear(&mut wire.client, END).await;
    }
}

#[tokio::test]
async fn connect_opens_a_tunnel() {
    let mut wire = Wire::new().await;
    say(
        &mut wire.client,
        "CONNECT db:5432 HTTP/1.1\r\nhost: db:5432\r\n\r\n",
    )
    .await;
    let mut server = wire.accept().await;
    let heard = hear(&mut server, END).await;
    assert!(heard.starts_with("CONNECT db:5432 HTTP/1.1\r\n"), "{heard}");
    say(&mut server, "HTTP/1.1 200 OK\r\n\r\n").await;
    hear(&mut wire.client, END).await;
    say(&mut wire.client, "up").await;
    hear(&mut server, "up").await;
    say(&mut server, "down").await;
    hear(&mut wire.client, "down").await;
}

#[tokio::test]
async fn early_hints_do_not_end_an_exchange() {
    let mut wire = Wire::new().await;
    say(&mut wire.client, "GET /a HTTP/1.1\r\nhost: api\r\n\r\n").await;
    let mut server = wire.accept().await;
    hear(&mut server, END).await;
    say(
        &mut server,
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n",
    )
    .await;
    say(
        &mut server,
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    )
    .await;
    let answer = hear(&mut wire.client, "ok").await;
    assert!(answer.contains("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn a_broken_body_is_not_made_whole() {
    let mut wire = Wire::new().await;
    say(&mut wire.client, "GET /a HTTP/1.1\r\nhost: api\r\n\r\n").await;
    let mut server = wire.accept().await;
    hear(&mut server, END).await;
    say(
        &mut server,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    )
    .await;
    drop(server);
    let mut heard = Vec::new();
    let _ = soon(wire.client.read_to_end(&mut heard)).await;
    let heard = String::from_utf8(heard).unwrap();
    assert!(!heard.ends_with("0\r\n\r\n"), "{heard}");
}
