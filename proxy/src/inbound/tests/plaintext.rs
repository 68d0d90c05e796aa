//! Requests in the clear: what passes, and what is said to what does not.

use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::outcome::Outcome;
use crate::policy::{AllowEntry, AllowList, MtlsMode, Principal, Probe};
use crate::testing::clients::request;
use crate::testing::policies::inbound;
use crate::testing::servers::{Act, Refusing};

async fn app() -> Server {
    Server::plain(|_, _| Act::ok("app")).await
}

#[tokio::test]
async fn strict_tells_http_clients_so() {
    let app = app().await;
    let sidecar = Sidecar::before(&app, inbound(MtlsMode::Strict));
    let mut client = sidecar.dial().await.http1().await;
    let answer = client.get("/").await;
    answer.assert_made_by("inbound", Outcome::MtlsRequired);
    assert_eq!(answer.status, 403);
    client.leave().await;
    let answer = sidecar.dial().await.http2().await.grpc("/a.B/C").await;
    answer.assert_made_by("inbound", Outcome::MtlsRequired);
    assert_eq!(app.connections(), 0, "the application is left alone");
    let labels = [
        ("direction", "inbound"),
        ("service", "shop/api:80"),
        ("peer", "unknown"),
        ("tls", "none"),
        ("outcome", "mtls_required"),
        ("status", "403"),
    ];
    assert_eq!(sidecar.requests(&labels), 1);
    assert_eq!(sidecar.seats.settled(), 2);
}

#[tokio::test]
async fn declared_probes_pass_strict_and_are_counted() {
    let app = app().await;
    let mut policy = inbound(MtlsMode::Strict);
    policy.authorization = vec![AllowList {
        entries: Vec::new(),
        audit: false,
    }];
    policy.probes = vec![Probe {
        path: "/healthz".into(),
        method: Method::GET,
    }];
    let sidecar = Sidecar::before(&app, policy);
    let mut client = sidecar.dial().await.http1().await;
    client.get("/healthz").await.assert_ok("app");
    client.get("/healthz?verbose").await.assert_ok("app");
    let exempt = || count(&sidecar.telemetry, "weft_plaintext_exempt_total", &[]);
    assert_eq!(exempt(), 2);
    for path in ["/healthz/", "/healthz/..", "/", "//healthz"] {
        let answer = client.get(path).await;
        answer.assert_made_by("inbound", Outcome::MtlsRequired);
    }
    let answer = client.post("/healthz", "").await;
    answer.assert_made_by("inbound", Outcome::MtlsRequired);
    assert_eq!((exempt(), app.requests()), (2, 2));
}

#[tokio::test]
async fn strict_closes_what_is_not_http() {
    let app = app().await;
    let sidecar = Sidecar::before(&app, inbound(MtlsMode::Strict));
    let mut link = sidecar.dial().await;
    link.tcp.write_all(b"\0\x01garbage").await.unwrap();
    soon(link.served).await.unwrap();
    // Closed, or reset because of what was not read.
    let read = soon(link.tcp.read(&mut [0])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert_eq!(app.connections(), 0);
    assert_eq!(sidecar.connections(&[("outcome", "mtls_required")]), 1);
}

#[tokio::test]
async fn permissive_and_disabled_serve_plaintext() {
    for mode in [MtlsMode::Permissive, MtlsMode::Disabled] {
        let app = app().await;
        let sidecar = Sidecar::before(&app, inbound(mode));
        let mut client = sidecar.dial().await.http1().await;
        let forged = [("x-weft-deadline-ms", "0"), ("x-weft-attempt", "7")];
        let get = request(Method::GET, "/", &forged, "");
        client.send(get).await.assert_ok("app");
        let seen = app.seen();
        let ours = |name: &&http::HeaderName| name.as_str().starts_with("x-weft-");
        assert_eq!(seen[0].headers.keys().find(ours), None);
        client.leave().await;
        let labels = [("outcome", "ok"), ("tls", "none"), ("peer", "unknown")];
        assert_eq!(sidecar.requests(&labels), 1);
    }
}

#[tokio::test]
async fn permissive_does_not_weaken_authorization() {
    let app = app().await;
    let mut policy = inbound(MtlsMode::Permissive);
    policy.authorization = vec![AllowList {
        entries: vec![AllowEntry {
            principals: vec![Principal::Prefix("".into())],
            methods: Vec::new(),
            paths: Vec::new(),
        }],
        audit: false,
    }];
    let sidecar = Sidecar::before(&app, policy);
    let answer = sidecar.dial().await.http1().await.get("/").await;
    answer.assert_made_by("inbound", Outcome::Unauthorized);
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn what_the_application_forges_is_stripped() {
    let app = Server::plain(|_, _| {
        let forged = [("x-weft-outcome", "shed"), ("x-weft-origin", "inbound")];
        Act::with(200, "mine", &forged)
    })
    .await;
    let sidecar = Sidecar::before(&app, inbound(MtlsMode::Permissive));
    let answer = sidecar.dial().await.http1().await.get("/").await;
    answer.assert_ok("mine");
    assert_eq!(answer.header("x-weft-origin"), None);
}

#[tokio::test]
async fn an_application_that_is_down_is_told_of() {
    let refusing = Refusing::new();
    let sidecar = Sidecar::new(refusing.address, inbound(MtlsMode::Permissive));
    let mut client = sidecar.dial().await.http1().await;
    let answer = client.get("/").await;
    answer.assert_made_by("inbound", Outcome::ConnectRefused);
    assert_eq!(answer.status, 503);
    let answer = sidecar.dial().await.http2().await.grpc("/a.B/C").await;
    answer.assert_made_by("inbound", Outcome::ConnectRefused);
}

#[tokio::test]
async fn a_client_that_leaves_is_counted() {
    let app = Server::plain(|_, _| Act::Hang).await;
    let sidecar = Sidecar::before(&app, inbound(MtlsMode::Permissive));
    let mut client = sidecar.dial().await.http2().await;
    let reached = async {
        while app.requests() == 0 {
            tokio::task::yield_now().await;
        }
    };
    let call = request(Method::GET, "http://api/", &[], "");
    tokio::select! {
        answer = client.try_send(call) => panic!("{answer:?}"),
        () = soon(reached) => {}
    }
    client.leave().await;
    let gone = [("outcome", "client_gone"), ("status", "499")];
    assert_eq!(sidecar.requests(&gone), 1);
}

#[tokio::test]
async fn an_edit_holds_for_the_next_request() {
    let app = app().await;
    let sidecar = Sidecar::before(&app, inbound(MtlsMode::Permissive));
    let mut client = sidecar.dial().await.http1().await;
    client.get("/").await.assert_ok("app");
    sidecar.tell(inbound(MtlsMode::Strict));
    let answer = client.get("/").await;
    answer.assert_made_by("inbound", Outcome::MtlsRequired);
}

#[tokio::test]
async fn connections_that_are_none_of_this_workloads_are_closed() {
    let app = app().await;
    let sidecar = Sidecar::before(&app, inbound(MtlsMode::Permissive));
    let other: SocketAddr = ([10, 1, 0, 8], app.address.port()).into();
    for link in [
        sidecar.dial_to(Fixed(other)).await,
        sidecar.dial_to(crate::net::Redirected).await,
    ] {
        let Link { mut tcp, served } = link;
        assert_eq!(soon(tcp.read(&mut [0])).await.unwrap(), 0);
        soon(served).await.unwrap();
    }
    assert_eq!(app.connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_decided_before_policy_is_known() {
    let app = app().await;
    let sidecar = Sidecar::untold(app.address);
    let started = tokio::time::Instant::now();
    let mut link = sidecar.dial().await;
    link.served.await.unwrap();
    assert!(started.elapsed() >= crate::inbound::POLICY_WAIT);
    assert_eq!(link.tcp.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(app.connections(), 0);
    assert_eq!(sidecar.connections(&[("outcome", "config_unavailable")]), 1);
}

#[tokio::test]
async fn policy_that_comes_in_time_is_followed() {
    let app = app().await;
    let sidecar = Sidecar::untold(app.address);
    let mut client = sidecar.dial().await.http1().await;
    let (answer, ()) = tokio::join!(client.get("/"), async {
        tokio::task::yield_now().await;
        sidecar.tell(inbound(MtlsMode::Strict));
    });
    answer.assert_made_by("inbound", Outcome::MtlsRequired);
}

#[tokio::test(start_paused = true)]
async fn who_says_too_little_for_too_long_is_closed() {
    let app = app().await;
    let sidecar = Sidecar::before(&app, inbound(MtlsMode::Strict));
    let mut link = sidecar.dial().await;
    link.tcp.write_all(b"GET").await.unwrap();
    link.served.await.unwrap();
    assert_eq!(app.connections(), 0);
    assert_eq!(sidecar.connections(&[("outcome", "idle_timeout")]), 1);
}
