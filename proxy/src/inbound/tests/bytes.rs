//! Plaintext bytes, and TLS of the application's own.

use ::bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::detect::Verdict;
use crate::inbound::{in_time, read_verdict};
use crate::outcome::Outcome;
use crate::policy::{AllowList, MtlsMode, Protocol};
use crate::testing::foreign_hello;
use crate::testing::policies::inbound;
use crate::testing::servers::{Act, Refusing};

/// An application that the test plays.
async fn played(policy: InboundPolicy) -> (Sidecar, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = Sidecar::new(listener.local_addr().unwrap(), policy);
    (sidecar, listener)
}

async fn hear(tcp: &mut TcpStream, expected: &[u8]) {
    let mut heard = vec![0; expected.len()];
    soon(tcp.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, expected);
}

#[tokio::test]
async fn bytes_pass_where_plaintext_does() {
    let (sidecar, listener) = played(inbound(MtlsMode::Permissive)).await;
    let mut link = sidecar.dial().await;
    link.tcp.write_all(b"\0\x01bytes").await.unwrap();
    let (mut app, _) = soon(listener.accept()).await.unwrap();
    hear(&mut app, b"\0\x01bytes").await;
    link.tcp.shutdown().await.unwrap();
    assert_eq!(soon(app.read(&mut [0])).await.unwrap(), 0);
    app.write_all(b"half-open").await.unwrap();
    hear(&mut link.tcp, b"half-open").await;
    drop(app);
    soon(link.served).await.unwrap();
    let labels = [("outcome", "ok"), ("tls", "none"), ("peer", "unknown")];
    assert_eq!(sidecar.connections(&labels), 1);
    assert_eq!(sidecar.seats.settled(), 0);
}

#[tokio::test]
async fn tls_of_the_applications_own_passes_unless_strict() {
    let hello = foreign_hello("db.example");
    let (sidecar, listener) = played(inbound(MtlsMode::Permissive)).await;
    let mut link = sidecar.dial().await;
    link.tcp.write_all(&hello).await.unwrap();
    let (mut app, _) = soon(listener.accept()).await.unwrap();
    hear(&mut app, &hello).await;
    drop((app, link.tcp));
    soon(link.served).await.unwrap();
    assert_eq!(sidecar.connections(&[("sni", "db.example")]), 1);
    assert_eq!(sidecar.seats.settled(), 0);

    sidecar.tell(inbound(MtlsMode::Strict));
    let mut link = sidecar.dial().await;
    link.tcp.write_all(&hello).await.unwrap();
    soon(link.served).await.unwrap();
    assert_eq!(sidecar.connections(&[("outcome", "mtls_required")]), 1);
}

#[tokio::test]
async fn a_silent_client_is_greeted_where_anybody_may_come() {
    let (sidecar, listener) = played(inbound(MtlsMode::Permissive)).await;
    let mut link = sidecar.dial().await;
    let (mut app, _) = soon(listener.accept()).await.unwrap();
    app.write_all(b"220 hello").await.unwrap();
    hear(&mut link.tcp, b"220 hello").await;
    link.tcp.write_all(b"QUIT").await.unwrap();
    hear(&mut app, b"QUIT").await;
}

#[tokio::test]
async fn a_silent_client_may_turn_out_to_speak_http() {
    let app = Server::plain(|_, _| Act::ok("http")).await;
    let sidecar = Sidecar::before(&app, inbound(MtlsMode::Permissive));
    let link = sidecar.dial().await;
    let dialled = async {
        while app.connections() == 0 {
            tokio::task::yield_now().await;
        }
    };
    soon(dialled).await;
    let mut client = link.http1().await;
    client.get("/").await.assert_ok("http");
    assert!(app.seen()[0].headers.contains_key("x-request-id"));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_dialled_for_a_silent_client_that_must_prove_itself() {
    let nobody = AllowList {
        entries: Vec::new(),
        audit: false,
    };
    let mut authorized = inbound(MtlsMode::Permissive);
    authorized.authorization = vec![nobody];
    for policy in [inbound(MtlsMode::Strict), authorized] {
        let (sidecar, listener) = played(policy).await;
        let link = sidecar.dial().await;
        link.served.await.unwrap();
        let accepted = tokio::time::timeout(std::time::Duration::ZERO, listener.accept());
        assert!(accepted.await.is_err());
        assert_eq!(sidecar.connections(&[("outcome", "idle_timeout")]), 1);
    }
}

#[tokio::test]
async fn opaque_ports_are_not_looked_into() {
    let mut policy = inbound(MtlsMode::Permissive);
    policy.protocol = Protocol::Opaque;
    let (sidecar, listener) = played(policy).await;
    let mut link = sidecar.dial().await;
    link.tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let (mut app, _) = soon(listener.accept()).await.unwrap();
    hear(&mut app, b"GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(sidecar.seats.settled(), 0);
}

#[tokio::test]
async fn bytes_to_an_application_that_is_down_are_closed_and_counted() {
    let refusing = Refusing::new();
    let sidecar = Sidecar::new(refusing.address, inbound(MtlsMode::Permissive));
    let mut link = sidecar.dial().await;
    link.tcp.write_all(b"\0\x01bytes").await.unwrap();
    soon(link.served).await.unwrap();
    assert_eq!(sidecar.connections(&[("outcome", "connect_refused")]), 1);
}

#[tokio::test]
async fn a_reset_stays_a_reset() {
    let (sidecar, listener) = played(inbound(MtlsMode::Permissive)).await;
    let mut link = sidecar.dial().await;
    link.tcp.write_all(b"\0\x01bytes").await.unwrap();
    let (mut app, _) = soon(listener.accept()).await.unwrap();
    hear(&mut app, b"\0\x01bytes").await;
    app.set_zero_linger().unwrap();
    drop(app);
    let error = soon(link.tcp.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    soon(link.served).await.unwrap();
    assert_eq!(sidecar.connections(&[("outcome", "reset")]), 1);
}

#[tokio::test(start_paused = true)]
async fn a_step_that_was_begun_has_its_limit() {
    let (mut client, mut sidecar) = tokio::io::duplex(64);
    client.write_all(b"GET / HT").await.unwrap();
    let mut heard = BytesMut::new();
    let refused = in_time(read_verdict(&mut sidecar, &mut heard)).await;
    assert_eq!(refused.unwrap_err().outcome, Outcome::IdleTimeout);
    client.write_all(b"TP/1.1\r\n").await.unwrap();
    let verdict = in_time(read_verdict(&mut sidecar, &mut heard)).await;
    assert_eq!(verdict.unwrap(), Verdict::Http1);
}
