//! What is said to another sidecar, and what is believed of it.

use std::time::Duration;

use http::Method;
use tokio::io::AsyncReadExt;

use super::*;
use crate::identity::Alpn;
use crate::outcome::Outcome;
use crate::testing::clients::request;
use crate::testing::policies::{endpoint, retries, target};
use crate::testing::servers::{Act, Seen};
use crate::testing::soon;

/// A sidecar of the server's, as `api`; the client's sidecar knows it.
async fn meshed(
    target: ServiceTarget,
    answer: impl Fn(usize, &Seen) -> Act + Send + Sync + 'static,
) -> (Sidecar, Server) {
    let sidecar = Sidecar::new();
    let server = Server::mesh(sidecar.identity("api"), answer).await;
    let endpoints = vec![endpoint(server.address, Some(spiffe("api")))];
    sidecar.tell_endpoints("api", endpoints);
    sidecar.tell(target);
    (sidecar, server)
}

/// What an inbound sidecar says that could not hand a request to its application.
fn refused(nth: usize, _: &Seen) -> Act {
    let says = [
        ("x-weft-outcome", "connect_refused"),
        ("x-weft-origin", "inbound"),
    ];
    if nth == 1 {
        Act::with(503, "weft: connect_refused\n", &says)
    } else {
        Act::ok("fine")
    }
}

#[tokio::test]
async fn requests_travel_in_mesh_tls() {
    let (sidecar, server) = meshed(target("api", &["api"]), |_, _| Act::ok("fine")).await;
    let mut client = sidecar.http1().await;
    client.get("/").await.assert_ok("fine");
    client.get("/").await.assert_ok("fine");
    client.leave().await;
    assert_eq!(server.connections(), 1);
    let labels = [("tls", "mutual"), ("peer", "shop/api"), ("outcome", "ok")];
    assert_eq!(sidecar.requests(&labels), 2);
    let handshakes = [("direction", "outbound"), ("result", "ok")];
    let handshakes = count(&sidecar.telemetry, "weft_tls_handshakes_total", &handshakes);
    assert_eq!(handshakes, 1);
}

#[tokio::test]
async fn who_proves_to_be_somebody_else_sees_no_byte() {
    let sidecar = Sidecar::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let promised = endpoint(address, Some(spiffe("api")));
    sidecar.tell_endpoints("api", vec![promised]);
    sidecar.tell(target("api", &["api"]));
    let impostor = sidecar.identity("impostor");
    let serving = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        // In TLS 1.3 the server may be done before the client has refused it.
        let Ok((mut tls, ..)) = impostor.accept(tcp).await else {
            return Vec::new();
        };
        let mut heard = Vec::new();
        let _ = tls.read_to_end(&mut heard).await;
        heard
    });
    let mut client = sidecar.http1().await;
    let answer = client.post("/", "secret").await;
    answer.assert_made_by("outbound", Outcome::TlsFailed);
    assert_eq!(answer.status, 502);
    assert_eq!(soon(serving).await.unwrap(), b"");
    client.leave().await;
    assert_eq!(sidecar.requests(&[("outcome", "tls_failed")]), 1);
    let labels = [("direction", "outbound"), ("result", "wrong_identity")];
    assert!(count(&sidecar.telemetry, "weft_tls_handshakes_total", &labels) >= 1);
}

#[tokio::test]
async fn plaintext_is_never_used_instead() {
    let sidecar = Sidecar::new();
    let server = Server::plain(|_, _| Act::ok("in the clear")).await;
    let promised = endpoint(server.address, Some(spiffe("api")));
    sidecar.tell_endpoints("api", vec![promised]);
    let mut policy = target("api", &["api"]);
    policy.routes[0].retries = Some(retries());
    sidecar.tell(policy);
    let answer = sidecar.http1().await.get("/").await;
    answer.assert_made_by("outbound", Outcome::TlsFailed);
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn an_unknown_root_is_not_believed() {
    let sidecar = Sidecar::new();
    let stranger = Ca::new().identity(&spiffe("api"));
    let server = Server::mesh(stranger, |_, _| Act::ok("")).await;
    let promised = endpoint(server.address, Some(spiffe("api")));
    sidecar.tell_endpoints("api", vec![promised]);
    sidecar.tell(target("api", &["api"]));
    let answer = sidecar.http2().await.grpc("/shop.Cart/Get").await;
    answer.assert_made_by("outbound", Outcome::TlsFailed);
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn the_remaining_time_and_the_attempt_travel_to_verified_peers() {
    let mut policy = target("api", &["api"]);
    policy.routes[0].timeouts.request = Some(Duration::from_secs(60));
    policy.routes[0].retries = Some(retries());
    let (sidecar, server) = meshed(policy.clone(), |nth, _| {
        if nth == 1 {
            Act::status(503, "")
        } else {
            Act::ok("fine")
        }
    })
    .await;
    let forged = [("x-weft-deadline-ms", "1"), ("x-weft-attempt", "7")];
    let mut client = sidecar.http1().await;
    let get = request(Method::GET, "/", &forged, "");
    client.send(get).await.assert_ok("fine");
    let seen = server.seen();
    let left = |seen: &Seen| {
        let left = seen.headers["x-weft-deadline-ms"].to_str().unwrap();
        left.parse::<u64>().unwrap()
    };
    assert!((1_000..=60_000).contains(&left(&seen[0])), "{seen:?}");
    assert!(left(&seen[1]) <= left(&seen[0]));
    assert_eq!(seen[0].headers.get("x-weft-attempt"), None);
    assert_eq!(seen[1].headers["x-weft-attempt"], "2");

    // Without a timeout none is invented.
    policy.routes[0].timeouts.request = None;
    sidecar.tell(policy);
    client.get("/").await.assert_ok("fine");
    assert_eq!(server.seen()[2].headers.get("x-weft-deadline-ms"), None);
}

#[tokio::test]
async fn what_the_servers_sidecar_says_is_believed_and_passed_on() {
    let (sidecar, server) = meshed(target("api", &["api"]), |_, _| {
        let says = [
            ("x-weft-outcome", "unauthorized"),
            ("x-weft-origin", "inbound"),
        ];
        Act::with(403, "weft: unauthorized\n", &says)
    })
    .await;
    let mut client = sidecar.http1().await;
    let answer = client.get("/").await;
    answer.assert_made_by("inbound", Outcome::Unauthorized);
    assert_eq!(server.requests(), 1);
    client.leave().await;
    let labels = [("outcome", "unauthorized"), ("status", "403")];
    assert_eq!(sidecar.requests(&labels), 1);
}

#[tokio::test]
async fn what_was_not_handed_to_the_application_is_tried_elsewhere_for_every_method() {
    let mut policy = target("api", &["api"]);
    policy.routes[0].retries = Some(retries());
    for http2 in [false, true] {
        let (sidecar, server) = meshed(policy.clone(), refused).await;
        let mut client = if http2 {
            sidecar.http2().await
        } else {
            sidecar.http1().await
        };
        client.post("/", "body").await.assert_ok("fine");
        assert_eq!(server.requests(), 2);
        assert_eq!(server.seen()[1].body, "body");
    }

    // Not where policy does not retry.
    let (sidecar, _server) = meshed(target("api", &["api"]), refused).await;
    let answer = sidecar.http1().await.post("/", "body").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("x-weft-origin"), Some("inbound"));
}

#[tokio::test]
async fn one_connection_for_all_streams() {
    let (sidecar, server) = meshed(target("api", &["api"]), |_, _| Act::grpc(0)).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(sidecar.http2().await);
    }
    for client in &mut clients {
        let answer = client.grpc("/shop.Cart/Get").await;
        assert_eq!(answer.trailers["grpc-status"], "0");
    }
    assert_eq!((server.requests(), server.connections()), (4, 1));
}

#[tokio::test]
async fn a_grpc_status_in_trailers_is_the_breakers_verdict() {
    let mut policy = target("api", &["api"]);
    let breaker = crate::testing::policies::breaker(crate::policy::BreakerScope::Backend);
    policy.backends[0].circuit_breaker = Some(breaker);
    let (sidecar, server) = meshed(policy, |_, _| Act::grpc(14)).await;
    let mut client = sidecar.http2().await;
    let answer = client.grpc("/shop.Cart/Get").await;
    assert_eq!(answer.trailers["grpc-status"], "14");
    let answer = client.grpc("/shop.Cart/Get").await;
    answer.assert_made_by("outbound", Outcome::CircuitOpen);
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn an_upgraded_connection_is_bytes_both_ways() {
    let sidecar = Sidecar::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let promised = endpoint(listener.local_addr().unwrap(), Some(spiffe("api")));
    sidecar.tell_endpoints("api", vec![promised]);
    sidecar.tell(target("api", &["api"]));
    let identity = sidecar.identity("api");
    let mut link = sidecar.dial(api()).await;
    let asks = "GET /chat HTTP/1.1\r\nhost: api\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut link.tcp, asks.as_bytes())
        .await
        .unwrap();
    let (tcp, _) = soon(listener.accept()).await.unwrap();
    let (mut tls, _, alpn) = soon(identity.accept(tcp)).await.unwrap();
    assert_eq!(alpn, Alpn::Http1);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(tls.read_u8()).await.unwrap());
    }
    let grants = b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nfirst";
    use tokio::io::AsyncWriteExt as _;
    tls.write_all(grants).await.unwrap();
    tls.flush().await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"\r\n\r\nfirst") {
        heard.push(soon(link.tcp.read_u8()).await.unwrap());
    }
    link.tcp.write_all(b"ping").await.unwrap();
    let mut ping = [0; 4];
    soon(tls.read_exact(&mut ping)).await.unwrap();
    assert_eq!(&ping, b"ping");
    tls.shutdown().await.unwrap();
    link.tcp.shutdown().await.unwrap();
    let tracked = &sidecar.outbound.shared().connections;
    tracked.close();
    soon(tracked.wait()).await;
    assert_eq!(sidecar.requests(&[("outcome", "ok"), ("status", "101")]), 1);
}
