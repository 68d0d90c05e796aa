//! Requests hidden in other protocols: a policy that looks into requests must see every one of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use weft_proto::names::alpn;
use weft_sandbox::app::echo::EchoRequest;
use weft_sandbox::{Mesh, Pod};
use weft_tests::frames::{PREFACE, Wire, flag, frame, headers, kind};
use weft_tests::tls::{self, End};

use super::{RAW_PORT, allow, api, app_of, connect_as, exchange};
use crate::common::{APP_PORT, Cx, PORT, assert_untouched, metrics, stats};

/// What must not arrive.
const SECRET: &str = "GET /secret HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n";
const GET_ONLY: &str = ", methods: [GET], paths: [/public]";

/// Bytes in each of the mesh's protocols that hide a request for `/secret`, or none at all.
const HIDDEN: [(&str, &[u8], &str); 17] = [
    (
        "bytes of a request",
        alpn::TCP,
        "GET /secret HTTP/1.1\r\nhost: api\r\n\r\n",
    ),
    (
        "no HTTP",
        alpn::TCP,
        "\0\u{1} GET /secret HTTP/1.1\r\nhost: api\r\n\r\n",
    ),
    (
        "an empty line first",
        alpn::TCP,
        "\r\nGET /secret HTTP/1.1\r\nhost: api\r\n\r\n",
    ),
    (
        "another method",
        alpn::TCP,
        "POST /public HTTP/1.1\r\nhost: api\r\ncontent-length: 0\r\n\r\n",
    ),
    (
        "a lower-case method",
        alpn::TCP,
        "get /secret HTTP/1.1\r\nhost: api\r\n\r\n",
    ),
    (
        "an unknown method",
        alpn::HTTP1,
        "GETS /public HTTP/1.1\r\nhost: api\r\n\r\n",
    ),
    ("HTTP/0.9", alpn::TCP, "GET /secret\r\n"),
    ("HTTP/1.0", alpn::TCP, "GET /secret HTTP/1.0\r\n\r\n"),
    ("half a preface", alpn::TCP, "PRI * HTTP/2.0\r\n\r\n"),
    (
        "half a preface, then HTTP/1",
        alpn::TCP,
        "PRI * HTTP/2.0\r\n\r\nGET /secret HTTP/1.1\r\nhost: api\r\n\r\n",
    ),
    (
        "half a preface to HTTP/1",
        alpn::HTTP1,
        "PRI * HTTP/2.0\r\n\r\nGET /secret HTTP/1.1\r\nhost: api\r\n\r\n",
    ),
    (
        "a preface, then HTTP/1",
        alpn::TCP,
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET /secret HTTP/1.1\r\nhost: api\r\n\r\n",
    ),
    (
        "HTTP/1 where HTTP/2 was agreed",
        alpn::HTTP2,
        "GET /secret HTTP/1.1\r\nhost: api\r\n\r\n",
    ),
    (
        "CONNECT, then a request",
        alpn::HTTP1,
        "CONNECT api:80 HTTP/1.1\r\nhost: api:80\r\n\r\nGET /secret HTTP/1.1\r\nhost: api\r\n\r\n",
    ),
    (
        "CONNECT in bytes",
        alpn::TCP,
        "CONNECT api:80 HTTP/1.1\r\nhost: api:80\r\n\r\nGET /secret HTTP/1.1\r\nhost: api\r\n\r\n",
    ),
    (
        "two lengths",
        alpn::HTTP1,
        "GET /public HTTP/1.1\r\nhost: api\r\ncontent-length: 38\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nhost: api\r\n\r\n",
    ),
    (
        "the application's own TLS",
        alpn::TCP,
        "\x16\x03\x01\0\x05hello",
    ),
];

/// None of them brings anything to the application; nor does plaintext, with no identity to allow.
pub(super) async fn tricks(cx: Cx) -> anyhow::Result<()> {
    cx.on(
        api("protocols", &allow(&["client"], GET_ONLY)),
        async |mesh| {
            let intruder = mesh.stranger("intruder")?;
            for (name, alpn, bytes) in HIDDEN {
                let mut stream = connect_as(mesh, &intruder, "client", APP_PORT, alpn).await?;
                let _ = stream.write_all(bytes.as_bytes()).await;
                hang_up(&mut stream).await;
                let heard = tls::read_to_end(&mut stream).await;
                let text = heard.text();
                assert!(matches!(heard, End::Closed(_)), "{name}: {heard:?}");
                assert!(
                    !text.contains(" 200 ") && !text.contains(" 101 "),
                    "{name}: {heard:?}"
                );
            }
            // Where plaintext is taken, whoever comes in it proves nothing, whatever it says.
            for (name, bytes) in [
                (
                    "allowed otherwise",
                    "GET /public HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n",
                ),
                ("not allowed at all", SECRET),
                (
                    "claimed",
                    "GET /public HTTP/1.1\r\nhost: api\r\nx-weft-peer: default/client\r\n\
                         x-forwarded-client-cert: URI=spiffe://weft.local/ns/default/sa/client\r\n\
                         connection: close\r\n\r\n",
                ),
                ("bytes", "\0\u{1}\u{2}"),
                ("half a preface", "PRI * HTTP/2.0\r\n\r\n"),
            ] {
                let mut stream = intruder.connect(app_of(mesh, APP_PORT)).await?;
                let _ = stream.write_all(bytes.as_bytes()).await;
                hang_up(&mut stream).await;
                let heard = tls::read_to_end(&mut stream).await;
                assert!(!heard.text().contains(" 200 "), "{name}: {heard:?}");
            }
            over_http2(mesh, &intruder).await?;
            let mut echo = mesh
                .pod("client")
                .echo_client(mesh.addr("api", PORT), "api")
                .await?;
            let status = echo.unary(EchoRequest::default()).await.expect_err("gRPC");
            assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status:?}");
            assert_untouched(&stats(mesh, ["api-1"]).await?);
            let metrics = metrics(mesh, "api-1").await?;
            let refused = [("direction", "inbound"), ("outcome", "unauthorized")];
            let requests = metrics.sum("weft_requests_total", &refused);
            let connections = metrics.sum("weft_tcp_connections_total", &refused);
            assert!(
                requests >= 10.0 && connections >= 3.0,
                "{requests}, {connections}"
            );

            // The control, over all three.
            let get = b"GET /public HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n";
            for alpn in [alpn::HTTP1, alpn::TCP] {
                let heard = exchange(mesh, &intruder, APP_PORT, alpn, get).await?.text();
                assert!(heard.starts_with("HTTP/1.1 200 "), "{heard:?}");
            }
            let seen = stats(mesh, ["api-1"]).await?;
            assert_eq!(seen.routes.keys().collect::<Vec<_>>(), ["GET /public"]);
            Ok(())
        },
    )
    .await
}

/// Ends the client's side after what was sent has been acted on: what waits for more hears that there is
/// none, and a sidecar's end is not taken for giving the request up.
async fn hang_up(stream: &mut (impl tokio::io::AsyncWrite + Unpin)) {
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Fails where the peer was first.
    let _ = stream.shutdown().await;
}

/// Heads of HTTP/2 that say two things, or something else than they are.
async fn over_http2(mesh: &Mesh, pod: &Pod) -> anyhow::Result<()> {
    const SCHEME: (&str, &str) = (":scheme", "http");
    const AUTHORITY: (&str, &str) = (":authority", "api");
    let heads: [(&str, &[(&str, &str)]); 8] = [
        (
            "a path",
            &[(":method", "GET"), SCHEME, AUTHORITY, (":path", "/secret")],
        ),
        (
            "a method",
            &[(":method", "POST"), SCHEME, AUTHORITY, (":path", "/public")],
        ),
        (
            "two paths",
            &[
                (":method", "GET"),
                SCHEME,
                AUTHORITY,
                (":path", "/public"),
                (":path", "/secret"),
            ],
        ),
        (
            "a path in the authority",
            &[
                (":method", "GET"),
                SCHEME,
                (":authority", "api/public"),
                (":path", "/secret"),
            ],
        ),
        (
            "two hosts",
            &[
                (":method", "GET"),
                SCHEME,
                AUTHORITY,
                (":path", "/public"),
                ("host", "other"),
            ],
        ),
        (
            "an absolute path",
            &[
                (":method", "GET"),
                SCHEME,
                AUTHORITY,
                (":path", "http://api/public"),
            ],
        ),
        (
            "CONNECT",
            &[(":method", "CONNECT"), (":authority", "api:80")],
        ),
        (
            "extended CONNECT",
            &[
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                SCHEME,
                AUTHORITY,
                (":path", "/public"),
            ],
        ),
    ];
    for (name, head) in heads {
        let stream = connect_as(mesh, pod, "client", APP_PORT, alpn::HTTP2).await?;
        let mut wire = Wire::raw(stream);
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(kind::SETTINGS, 0, 0, &[]));
        bytes.extend(headers(1, false, head));
        bytes.extend(frame(kind::DATA, flag::END_STREAM, 1, SECRET.as_bytes()));
        wire.send(&bytes).await?;
        wire.until(tls::PATIENCE, |heard| {
            heard.ended.contains(&1) || heard.resets.contains_key(&1) || heard.go_away.is_some()
        })
        .await?;
        let status = wire.heard.statuses.get(&1).copied();
        assert!(
            matches!(status, None | Some(400 | 403)),
            "{name}: {:?}",
            wire.heard
        );
    }
    Ok(())
}

/// An application that grants every upgrade it is asked for, and writes down all that comes. Only
/// WebSocket may follow an allowed request: in whatever else is agreed upon, requests could follow that
/// nobody judges.
pub(super) async fn upgrades(cx: Cx) -> anyhow::Result<()> {
    cx.on(api("upgrades", &allow(&["client"], GET_ONLY)), async |mesh| {
        let app = Granting::start(&mesh.pod("api-1"))?;
        let intruder = mesh.stranger("intruder")?;
        for wish in ["h2c", "TLS/1.0", "HTTP/1.1", "x", "websocket, h2c", "websocket, x"] {
            let head = format!(
                "GET /public HTTP/1.1\r\nhost: api\r\nconnection: upgrade\r\nupgrade: {wish}\r\n\r\n{SECRET}"
            );
            let mut stream = connect_as(mesh, &intruder, "client", RAW_PORT, alpn::HTTP1).await?;
            stream.write_all(head.as_bytes()).await?;
            let heard = tls::read_to_end(&mut stream).await.text();
            assert!(heard.starts_with("HTTP/1.1 200 "), "{wish}: {heard:?}");
            assert!(!heard.contains(" 101 ") && heard.contains(" 403 "), "{wish}: {heard:?}");
            let seen = app.take();
            assert!(seen.contains("GET /public") && !seen.contains("/secret"), "{wish}: {seen:?}");
            assert!(!seen.to_lowercase().contains("upgrade:"), "{wish}: {seen:?}");
        }
        // The path of the request counts as ever.
        let denied = "GET /secret HTTP/1.1\r\nhost: api\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        let heard = exchange_once(mesh, &intruder, denied).await?;
        assert!(heard.starts_with("HTTP/1.1 403 "), "{heard:?}");
        assert_eq!(app.take(), "");
        // The control: WebSocket, and what follows it.
        let granted = "GET /public HTTP/1.1\r\nhost: api\r\nconnection: upgrade\r\nupgrade: WebSocket\r\n\r\n\u{1}\u{2}frames";
        let heard = exchange_once(mesh, &intruder, granted).await?;
        assert!(heard.starts_with("HTTP/1.1 101 "), "{heard:?}");
        let seen = app.take();
        assert!(seen.ends_with("\u{1}\u{2}frames"), "{seen:?}");

        // Who may send bytes may upgrade to anything.
        mesh.apply_policy("api", &crate::common::policy("api", "api", &allow(&["client"], "")))?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let any = "GET /public HTTP/1.1\r\nhost: api\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nanything";
        let heard = exchange_once(mesh, &intruder, any).await?;
        assert!(heard.starts_with("HTTP/1.1 101 "), "{heard:?}");
        assert!(app.take().ends_with("anything"));
        Ok(())
    })
    .await
}

async fn exchange_once(mesh: &Mesh, pod: &Pod, bytes: &str) -> anyhow::Result<String> {
    let mut stream = connect_as(mesh, pod, "client", RAW_PORT, alpn::HTTP1).await?;
    stream.write_all(bytes.as_bytes()).await?;
    // Ending our side before the other protocol is agreed upon would be the end of the request.
    let mut chunk = [0; 4096];
    let length = tokio::time::timeout(tls::PATIENCE, stream.read(&mut chunk)).await??;
    let _ = stream.shutdown().await;
    let more = tls::read_to_end(&mut stream).await.text();
    Ok(format!(
        "{}{more}",
        String::from_utf8_lossy(&chunk[..length])
    ))
}

/// Grants upgrades, answers everything else, and keeps every byte.
pub(super) struct Granting {
    seen: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Granting {
    pub(super) fn start(pod: &Pod) -> anyhow::Result<Self> {
        let listener = pod.listen(SocketAddr::new(pod.v4().into(), RAW_PORT))?;
        let seen = Arc::<Mutex<Vec<u8>>>::default();
        let heard = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(grant(stream, Arc::clone(&heard)));
            }
        });
        Ok(Self { seen, task })
    }

    /// What came since the last time.
    pub(super) fn take(&self) -> String {
        let seen = std::mem::take(&mut *self.seen.lock());
        String::from_utf8_lossy(&seen).into_owned()
    }
}

impl Drop for Granting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn grant(mut stream: TcpStream, seen: Arc<Mutex<Vec<u8>>>) {
    let mut head = Vec::new();
    let (mut chunk, mut upgraded) = ([0; 4096], false);
    while let Ok(length @ 1..) = stream.read(&mut chunk).await {
        seen.lock().extend_from_slice(&chunk[..length]);
        if upgraded {
            // An echo shows that both directions stand.
            if stream.write_all(&chunk[..length]).await.is_err() {
                return;
            }
            continue;
        }
        head.extend_from_slice(&chunk[..length]);
        while let Some(at) = head.windows(4).position(|it| it == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&head[..at]).to_lowercase();
            upgraded = text.contains("\r\nupgrade:");
            let answer: &[u8] = if upgraded {
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
            } else {
                b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
            };
            head.drain(..at + 4);
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
    }
}
