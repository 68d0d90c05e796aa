//! Connections that are bytes to us, and how they are told from requests.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::identity::Alpn;
use crate::policy::Protocol;
use crate::testing::foreign_hello;
use crate::testing::policies::{endpoint, target};
use crate::testing::servers::{Act, Refusing};
use crate::testing::soon;

/// A service at a listener that the test plays.
async fn played(protocol: Protocol) -> (Sidecar, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut policy = target("api", &["api"]);
    policy.protocol = protocol;
    let endpoints = vec![endpoint(listener.local_addr().unwrap(), None)];
    (Sidecar::knowing(policy, endpoints), listener)
}

async fn accept(listener: &TcpListener) -> TcpStream {
    soon(listener.accept()).await.unwrap().0
}

async fn hear(tcp: &mut TcpStream, expected: &[u8]) {
    let mut heard = vec![0; expected.len()];
    soon(tcp.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, expected);
}

#[tokio::test]
async fn opaque_bytes_go_both_ways_with_half_close() {
    let (sidecar, listener) = played(Protocol::Opaque).await;
    let mut link = sidecar.dial(api()).await;
    let mut server = accept(&listener).await;
    // What looks like HTTP is bytes as well.
    link.tcp.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    hear(&mut server, b"GET / HTTP/1.1\r\n").await;
    link.tcp.shutdown().await.unwrap();
    let mut rest = Vec::new();
    soon(server.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
    server.write_all(b"still here").await.unwrap();
    drop(server);
    soon(link.tcp.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"still here");
    soon(link.served).await.unwrap();
    let labels = [
        ("direction", "outbound"),
        ("service", "shop/api:80"),
        ("backend", "shop/api:80"),
        ("outcome", "ok"),
    ];
    assert_eq!(sidecar.connections(&labels), 1);
    assert_eq!(
        count(&sidecar.telemetry, "weft_tcp_read_bytes_total", &[]),
        16
    );
    assert_eq!(
        count(&sidecar.telemetry, "weft_tcp_write_bytes_total", &[]),
        10
    );
    assert_eq!(sidecar.seats.settled(), 0);
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_and_remembered() {
    let (sidecar, listener) = played(Protocol::Detect).await;
    let mut link = sidecar.dial(api()).await;
    let mut server = accept(&listener).await;
    server.write_all(b"220 hello\r\n").await.unwrap();
    hear(&mut link.tcp, b"220 hello\r\n").await;
    link.tcp.write_all(b"QUIT\r\n").await.unwrap();
    hear(&mut server, b"QUIT\r\n").await;

    // From now on nothing is read before the server is dialled, not even HTTP.
    let mut link = sidecar.dial(api()).await;
    link.tcp.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let mut server = accept(&listener).await;
    hear(&mut server, b"GET / HTTP/1.1\r\n").await;
}

#[tokio::test]
async fn a_server_that_only_leaves_has_not_spoken() {
    let (sidecar, listener) = played(Protocol::Detect).await;
    let mut link = sidecar.dial(api()).await;
    drop(accept(&listener).await);
    assert_eq!(soon(link.tcp.read(&mut [0; 1])).await.unwrap(), 0);

    // The next client is listened to as before: what it says is read before anybody is dialled.
    let mut link = sidecar.dial(api()).await;
    link.tcp
        .write_all(b"GET /next HTTP/1.1\r\nhost: api\r\n\r\n")
        .await
        .unwrap();
    let mut server = accept(&listener).await;
    let mut heard = vec![0; 256];
    let length = soon(server.read(&mut heard)).await.unwrap();
    let heard = String::from_utf8_lossy(&heard[..length]).into_owned();
    assert!(heard.contains("x-request-id"), "taken for bytes: {heard}");
}

#[tokio::test]
async fn silence_is_no_verdict() {
    let server = Server::plain(|_, _| Act::ok("http")).await;
    let sidecar = Sidecar::knowing(target("api", &["api"]), at(&[&server]));
    let mut link = sidecar.dial(api()).await;
    // The sidecar has dialled, so that the silence was noticed.
    let dialled = async {
        while server.connections() == 0 {
            tokio::task::yield_now().await;
        }
    };
    soon(dialled).await;
    link.tcp
        .write_all(b"GET /slow HTTP/1.1\r\nhost: api\r\n\r\n")
        .await
        .unwrap();
    let mut heard = [0; 12];
    soon(link.tcp.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"HTTP/1.1 200");
    assert_eq!(server.seen()[0].path, "/slow");
    assert!(server.seen()[0].headers.contains_key("x-request-id"));
    // Nothing was remembered.
    sidecar.http1().await.get("/").await.assert_ok("http");
    assert!(server.seen()[1].headers.contains_key("x-request-id"));
}

#[tokio::test]
async fn a_port_on_which_servers_speak_first_is_not_waited_on() {
    let (sidecar, listener) = played(Protocol::Detect).await;
    let mysql: SocketAddr = "10.96.0.1:3306".parse().unwrap();
    let mut policy = target("api", &["api"]);
    policy.service.port = 3306;
    let policy = OutboundTarget::Service(Arc::new(policy));
    sidecar.discovery.tell_outbound(mysql, policy);
    let mut link = sidecar.dial(mysql).await;
    let mut server = accept(&listener).await;
    server.write_all(b"5.7").await.unwrap();
    hear(&mut link.tcp, b"5.7").await;
}

#[tokio::test]
async fn bytes_that_come_in_pieces_are_read_on() {
    let server = Server::plain(|_, _| Act::ok("whole")).await;
    let sidecar = Sidecar::knowing(target("api", &["api"]), at(&[&server]));
    let mut link = sidecar.dial(api()).await;
    for piece in ["GE", "T / HT", "TP/1.1\r\nhost: a", "pi\r\n\r\n"] {
        link.tcp.write_all(piece.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut heard = [0; 12];
    soon(link.tcp.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"HTTP/1.1 200");

    // What cannot become HTTP is bytes.
    let (sidecar, listener) = played(Protocol::Detect).await;
    let mut link = sidecar.dial(api()).await;
    link.tcp.write_all(b"\x16\x03\x01 not ours").await.unwrap();
    let mut server = accept(&listener).await;
    hear(&mut server, b"\x16\x03\x01 not ours").await;
}

#[tokio::test]
async fn half_a_preface_may_be_anything() {
    let (sidecar, listener) = played(Protocol::Detect).await;
    for sent in [&b"PRI * HTT and so on"[..], b"PRI * HTTP/2.0\r\n\r\nXX"] {
        let mut link = sidecar.dial(api()).await;
        for piece in sent.chunks(9) {
            link.tcp.write_all(piece).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let mut server = accept(&listener).await;
        hear(&mut server, sent).await;
        server.write_all(b"what?").await.unwrap();
        hear(&mut link.tcp, b"what?").await;
    }
}

#[tokio::test]
async fn the_server_name_of_a_clients_own_tls_is_told() {
    let (sidecar, listener) = played(Protocol::Detect).await;
    let hello = foreign_hello("shop.example");
    let mut link = sidecar.dial(api()).await;
    for piece in hello.chunks(100) {
        link.tcp.write_all(piece).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let mut server = accept(&listener).await;
    hear(&mut server, &hello).await;
    drop((server, link.tcp));
    soon(link.served).await.unwrap();
    let labels = [("service", "shop/api:80"), ("sni", "shop.example")];
    assert_eq!(sidecar.connections(&labels), 1);
}

#[tokio::test]
async fn a_refused_connection_is_tried_elsewhere() {
    let (sidecar, listener) = played(Protocol::Opaque).await;
    let refusing = Refusing::new();
    let open = endpoint(listener.local_addr().unwrap(), None);
    let closed = endpoint(refusing.address, None);
    sidecar.tell_endpoints("api", vec![closed, open]);
    for _ in 0..2 {
        let mut link = sidecar.dial(api()).await;
        let mut server = accept(&listener).await;
        link.tcp.write_all(b"ping").await.unwrap();
        hear(&mut server, b"ping").await;
    }
}

#[tokio::test]
async fn what_nobody_takes_is_closed_and_counted() {
    let (sidecar, _listener) = played(Protocol::Opaque).await;
    let refusing = Refusing::new();
    for (endpoints, outcome) in [
        (Vec::new(), "no_endpoints"),
        (vec![endpoint(refusing.address, None)], "connect_refused"),
    ] {
        sidecar.tell_endpoints("api", endpoints);
        let mut link = sidecar.dial(api()).await;
        assert_eq!(soon(link.tcp.read(&mut [0])).await.unwrap(), 0);
        soon(link.served).await.unwrap();
        assert_eq!(sidecar.connections(&[("outcome", outcome)]), 1);
    }
}

#[tokio::test]
async fn bytes_to_a_workload_of_the_mesh_are_encrypted() {
    let (sidecar, listener) = played(Protocol::Opaque).await;
    let address = listener.local_addr().unwrap();
    sidecar.tell_endpoints("api", vec![endpoint(address, Some(spiffe("api")))]);
    let mut link = sidecar.dial(api()).await;
    let tcp = accept(&listener).await;
    let identity = sidecar.identity("api");
    let (mut tls, peer, alpn) = soon(identity.accept(tcp)).await.unwrap();
    assert_eq!((peer, alpn), (spiffe("web"), Alpn::Tcp));
    link.tcp.write_all(b"ping").await.unwrap();
    let mut heard = [0; 4];
    soon(tls.read_exact(&mut heard)).await.unwrap();
    tls.write_all(b"pong").await.unwrap();
    tls.flush().await.unwrap();
    hear(&mut link.tcp, b"pong").await;
    // A clean end goes through, both ways.
    tls.shutdown().await.unwrap();
    assert_eq!(soon(link.tcp.read(&mut [0])).await.unwrap(), 0);
    drop(link.tcp);
    assert_eq!(soon(tls.read(&mut [0])).await.unwrap(), 0);
    soon(link.served).await.unwrap();
    let labels = [("tls", "mutual"), ("peer", "shop/api"), ("outcome", "ok")];
    assert_eq!(sidecar.connections(&labels), 1);
}

#[tokio::test]
async fn the_end_of_the_sidecar_cuts() {
    let (sidecar, listener) = played(Protocol::Opaque).await;
    let mut link = sidecar.dial(api()).await;
    let mut server = accept(&listener).await;
    link.tcp.write_all(b"ping").await.unwrap();
    hear(&mut server, b"ping").await;
    sidecar.closing.advance(closing::Phase::Draining);
    server.write_all(b"pong").await.unwrap();
    hear(&mut link.tcp, b"pong").await;
    sidecar.closing.advance(closing::Phase::Over);
    soon(link.served).await.unwrap();
    assert_eq!(sidecar.connections(&[("outcome", "shed")]), 1);
}

#[tokio::test]
async fn a_truncated_stream_does_not_look_whole() {
    // A sidecar that is cut off sends no close_notify.
    let (sidecar, listener) = played(Protocol::Opaque).await;
    let address = listener.local_addr().unwrap();
    sidecar.tell_endpoints("api", vec![endpoint(address, Some(spiffe("api")))]);
    let mut link = sidecar.dial(api()).await;
    let tcp = accept(&listener).await;
    let identity = sidecar.identity("api");
    let (mut tls, ..) = soon(identity.accept(tcp)).await.unwrap();
    tls.write_all(b"half of").await.unwrap();
    tls.flush().await.unwrap();
    hear(&mut link.tcp, b"half of").await;
    drop(tls);
    let error = soon(link.tcp.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    soon(link.served).await.unwrap();
    assert_eq!(sidecar.connections(&[("outcome", "reset")]), 1);

    // In the clear a reset stays a reset, both ways.
    sidecar.tell_endpoints("api", vec![endpoint(address, None)]);
    for reset_by_server in [true, false] {
        let mut link = sidecar.dial(api()).await;
        let mut server = accept(&listener).await;
        server.write_all(b"half of").await.unwrap();
        hear(&mut link.tcp, b"half of").await;
        let (broken, mut other) = if reset_by_server {
            (server, link.tcp)
        } else {
            (link.tcp, server)
        };
        broken.set_zero_linger().unwrap();
        drop(broken);
        let error = soon(other.read(&mut [0])).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        soon(link.served).await.unwrap();
    }
}
