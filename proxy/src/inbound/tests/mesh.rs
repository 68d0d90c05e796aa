//! Callers who proved who they are.

use std::time::Duration;

use http::Method;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;

use super::*;
use crate::inbound::request::CUT_MARGIN;
use crate::outcome::Outcome;
use crate::policy::{AllowEntry, AllowList, MtlsMode, Principal, Protocol};
use crate::testing::clients::{Answer, request};
use crate::testing::policies::inbound;
use crate::testing::servers::{Act, Refusing};
use crate::testing::{settle, stop_clock, until};

/// Allows `web` to GET below `/cart`.
fn only_web_gets_the_cart() -> InboundPolicy {
    let mut policy = inbound(MtlsMode::Strict);
    policy.authorization = vec![AllowList {
        entries: vec![AllowEntry {
            principals: vec![Principal::Exact(spiffe("web").as_str().into())],
            methods: vec![Method::GET, Method::POST],
            paths: vec!["/cart".into(), "/shop.Cart".into()],
        }],
        audit: false,
    }];
    policy
}

async fn app() -> Server {
    Server::plain(|_, seen| match seen.headers.get("content-type") {
        Some(_) => Act::grpc(0),
        None => Act::ok("app"),
    })
    .await
}

#[tokio::test]
async fn requests_of_both_versions_arrive() {
    let app = app().await;
    let sidecar = Sidecar::before(&app, inbound(MtlsMode::Strict));
    let mut client = sidecar.http1_as("web").await;
    client.get("/cart").await.assert_ok("app");
    client.leave().await;
    let mut client = sidecar.http2_as("web").await;
    let answer = client.grpc("/shop.Cart/Get").await;
    assert_eq!(answer.trailers["grpc-status"], "0");
    client.leave().await;
    let versions: Vec<_> = app.seen().iter().map(|seen| seen.version).collect();
    assert_eq!(versions, [http::Version::HTTP_11, http::Version::HTTP_2]);
    let labels = [("tls", "mutual"), ("peer", "shop/web"), ("outcome", "ok")];
    assert_eq!(sidecar.requests(&labels), 2);
    let handshakes = [("direction", "inbound"), ("result", "ok")];
    let handshakes = count(&sidecar.telemetry, "weft_tls_handshakes_total", &handshakes);
    assert_eq!(handshakes, 2);
    assert_eq!(sidecar.seats.settled(), 2);
}

#[tokio::test]
async fn clients_addresses_are_told_where_that_is_asked_for() {
    let app = app().await;
    for (asked, told) in [
        (ForwardedFor::Keep, &["192.0.2.1", "192.0.2.2"][..]),
        (ForwardedFor::Append, &["192.0.2.1, 192.0.2.2, 127.0.0.1"]),
    ] {
        let sidecar = Sidecar::with(app.address, AgeCap::OFF, asked);
        sidecar.tell(inbound(MtlsMode::Permissive));
        let mesh = [
            sidecar.http1_as("web").await,
            sidecar.http2_as("web").await,
            sidecar.dial().await.http1().await,
        ];
        for mut client in mesh {
            let others = [
                ("forwarded", "for=192.0.2.1"),
                ("x-forwarded-proto", "https"),
            ];
            let mut asking = request(Method::GET, "/", &others, "");
            for before in ["192.0.2.1", "192.0.2.2"] {
                let before = before.parse().unwrap();
                asking.headers_mut().append("x-forwarded-for", before);
            }
            client.send(asking).await;
            let seen = app.seen().pop().unwrap().headers;
            let lists: Vec<_> = seen.get_all("x-forwarded-for").iter().collect();
            assert_eq!(lists, told);
            for (name, value) in others {
                assert_eq!(seen[name], value);
            }
        }
    }
}

#[tokio::test]
async fn only_connections_of_sidecars_become_too_old() {
    let app = app().await;
    let at_once = AgeCap::about(Duration::from_micros(1));
    let sidecar = Sidecar::with(app.address, at_once, ForwardedFor::default());
    let mut policy = only_web_gets_the_cart();
    policy.mtls = MtlsMode::Permissive;
    sidecar.tell(policy);
    let mut pooled = sidecar.http1_as("web").await;
    let answer = pooled.get("/cart").await;
    answer.assert_ok("app");
    assert_eq!(answer.headers["connection"], "close");

    // An application's own that is carried as bytes, and one from outside.
    let (tls, served) = sidecar.dial_as("web", Alpn::Tcp).await;
    let mut carried = Http::over(tls, false, served).await;
    let mut outside = sidecar.dial().await.http1().await;
    for _ in 0..2 {
        let answer = carried.get("/cart").await;
        answer.assert_ok("app");
        assert!(!answer.headers.contains_key("connection"));
        let answer = outside.get("/cart").await;
        assert_eq!(answer.status, 403);
        assert!(!answer.headers.contains_key("connection"));
    }
}

#[tokio::test]
async fn who_is_not_allowed_is_told_so() {
    let app = app().await;
    let sidecar = Sidecar::before(&app, only_web_gets_the_cart());
    let mut web = sidecar.http1_as("web").await;
    web.get("/cart/1").await.assert_ok("app");
    let answer = web.get("/admin").await;
    answer.assert_made_by("inbound", Outcome::Unauthorized);
    assert_eq!(answer.status, 403);
    let answer = web.get("/cart/../admin").await;
    answer.assert_made_by("inbound", Outcome::Unauthorized);
    let delete = request(Method::DELETE, "/cart", &[], "");
    let answer = web.send(delete).await;
    answer.assert_made_by("inbound", Outcome::Unauthorized);
    assert_eq!(app.requests(), 1);

    let mut job = sidecar.http2_as("job").await;
    let answer = job.grpc("/shop.Cart/Get").await;
    answer.assert_made_by("inbound", Outcome::Unauthorized);
    assert_eq!(app.requests(), 1);
    job.leave().await;
    let labels = [
        ("peer", "shop/job"),
        ("outcome", "unauthorized"),
        ("grpc_status", "7"),
    ];
    assert_eq!(sidecar.requests(&labels), 1);
}

#[tokio::test]
async fn an_audit_denies_nothing() {
    let app = app().await;
    let mut policy = only_web_gets_the_cart();
    policy.authorization[0].audit = true;
    let sidecar = Sidecar::before(&app, policy);
    let mut job = sidecar.http1_as("job").await;
    job.get("/admin").await.assert_ok("app");
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_dropped() {
    let app = app().await;
    let sidecar = Sidecar::before(&app, inbound(MtlsMode::Strict));
    let mut client = sidecar.http1_as("web").await;
    let late = request(Method::GET, "/", &[("x-weft-deadline-ms", "0")], "");
    let answer = client.send(late).await;
    answer.assert_made_by("inbound", Outcome::RequestTimeout);
    assert_eq!(app.connections(), 0);
    let early = request(Method::GET, "/", &[("x-weft-deadline-ms", "60000")], "");
    client.send(early).await.assert_ok("app");
    let seen = app.seen();
    assert_eq!(seen[0].headers.get("x-weft-deadline-ms"), None);
}

const MILLISECOND: Duration = Duration::from_millis(1);
/// What the caller's sidecar says that it waits.
const CALLERS_TIME: Duration = Duration::from_millis(250);
/// Over HTTP/2 or not, and what is called.
const CALLS: [(bool, &str); 4] = [
    (false, "/held"),
    (true, "/held"),
    (false, "/begun"),
    (true, "/begun"),
];

/// Never answers `/held`, and begins an answer of `/begun` that it never ends.
async fn stuck() -> Server {
    Server::plain(|_, seen| match &*seen.path {
        "/begun" => Act::slow(&[], CALLERS_TIME * 1_000),
        _ => Act::Hang,
    })
    .await
}

/// A caller of `app` over either version, under way; the clock stands still.
async fn calling(
    sidecar: &Sidecar,
    app: &Server,
    http2: bool,
    path: &str,
) -> JoinHandle<hyper::Result<Answer>> {
    let (mut client, origin) = if http2 {
        (sidecar.http2_as("web").await, "http://api")
    } else {
        (sidecar.http1_as("web").await, "")
    };
    let left = CALLERS_TIME.as_millis().to_string();
    let said = [("x-weft-deadline-ms", &*left)];
    let call = request(Method::GET, &format!("{origin}{path}"), &said, "");
    let before = app.requests();
    let call = tokio::spawn(async move { client.try_send(call).await });
    until("the request", || app.requests() > before).await;
    settle().await;
    call
}

/// The caller's sidecar answers its client; to this one it is a caller who has gone.
#[tokio::test]
async fn a_caller_who_cuts_at_its_deadline_makes_no_error_here() {
    let app = stuck().await;
    let sidecar = Sidecar::before(&app, inbound(MtlsMode::Strict));
    let _clock = stop_clock();
    let mut gone = 0;
    for (http2, path) in CALLS {
        let call = calling(&sidecar, &app, http2, path).await;
        tokio::time::advance(CALLERS_TIME + CUT_MARGIN.saturating_sub(MILLISECOND)).await;
        settle().await;
        call.abort();
        gone += 1;
        let counted = || sidecar.requests(&[("outcome", "client_gone")]) == gone;
        until("the cut", counted).await;
    }
    assert_eq!(sidecar.requests(&[]), gone, "and nothing else");
}

#[tokio::test]
async fn the_callers_deadline_ends_what_nobody_cuts() {
    let app = stuck().await;
    let sidecar = Sidecar::before(&app, inbound(MtlsMode::Strict));
    let _clock = stop_clock();
    let mut ended = 0;
    for (http2, path) in CALLS {
        let call = calling(&sidecar, &app, http2, path).await;
        // Timers go by milliseconds.
        tokio::time::advance(CALLERS_TIME + CUT_MARGIN + MILLISECOND).await;
        let answer = soon(call).await.unwrap();
        match path {
            "/held" => answer
                .unwrap()
                .assert_made_by("inbound", Outcome::RequestTimeout),
            _ => assert!(answer.is_err(), "{answer:?}"),
        }
        ended += 1;
        let counted = || sidecar.requests(&[("outcome", "request_timeout")]) == ended;
        until("the end", counted).await;
    }
    assert_eq!(sidecar.requests(&[]), ended, "and nothing else");
}

#[tokio::test]
async fn an_application_that_is_down_is_told_of() {
    let refusing = Refusing::new();
    let sidecar = Sidecar::new(refusing.address, inbound(MtlsMode::Strict));
    let mut client = sidecar.http1_as("web").await;
    let answer = client.post("/", "body").await;
    answer.assert_made_by("inbound", Outcome::ConnectRefused);
}

#[tokio::test]
async fn a_byte_stream_grants_nothing_on_a_port_with_request_rules() {
    let app = app().await;
    let sidecar = Sidecar::before(&app, only_web_gets_the_cart());
    // HTTP is found, and each request decided.
    let (tls, served) = sidecar.dial_as("web", Alpn::Tcp).await;
    let mut client = Http::over(tls, false, served).await;
    client.get("/cart").await.assert_ok("app");
    let answer = client.get("/admin").await;
    answer.assert_made_by("inbound", Outcome::Unauthorized);
    let (tls, served) = sidecar.dial_as("web", Alpn::Tcp).await;
    let mut client = Http::over(tls, true, served).await;
    let answer = client.grpc("/shop.Cart/Get").await;
    assert_eq!(answer.trailers["grpc-status"], "0");
    let made = app.connections();

    // Anything else is refused before the application is dialled.
    let (mut tls, served) = sidecar.dial_as("web", Alpn::Tcp).await;
    tls.write_all(b"\0\x01garbage").await.unwrap();
    tls.flush().await.unwrap();
    soon(served).await.unwrap();
    assert_eq!(app.connections(), made);
    let labels = [("outcome", "unauthorized"), ("peer", "shop/web")];
    assert_eq!(sidecar.connections(&labels), 1);
}

#[tokio::test]
async fn bytes_arrive_where_no_rule_looks_into_requests() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut policy = inbound(MtlsMode::Strict);
    policy.protocol = Protocol::Opaque;
    let sidecar = Sidecar::new(listener.local_addr().unwrap(), policy);
    let (mut tls, served) = sidecar.dial_as("web", Alpn::Tcp).await;
    let (mut app, _) = soon(listener.accept()).await.unwrap();
    // The server may speak first.
    app.write_all(b"220 ready").await.unwrap();
    let mut heard = [0; 9];
    soon(tls.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"220 ready");
    tls.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    tls.shutdown().await.unwrap();
    let mut heard = Vec::new();
    soon(app.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard, b"GET / HTTP/1.1\r\n");
    drop(app);
    soon(tls.read_to_end(&mut heard)).await.unwrap();
    soon(served).await.unwrap();
    let labels = [
        ("direction", "inbound"),
        ("service", "shop/api:80"),
        ("peer", "shop/web"),
        ("tls", "mutual"),
        ("outcome", "ok"),
    ];
    assert_eq!(sidecar.connections(&labels), 1);
    assert_eq!(sidecar.seats.settled(), 0);
}

#[tokio::test]
async fn a_stranger_is_refused() {
    let app = app().await;
    let sidecar = Sidecar::before(&app, inbound(MtlsMode::Permissive));
    let Link { tcp, served } = sidecar.dial().await;
    let stranger = Ca::new().identity(&spiffe("web"));
    let api = spiffe("api");
    let connecting = stranger.connect(tcp, &api, Alpn::Http1);
    assert!(soon(connecting).await.is_err());
    soon(served).await.unwrap();
    assert_eq!(app.connections(), 0);
    assert_eq!(sidecar.connections(&[("outcome", "tls_failed")]), 1);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_stalls_is_counted() {
    let app = app().await;
    let sidecar = Sidecar::before(&app, inbound(MtlsMode::Permissive));
    let Link { mut tcp, served } = sidecar.dial().await;
    // A hello, and never a word after the server's answer.
    let (near, mut far) = duplex(64 * 1024);
    let web = Ca::new().identity(&spiffe("web"));
    let (expected, mut hello) = (spiffe("api"), vec![0; 64 * 1024]);
    let length = tokio::select! {
        _ = web.connect(near, &expected, Alpn::Http1) => panic!("nobody has answered"),
        length = far.read(&mut hello) => length.unwrap(),
    };
    tcp.write_all(&hello[..length]).await.unwrap();
    served.await.unwrap();
    assert_eq!(app.connections(), 0);
    let slow = [("direction", "inbound"), ("reason", "timeout")];
    let failures = "weft_tls_handshake_failures_total";
    assert_eq!(count(&sidecar.telemetry, failures, &slow), 1);
    let slow = [("direction", "inbound"), ("result", "timeout")];
    assert_eq!(
        count(&sidecar.telemetry, "weft_tls_handshakes_total", &slow),
        1
    );
}

/// A way into `tcp` that passes its first bytes in small pieces.
fn dribble(tcp: TcpStream) -> DuplexStream {
    let (near, far) = duplex(64 * 1024);
    tokio::spawn(async move {
        let (from_near, mut to_near) = tokio::io::split(far);
        let (mut from_tcp, to_tcp) = tcp.into_split();
        let down = tokio::io::copy(&mut from_tcp, &mut to_near);
        let _ = tokio::join!(down, pass_in_pieces(from_near, to_tcp));
    });
    near
}

async fn pass_in_pieces(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> std::io::Result<()> {
    const DRIBBLED: usize = 2 * 1024;
    let (mut piece, mut passed) = (vec![0; 16 * 1024], 0);
    loop {
        let most = if passed < DRIBBLED { 97 } else { piece.len() };
        let read = from.read(&mut piece[..most]).await?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&piece[..read]).await?;
        passed += read;
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_slow_client_hello_is_recognised() {
    for mode in [MtlsMode::Strict, MtlsMode::Permissive] {
        let app = app().await;
        let sidecar = Sidecar::before(&app, inbound(mode));
        let Link { tcp, served } = sidecar.dial().await;
        // Longer than the silence after which a server that speaks first is looked for.
        tokio::time::sleep(crate::inbound::SILENCE * 3 / 2).await;
        assert_eq!(app.connections(), usize::from(mode == MtlsMode::Permissive));
        let identity = sidecar.ca.identity(&spiffe("web"));
        let api = spiffe("api");
        let connecting = identity.connect(dribble(tcp), &api, Alpn::Http1);
        let tls = soon(connecting).await.unwrap();
        let mut client = Http::over(tls, false, served).await;
        client.get("/").await.assert_ok("app");
        client.leave().await;
        assert_eq!(
            sidecar.requests(&[("peer", "shop/web"), ("tls", "mutual")]),
            1
        );
    }
}
