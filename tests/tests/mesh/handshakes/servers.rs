//! Every kind of server that a client's sidecar must not speak to.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Method;
use parking_lot::Mutex;
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use weft_proto::names::{alpn, ports};
use weft_sandbox::metrics::Metrics;
use weft_sandbox::{AppSpec, Mesh, Pod, Service, Workload};
use weft_tests::tls::{self, Credentials};

use super::maker::{self, Maker};
use super::rows::{self, Row, Side};
use super::{FAILURES, SETTLED, assert_counted, bytes};
use crate::common::{APP_PORT, Cx, PORT, id, mesh, metrics, request, send, wait_for};

const MESH_ALPN: [&[u8]; 3] = [alpn::HTTP1, alpn::HTTP2, alpn::TCP];

/// Behind the service's address stands somebody else than discovery promised: `tls_failed`, and not a byte
/// of the request.
pub(super) async fn must_fail(cx: Cx) -> anyhow::Result<()> {
    let builder = mesh("bad-servers")
        .workload(Workload::new("client").service_account("client"))
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
        let impostor = Impostor::start(&mesh.pod("vault-1"))?;
        let maker = Maker::of(&mesh.state_dir(), &id("vault"))?;
        let good = rows::good(&maker)?;
        for (name, shown) in &good {
            served(mesh, &impostor, name, shown).await?;
        }

        let rows = rows::bad(&maker, Side::Server)?;
        for Row {
            name,
            shown,
            reason,
        } in rows
        {
            let act = Act::Tls(shown, &MESH_ALPN);
            refused(mesh, &impostor, name, act, reason).await?;
        }
        for (name, other) in [
            ("another account", "spiffe://weft.local/ns/default/sa/other"),
            (
                "the client's own account",
                "spiffe://weft.local/ns/default/sa/client",
            ),
            (
                "an account that begins so",
                "spiffe://weft.local/ns/default/sa/vault2",
            ),
            (
                "an account in another case",
                "spiffe://weft.local/ns/default/sa/Vault",
            ),
            (
                "the account of another namespace",
                "spiffe://weft.local/ns/other/sa/vault",
            ),
            (
                "the control plane",
                "spiffe://weft.local/ns/weft/sa/control-plane",
            ),
        ] {
            let shown = maker.leaf(|leaf| leaf.subject_alt_names = vec![maker::uri(other)])?;
            let act = Act::Tls(shown, &MESH_ALPN);
            refused(mesh, &impostor, name, act, "wrong_identity").await?;
        }
        let (_, good) = &good[0];
        for (name, act, reason) in [
            ("no protocol", Act::Tls(good.clone(), &[]), "alpn"),
            ("another protocol", Act::Tls(good.clone(), &[b"h2"]), "alpn"),
            ("bytes only", Act::Tls(good.clone(), &[alpn::TCP]), "alpn"),
            (
                "plaintext",
                Act::Bytes(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
                "tls",
            ),
            ("TLS 1.2", Act::Bytes(bytes::tls12_server_hello()), "tls"),
            ("a close", Act::Bytes(Vec::new()), "closed"),
            (
                "half a hello",
                Act::Bytes(bytes::tls12_server_hello()[..20].to_vec()),
                "closed",
            ),
        ] {
            refused(mesh, &impostor, name, act, reason).await?;
        }
        served(mesh, &impostor, "again", good).await
    })
    .await
}

async fn served(
    mesh: &Mesh,
    impostor: &Impostor,
    name: &str,
    shown: &Credentials,
) -> anyhow::Result<()> {
    impostor.act(Act::Tls(shown.clone(), &MESH_ALPN));
    let order = request(Method::GET, "/secret", name, "a secret");
    let answer = send(&mesh.pod("client"), mesh.addr("vault", PORT), order).await?;
    assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    let visits = impostor.visits();
    let heard = visits
        .iter()
        .map(|visit| &visit.heard[..])
        .collect::<Vec<_>>();
    let heard = String::from_utf8_lossy(&heard.concat()).into_owned();
    assert!(heard.contains("GET /secret HTTP/1.1"), "{name}: {heard}");
    // The impostor gives tickets: nobody comes back with one.
    for visit in &visits {
        assert_eq!(visit.kind, Some(HandshakeKind::Full), "{name}");
    }
    Ok(())
}

/// 502 `tls_failed`; every visit is counted under this reason and no other, and heard nothing.
async fn refused(
    mesh: &Mesh,
    impostor: &Impostor,
    name: &str,
    act: Act,
    reason: &str,
) -> anyhow::Result<()> {
    let before = metrics(mesh, "client").await?;
    impostor.act(act);
    let order = request(Method::GET, "/secret", name, "a secret");
    let answer = send(&mesh.pod("client"), mesh.addr("vault", PORT), order).await?;
    assert_eq!(answer.status, 502, "{name}: {}", answer.text());
    assert_eq!(answer.outcome(), Some("tls_failed"), "{name}");
    assert_eq!(answer.header("x-weft-origin"), Some("outbound"), "{name}");

    let failed = |metrics: &Metrics| metrics.sum(FAILURES, &[("direction", "outbound")]);
    let (after, visits) = wait_for(name, SETTLED, async || {
        let now = metrics(mesh, "client").await?;
        let visits = impostor.visits();
        let all = failed(&now) - failed(&before) == visits.len() as f64;
        Ok((all && !visits.is_empty()).then_some((now, visits)))
    })
    .await?;
    for visit in &visits {
        let heard = String::from_utf8_lossy(&visit.heard);
        assert!(!heard.contains("secret"), "{name} heard {heard:?}");
        assert!(
            visit.kind.is_none() || visit.heard.is_empty(),
            "{name} was told {heard:?}"
        );
    }
    assert_counted(
        name,
        "outbound",
        reason,
        &before,
        &after,
        visits.len() as f64,
    );
    Ok(())
}

/// What the impostor does with who comes.
#[derive(Clone)]
enum Act {
    /// Shows a certificate, agrees to one of these protocols, and answers what it hears.
    Tls(Credentials, &'static [&'static [u8]]),
    /// Says this and ends its side.
    Bytes(Vec<u8>),
}

/// What somebody said who came.
#[derive(Clone)]
struct Visit {
    /// Behind the handshake, where there was one.
    heard: Vec<u8>,
    /// How the handshake went; `None` where none came about.
    kind: Option<HandshakeKind>,
}

/// Stands where a sidecar's inbound listener should.
struct Impostor {
    task: tokio::task::JoinHandle<()>,
    act: Arc<Mutex<Act>>,
    visits: Arc<Mutex<Vec<Visit>>>,
}

impl Impostor {
    fn start(pod: &Pod) -> anyhow::Result<Self> {
        let listener = pod.listen(SocketAddr::new(pod.v4().into(), ports::INBOUND))?;
        let act = Arc::new(Mutex::new(Act::Bytes(Vec::new())));
        let visits = Arc::new(Mutex::new(Vec::new()));
        let (acts, seen) = (Arc::clone(&act), Arc::clone(&visits));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let act = acts.lock().clone();
                let visit = receive(stream, act).await;
                seen.lock().push(visit);
            }
        });
        Ok(Self { task, act, visits })
    }

    /// From now on it does this, and knows nothing of before.
    fn act(&self, act: Act) {
        *self.act.lock() = act;
        self.visits.lock().clear();
    }

    fn visits(&self) -> Vec<Visit> {
        self.visits.lock().clone()
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn receive(mut stream: TcpStream, act: Act) -> Visit {
    let mut heard = vec![0; 4096];
    match act {
        Act::Bytes(bytes) => {
            let length = stream.read(&mut heard).await.unwrap_or(0);
            heard.truncate(length);
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            // To the end of what is said, so that it is an end and no reset.
            let _ = stream.read_to_end(&mut heard).await;
            Visit { heard, kind: None }
        }
        Act::Tls(shown, alpn) => {
            let Ok(mut stream) = tls::accept(stream, &shown, alpn).await else {
                return Visit {
                    heard: Vec::new(),
                    kind: None,
                };
            };
            let length = stream.read(&mut heard).await.unwrap_or(0);
            heard.truncate(length);
            let kind = stream.get_ref().1.handshake_kind();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
            Visit { heard, kind }
        }
    }
}
