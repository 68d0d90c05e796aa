//! What is open when it is revoked: it ends within moments, and what is still allowed is not touched.
//!
//! Each test has two callers with the same thing open; one of them loses its authorization.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;
use weft_proto::names::alpn;
use weft_sandbox::app::echo::EchoRequest;
use weft_sandbox::{Mesh, Pod};

use super::protocols::Granting;
use super::{RAW_PORT, TCP_PORT, allow, api, app_of, connect_as};
use crate::common::{APP_PORT, Cx, PORT, metrics, policy, stats, wait_for};

/// From the edit of the file: the control plane reads it, tells the sidecar, and that acts.
const SOON: Duration = Duration::from_secs(2);
const BOTH: [&str; 2] = ["client", "friend"];

fn revoke(mesh: &Mesh) -> anyhow::Result<Instant> {
    mesh.apply_policy("api", &policy("api", "api", &allow(&["friend"], "")))?;
    Ok(Instant::now())
}

/// The peer's end of a connection, within moments; whatever came before it.
async fn ends(stream: &mut (impl tokio::io::AsyncRead + Unpin), since: Instant) -> Vec<u8> {
    let mut heard = Vec::new();
    let reading = async { while matches!(stream.read_buf(&mut heard).await, Ok(1..)) {} };
    let ended = tokio::time::timeout_at(since + SOON, reading).await;
    assert!(ended.is_ok(), "still open after {SOON:?}");
    heard
}

async fn round_trip(
    stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin),
    what: &[u8],
) -> anyhow::Result<()> {
    stream.write_all(what).await?;
    stream.flush().await?;
    let mut back = vec![0; what.len()];
    tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut back)).await??;
    assert_eq!(back, what);
    Ok(())
}

async fn get(stream: &mut TlsStream<TcpStream>, path: &str) -> anyhow::Result<String> {
    let head = format!("GET {path} HTTP/1.1\r\nhost: api\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut chunk = vec![0; 16 * 1024];
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut chunk));
    let length = read.await??;
    Ok(String::from_utf8_lossy(&chunk[..length]).into_owned())
}

async fn unauthorized(mesh: &Mesh, family: &str, peer: &str) -> anyhow::Result<f64> {
    let labels = [
        ("direction", "inbound"),
        ("outcome", "unauthorized"),
        ("peer", peer),
    ];
    Ok(metrics(mesh, "api-1").await?.sum(family, &labels))
}

/// An idle connection, and one whose request waits for its answer, which is 403 then.
pub(super) async fn http1(cx: Cx) -> anyhow::Result<()> {
    cx.on(api("revoked-h1", &allow(&BOTH, "")), async |mesh| {
        let pod = mesh.stranger("caller")?;
        let open = async |account| connect_as(mesh, &pod, account, APP_PORT, alpn::HTTP1).await;
        let (mut idle, mut waiting) = (open("client").await?, open("client").await?);
        let (mut kept, mut kept_waiting) = (open("friend").await?, open("friend").await?);
        for stream in [&mut idle, &mut kept] {
            let answer = get(stream, "/").await?;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
        }
        for stream in [&mut waiting, &mut kept_waiting] {
            let slow = b"GET /?delay_ms=4000 HTTP/1.1\r\nhost: api\r\n\r\n";
            stream.write_all(slow).await?;
        }
        in_flight(mesh, 2).await?;
        let since = revoke(mesh)?;
        let heard = ends(&mut waiting, since).await;
        let heard = String::from_utf8_lossy(&heard).into_owned();
        assert!(heard.starts_with("HTTP/1.1 403 "), "{heard:?}");
        assert!(heard.contains("x-weft-outcome: unauthorized"), "{heard:?}");
        assert_eq!(ends(&mut idle, since).await, b"");
        cx.measured(format!("ended {:?} after the edit", since.elapsed()));

        let answer = get(&mut kept, "/again").await?;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
        let mut chunk = vec![0; 4096];
        let length = kept_waiting.read(&mut chunk).await?;
        assert!(
            chunk[..length].starts_with(b"HTTP/1.1 200 "),
            "the friend's answer"
        );
        assert_eq!(
            unauthorized(mesh, "weft_requests_total", "default/client").await?,
            1.0
        );
        assert_eq!(
            unauthorized(mesh, "weft_requests_total", "default/friend").await?,
            0.0
        );
        let stats = stats(mesh, ["api-1"]).await?;
        assert_eq!((stats.requests, stats.cancelled), (5, 1));
        Ok(())
    })
    .await
}

/// gRPC streams through both sidecars: of a caller who loses everything, and of one who loses that
/// method only, whose other calls over the same connections go on.
pub(super) async fn http2(cx: Cx) -> anyhow::Result<()> {
    let stream = EchoRequest {
        payload: b"a".to_vec(),
        repeat: 10_000,
        delay_ms: 50,
        ..EchoRequest::default()
    };
    cx.on(api("revoked-h2", &allow(&BOTH, "")), async |mesh| {
        let to = mesh.addr("api", PORT);
        let mut client = mesh.pod("client").echo_client(to, "api").await?;
        let mut friend = mesh.pod("friend").echo_client(to, "api").await?;
        let mut lost = client.server_stream(stream.clone()).await?.into_inner();
        let mut kept = friend.server_stream(stream.clone()).await?.into_inner();
        assert!(lost.message().await?.is_some() && kept.message().await?.is_some());
        let since = revoke(mesh)?;
        let end = tokio::time::timeout_at(since + SOON, async {
            loop {
                match lost.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return None,
                    Err(status) => return Some(status),
                }
            }
        });
        let status = end.await?.expect("a stream that was cut looks whole");
        assert_ne!(status.code(), tonic::Code::Ok);
        cx.measured(format!("ended {:?} after the edit", since.elapsed()));
        let status = client
            .unary(EchoRequest::default())
            .await
            .expect_err("revoked");
        assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status:?}");
        assert!(kept.message().await?.is_some());
        in_flight(mesh, 1).await?;

        // Only what is no longer allowed ends, not the connection.
        let unary = ", paths: [/weft.sandbox.v1.Echo/Unary]";
        mesh.apply_policy("api", &policy("api", "api", &allow(&["friend"], unary)))?;
        let since = Instant::now();
        let end = tokio::time::timeout_at(since + SOON, async {
            while let Ok(Some(_)) = kept.message().await {}
        });
        end.await.expect("the stream goes on");
        friend.unary(EchoRequest::default()).await?;
        in_flight(mesh, 0).await?;
        let opened = stats(mesh, ["api-1"]).await?.connections;
        assert!(opened <= 4, "{opened} connections");
        Ok(())
    })
    .await
}

/// What follows a 101.
pub(super) async fn upgrades(cx: Cx) -> anyhow::Result<()> {
    cx.on(api("revoked-up", &allow(&BOTH, "")), async |mesh| {
        let _app = Granting::start(&mesh.pod("api-1"))?;
        let pod = mesh.stranger("caller")?;
        let mut open = Vec::new();
        for account in BOTH {
            let mut stream = connect_as(mesh, &pod, account, RAW_PORT, alpn::HTTP1).await?;
            let head = b"GET /ws HTTP/1.1\r\nhost: api\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
            stream.write_all(head).await?;
            let mut chunk = vec![0; 4096];
            let length = stream.read(&mut chunk).await?;
            assert!(chunk[..length].starts_with(b"HTTP/1.1 101 "), "{account}");
            round_trip(&mut stream, b"there and back").await?;
            open.push(stream);
        }
        let since = revoke(mesh)?;
        assert_eq!(ends(&mut open[0], since).await, b"");
        cx.measured(format!("ended {:?} after the edit", since.elapsed()));
        round_trip(&mut open[1], b"still there").await?;
        assert_eq!(unauthorized(mesh, "weft_requests_total", "default/client").await?, 1.0);
        Ok(())
    })
    .await
}

/// Bytes, through both sidecars.
pub(super) async fn bytes(cx: Cx) -> anyhow::Result<()> {
    cx.on(api("revoked-tcp", &allow(&BOTH, "")), async |mesh| {
        let to = mesh.addr("api", TCP_PORT);
        let mut lost = mesh.pod("client").connect(to).await?;
        let mut kept = mesh.pod("friend").connect(to).await?;
        for stream in [&mut lost, &mut kept] {
            round_trip(stream, b"\0there and back").await?;
        }
        let since = revoke(mesh)?;
        assert_eq!(ends(&mut lost, since).await, b"");
        cx.measured(format!("ended {:?} after the edit", since.elapsed()));
        round_trip(&mut kept, b"\0still there").await?;
        let family = "weft_tcp_connections_total";
        assert_eq!(unauthorized(mesh, family, "default/client").await?, 1.0);
        assert_eq!(unauthorized(mesh, family, "default/friend").await?, 0.0);

        // A policy that looks into requests lets no bytes pass, of nobody.
        let looking = allow(&["friend"], ", methods: [GET]");
        mesh.apply_policy("api", &policy("api", "api", &looking))?;
        assert_eq!(ends(&mut kept, Instant::now()).await, b"");
        Ok(())
    })
    .await
}

/// Connections in plaintext end when the port turns strict, of bytes and of requests; mesh TLS stays.
pub(super) async fn plaintext(cx: Cx) -> anyhow::Result<()> {
    cx.on(api("strict", "mtls: {mode: Permissive}"), async |mesh| {
        let stranger: Pod = mesh.stranger("stranger")?;
        let mut bytes = stranger.connect(app_of(mesh, TCP_PORT)).await?;
        round_trip(&mut bytes, b"\0plain").await?;
        let mut http = stranger.connect(app_of(mesh, APP_PORT)).await?;
        http.write_all(b"GET / HTTP/1.1\r\nhost: api\r\n\r\n")
            .await?;
        let mut chunk = vec![0; 4096];
        let length = http.read(&mut chunk).await?;
        assert!(chunk[..length].starts_with(b"HTTP/1.1 200 "));
        let mut kept = mesh
            .pod("client")
            .connect(mesh.addr("api", TCP_PORT))
            .await?;
        round_trip(&mut kept, b"\0meshed").await?;

        mesh.apply_policy("api", &policy("api", "api", "mtls: {mode: Strict}"))?;
        let since = Instant::now();
        assert_eq!(ends(&mut bytes, since).await, b"");
        assert_eq!(ends(&mut http, since).await, b"");
        round_trip(&mut kept, b"\0still meshed").await?;
        let refused = [("direction", "inbound"), ("outcome", "mtls_required")];
        let metrics = metrics(mesh, "api-1").await?;
        assert_eq!(metrics.sum("weft_tcp_connections_total", &refused), 1.0);
        Ok(())
    })
    .await
}

async fn in_flight(mesh: &Mesh, wanted: u64) -> anyhow::Result<()> {
    wait_for("requests in flight", Duration::from_secs(10), async || {
        let stats = stats(mesh, ["api-1"]).await?;
        Ok((stats.in_flight == wanted).then_some(()))
    })
    .await
}
