//! Who is refused, with which word, and that nothing of the request is delivered.
//!
//! Impostors and intruders are TLS endpoints of the test's own, with certificates of the mesh's real
//! authority where they need them: [`weft_tests::tls`]. Each test has a control that shows that the
//! same set-up lets the right one through.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use http_body_util::Full;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use weft_proto::names::{alpn, ports};
use weft_proto::spiffe::SpiffeId;
use weft_sandbox::client::Http2;
use weft_sandbox::mesh::Builder;
use weft_sandbox::{AppSpec, Mesh, Pod, Service, Workload};
use weft_tests::tls::{self, Credentials, End};

use crate::Suite;
use crate::common::{
    APP_PORT, Cx, PORT, assert_untouched, client_and, id, mesh, metrics, policy, request, send,
    stats, wait_for,
};

/// A port of bytes.
const TCP_PORT: u16 = 9000;
const MESH_ALPN: [&[u8]; 3] = [alpn::HTTP1, alpn::HTTP2, alpn::TCP];
/// What an intruder sends, and what must not arrive.
const GET: &str = "GET /secret HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n";

pub(crate) fn register(suite: &mut Suite) {
    suite.add("security::impostors_get_nothing", impostors);
    suite.add("security::intruders_without_a_good_certificate", intruders);
    suite.add("security::an_identity_that_is_not_allowed", not_allowed);
    suite.add("security::plaintext_to_a_strict_workload", plaintext);
    suite.add("security::http_smuggled_as_bytes", smuggled);
}

/// "Wrong identity, expired certificate, other trust domain: refused, each with its outcome, and
/// nothing of the request delivered", on the client's side: behind the service's address stands
/// somebody else than discovery promised. `tls_failed`, and not a byte of the request.
async fn impostors(cx: Cx) -> anyhow::Result<()> {
    let builder = mesh("impostors")
        .workload(Workload::new("client"))
        .workload(
            Workload::new("vault-1")
                .service_account("vault")
                .port(APP_PORT, AppSpec::none()),
        )
        .service(
            Service::new("vault")
                .port(PORT, APP_PORT)
                .endpoints(["vault-1"]),
        );
    cx.on(builder, async |mesh| {
        // The pod stays what mesh.yaml says; who listens where its redirect leads is the impostor.
        mesh.kill_sidecar("vault-1").await?;
        let state = mesh.state_dir();
        let vault = id("vault");
        let elsewhere = SpiffeId::new("other.example", "default", "vault")?;
        let impostors = [
            (
                "wrong identity",
                Some(Credentials::good(&state, &id("default"))?),
            ),
            ("expired", Some(Credentials::expired(&state, &vault)?)),
            (
                "other trust domain",
                Some(Credentials::foreign(&elsewhere)?),
            ),
            ("other authority", Some(Credentials::foreign(&vault)?)),
            ("plaintext", None),
        ];
        for (name, credentials) in impostors {
            let impostor = Impostor::start(&mesh.pod("vault-1"), credentials)?;
            let failed_before = failed_handshakes(mesh, "client").await?;
            let order = request(Method::GET, "/secret", name, "a secret");
            let answer = send(&mesh.pod("client"), mesh.addr("vault", PORT), order).await?;
            assert_eq!(answer.status, 502, "{name}: {}", answer.text());
            assert_eq!(answer.outcome(), Some("tls_failed"), "{name}");
            assert_eq!(answer.header("x-weft-origin"), Some("outbound"), "{name}");
            let heard = impostor.stop().await;
            assert!(!heard.is_empty(), "{name}: the client's sidecar never came");
            for heard in &heard {
                let text = String::from_utf8_lossy(heard);
                assert!(!text.contains("secret"), "{name} got {text:?}");
            }
            let failed = failed_handshakes(mesh, "client").await? - failed_before;
            assert!(failed > 0.0, "{name}: no failed handshake was counted");
        }

        // The control: the promised identity gets the request.
        let right = Credentials::good(&state, &vault)?;
        let vault = Impostor::start(&mesh.pod("vault-1"), Some(right))?;
        let order = request(Method::GET, "/secret", "control", "a secret");
        let answer = send(&mesh.pod("client"), mesh.addr("vault", PORT), order).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let heard = vault.stop().await.concat();
        assert!(String::from_utf8_lossy(&heard).contains("GET /secret HTTP/1.1"));
        Ok(())
    })
    .await
}

/// The same on the server's side: clients whose certificate is expired, of another trust domain, of
/// another authority, or missing; in each of the mesh's own protocols. The handshake fails, and the
/// application sees nothing.
async fn intruders(cx: Cx) -> anyhow::Result<()> {
    cx.on(strict("intruders", ""), async |mesh| {
        let intruder = mesh.stranger("intruder")?;
        let state = mesh.state_dir();
        let client = id("client");
        let elsewhere = SpiffeId::new("other.example", "default", "client")?;
        let intruders = [
            ("expired", Some(Credentials::expired(&state, &client)?)),
            (
                "other trust domain",
                Some(Credentials::foreign(&elsewhere)?),
            ),
            ("other authority", Some(Credentials::foreign(&client)?)),
            ("no certificate", None),
        ];
        for (name, credentials) in &intruders {
            for alpn in MESH_ALPN {
                let failed_before = failed_handshakes(mesh, "api-1").await?;
                let heard =
                    tls_exchange(mesh, &intruder, credentials.as_ref(), &[alpn], GET).await?;
                let alpn = String::from_utf8_lossy(alpn);
                assert_eq!(heard, End::Closed(Vec::new()), "{name}, {alpn}");
                let failed = failed_handshakes(mesh, "api-1").await? - failed_before;
                assert!(
                    failed > 0.0,
                    "{name}, {alpn}: no failed handshake was counted"
                );
            }
        }
        // Without the mesh's ALPN it is the intruder's own TLS: plaintext to a strict workload.
        let good = Credentials::good(&state, &client)?;
        for alpn in [&[][..], &[b"h2".as_slice()], &[b"http/1.1".as_slice()]] {
            let stream = intruder.connect(app_of(mesh, APP_PORT)).await?;
            let shaken = tls::connect(stream, Some(&good), alpn).await;
            assert!(shaken.is_err(), "a handshake without mesh ALPN came about");
        }
        assert_untouched(&stats(mesh, ["api-1"]).await?);

        // The control.
        let heard = tls_exchange(mesh, &intruder, Some(&good), &[alpn::HTTP1], GET).await?;
        assert!(heard.text().starts_with("HTTP/1.1 200 "), "{heard:?}");
        Ok(())
    })
    .await
}

/// "Wrong identity", where the certificate is good and policy does not allow its owner: 403
/// `unauthorized` for HTTP, a closed connection for bytes.
async fn not_allowed(cx: Cx) -> anyhow::Result<()> {
    let allow = "authorization: {allow: [{principals: [{serviceAccount: {name: client}}]}]}";
    let builder =
        strict("not-allowed", allow).workload(Workload::new("other").service_account("other"));
    cx.on(builder, async |mesh| {
        // Through a sidecar of its own.
        let answer = send(
            &mesh.pod("other"),
            mesh.addr("api", PORT),
            request(Method::POST, "/secret", "other", "a secret"),
        )
        .await?;
        assert_eq!(answer.status, 403, "{}", answer.text());
        assert_eq!(answer.outcome(), Some("unauthorized"));
        assert_eq!(answer.header("x-weft-origin"), Some("inbound"));

        // And past it, with its real certificate.
        let intruder = mesh.stranger("intruder")?;
        let other = Credentials::good(&mesh.state_dir(), &id("other"))?;
        let heard = tls_exchange(mesh, &intruder, Some(&other), &[alpn::HTTP1], GET).await?;
        assert!(heard.text().starts_with("HTTP/1.1 403 "), "{heard:?}");
        assert!(
            heard.text().contains("x-weft-outcome: unauthorized"),
            "{heard:?}"
        );
        let stream = intruder.connect(app_of(mesh, TCP_PORT)).await?;
        let mut stream = tls::connect(stream, Some(&other), &[alpn::TCP]).await?;
        // The sidecar may close before all of it is written.
        let _ = stream.write_all(b"\x01\x02 a secret").await;
        assert_eq!(tls::read_to_end(&mut stream).await, End::Closed(Vec::new()));
        assert_untouched(&stats(mesh, ["api-1"]).await?);
        let metrics = metrics(mesh, "api-1").await?;
        let refused = [("direction", "inbound"), ("outcome", "unauthorized")];
        assert_eq!(metrics.sum("weft_requests_total", &refused), 2.0);
        assert_eq!(metrics.sum("weft_tcp_connections_total", &refused), 1.0);

        // The control.
        let allowed = request(Method::POST, "/secret", "client", "a secret");
        let answer = send(&mesh.pod("client"), mesh.addr("api", PORT), allowed).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        Ok(())
    })
    .await
}

/// "Plaintext to a strict workload": 403 `mtls_required` for HTTP/1 and HTTP/2, a closed connection
/// for bytes, and for a client that says nothing the application is not even dialled.
async fn plaintext(cx: Cx) -> anyhow::Result<()> {
    cx.on(strict("plaintext", ""), async |mesh| {
        let stranger = mesh.stranger("stranger")?;
        let to = app_of(mesh, APP_PORT);
        let order = request(Method::POST, "/secret", "plain", "a secret");
        let answer = send(&stranger, to, order).await?;
        assert_eq!(answer.status, 403, "{}", answer.text());
        assert_eq!(answer.outcome(), Some("mtls_required"));
        assert_eq!(answer.header("x-weft-origin"), Some("inbound"));

        let http2 = Http2::connect(&stranger, to).await?;
        let order = Request::get("http://api/secret").body(Full::default())?;
        let answer = http2.request(order).await?;
        assert_eq!(
            (answer.status.as_u16(), answer.outcome()),
            (403, Some("mtls_required"))
        );

        // A gRPC caller is told in gRPC's words.
        let mut echo = stranger.echo_client(to, "api").await?;
        let status = echo
            .unary(weft_sandbox::app::echo::EchoRequest::default())
            .await;
        let status = status.expect_err("plaintext gRPC to a strict workload");
        assert_eq!(status.code(), tonic::Code::Unauthenticated, "{status:?}");

        for port in [APP_PORT, TCP_PORT] {
            let mut stream = stranger.connect(app_of(mesh, port)).await?;
            let _ = stream.write_all(b"\x00\x01 a secret").await;
            let end = tls::read_to_end(&mut stream).await;
            assert_eq!(end, End::Closed(Vec::new()), "bytes to port {port}");
        }
        let silent = stranger.connect(to).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(silent);
        assert_untouched(&stats(mesh, ["api-1"]).await?);
        let metrics = metrics(mesh, "api-1").await?;
        let refused = [("direction", "inbound"), ("outcome", "mtls_required")];
        assert_eq!(metrics.sum("weft_requests_total", &refused), 3.0);
        let bytes = metrics.sum("weft_tcp_connections_total", &refused);
        assert!(
            bytes >= 2.0,
            "{bytes} connections of bytes were refused, of two"
        );

        // The control: through a sidecar it passes.
        let answer = mesh
            .pod("client")
            .get(mesh.addr("api", PORT), "/secret")
            .await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        Ok(())
    })
    .await
}

/// "HTTP smuggled in `weft/1/tcp` to a port with L7 rules": a byte stream is detected again, so that
/// HTTP is judged as HTTP, request by request; what is no HTTP never matches an entry with methods or
/// paths.
async fn smuggled(cx: Cx) -> anyhow::Result<()> {
    let allow = "authorization: {allow: [{principals: [{serviceAccount: {name: client}}], \
                 methods: [GET], paths: [/public]}]}";
    cx.on(strict("smuggled", allow), async |mesh| {
        let pod = mesh.stranger("smuggler")?;
        let client = Credentials::good(&mesh.state_dir(), &id("client"))?;
        let exchange = async |bytes: &str| {
            tls_exchange(mesh, &pod, Some(&client), &[alpn::TCP], bytes).await
        };
        let refused = [
            "POST /public HTTP/1.1\r\nhost: api\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            "GET /secret HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n",
            "GET /public/../secret HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n",
            "GET /public%2f..%2fsecret HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n",
            "GET /publicly HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n",
        ];
        for text in refused {
            let heard = exchange(text).await?.text();
            assert!(heard.starts_with("HTTP/1.1 403 "), "{text:?}: {heard:?}");
            assert!(heard.contains("x-weft-outcome: unauthorized"), "{text:?}: {heard:?}");
        }
        // No HTTP, or such as only a lenient server would take for it.
        for text in [
            "\0\u{1} a secret",
            "get /public HTTP/1.1\r\nhost: api\r\n\r\n",
            "\r\nPOST /secret HTTP/1.1\r\nhost: api\r\n\r\n",
            "GET /public\r\n\r\n",
        ] {
            let heard = exchange(text).await?;
            let got = heard.text();
            assert!(
                heard == End::Closed(Vec::new()) || got.starts_with("HTTP/1.1 400 ")
                    || got.starts_with("HTTP/1.1 403 "),
                "{text:?}: {heard:?}"
            );
        }
        assert_untouched(&stats(mesh, ["api-1"]).await?);

        // The control, and a second request behind it on the same connection.
        let two = "GET /public HTTP/1.1\r\nhost: api\r\n\r\n\
                   POST /secret HTTP/1.1\r\nhost: api\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let heard = exchange(two).await?.text();
        assert!(heard.starts_with("HTTP/1.1 200 "), "{heard:?}");
        assert!(heard.contains("HTTP/1.1 403 "), "{heard:?}");
        let seen = stats(mesh, ["api-1"]).await?;
        assert_eq!(seen.routes.keys().collect::<Vec<_>>(), ["GET /public"]);
        assert_eq!(seen.requests, 1);
        Ok(())
    })
    .await
}

/// A client, and a service `api` whose ports of HTTP and bytes are strict.
fn strict(name: &str, more: &str) -> Builder {
    let more = if more.is_empty() {
        String::new()
    } else {
        format!(", {more}")
    };
    client_and(name, [])
        .workload(
            Workload::new("api-1")
                .port(APP_PORT, AppSpec::http())
                .port(TCP_PORT, AppSpec::tcp()),
        )
        .service(
            Service::new("api")
                .port(PORT, APP_PORT)
                .port_name("web")
                .port(TCP_PORT, TCP_PORT)
                .port_name("tcp-echo")
                .app_protocol("tcp")
                .endpoints(["api-1"]),
        )
        .policy(&policy(
            "strict",
            "api",
            &format!("mtls: {{mode: Strict}}{more}"),
        ))
}

/// The application's own address, which leads to its sidecar's inbound listener.
fn app_of(mesh: &Mesh, port: u16) -> SocketAddr {
    SocketAddr::new(mesh.pod("api-1").v4().into(), port)
}

/// Opens TLS to the application's HTTP port, sends, and reads to the end. With TLS 1.3 the server's
/// refusal may come in the handshake or at the first read: both are a closed connection.
async fn tls_exchange(
    mesh: &Mesh,
    pod: &Pod,
    credentials: Option<&Credentials>,
    alpn: &[&[u8]],
    bytes: &str,
) -> anyhow::Result<End> {
    let stream = pod.connect(app_of(mesh, APP_PORT)).await?;
    let Ok(mut stream) = tls::connect(stream, credentials, alpn).await else {
        return Ok(End::Closed(Vec::new()));
    };
    // Fails where the server has closed already, which the read shows too.
    let _ = stream.write_all(bytes.as_bytes()).await;
    let _ = stream.flush().await;
    Ok(tls::read_to_end(&mut stream).await)
}

/// Mesh TLS handshakes of a sidecar that failed.
async fn failed_handshakes(mesh: &Mesh, workload: &str) -> anyhow::Result<f64> {
    let all = "weft_tls_handshakes_total";
    let mut last = f64::NAN;
    // A failure is counted when its task has seen it: let the number settle.
    wait_for("a steady count", Duration::from_secs(5), async || {
        let metrics = metrics(mesh, workload).await?;
        let failed = metrics.sum(all, &[]) - metrics.sum(all, &[("result", "ok")]);
        let steady = failed == last;
        last = failed;
        Ok(steady.then_some(failed))
    })
    .await
}

/// Stands where a sidecar's inbound listener should, and hears what comes.
struct Impostor {
    task: tokio::task::JoinHandle<()>,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Impostor {
    /// With credentials it speaks TLS, otherwise it only listens.
    fn start(pod: &Pod, credentials: Option<Credentials>) -> anyhow::Result<Self> {
        let listener = pod.listen(SocketAddr::new(pod.v4().into(), ports::INBOUND))?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ears = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let text = hear(stream, credentials.as_ref()).await;
                ears.lock().push(text);
            }
        });
        Ok(Self { task, heard })
    }

    /// Ends it; what it heard on each connection.
    async fn stop(self) -> Vec<Vec<u8>> {
        // What is still being read comes to its end within that.
        tokio::time::sleep(Duration::from_millis(300)).await;
        self.task.abort();
        // Its port is free when the task has ended; aborting is no error of interest.
        let _ = self.task.await;
        std::mem::take(&mut *self.heard.lock())
    }
}

/// The first bytes of a connection, which is then answered with 200 and closed.
async fn hear(stream: TcpStream, credentials: Option<&Credentials>) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    match credentials {
        None => {
            let mut stream = stream;
            let length = stream.read(&mut bytes).await.unwrap_or(0);
            bytes.truncate(length);
        }
        Some(credentials) => {
            let Ok(mut stream) = tls::accept(stream, credentials, &MESH_ALPN).await else {
                return Vec::new();
            };
            let length = stream.read(&mut bytes).await.unwrap_or(0);
            bytes.truncate(length);
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
        }
    }
    bytes
}
