//! Pods in pairs, and who stands between them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use weft_proto::names::{env, ports};
use weft_sandbox::mesh::Programs;
use weft_sandbox::process::{Process, Program};
use weft_sandbox::{AppSpec, Mesh, Pod, Sandbox, Service, Workload};

use super::collector;
use super::options::Peer;
use super::protocol::Protocol;
use super::usage::{self, CLIENT_CORE, SERVER_CORE, pin_thread};
use super::wire;

const COLLECTOR: &str = "collector";
const COLLECTOR_PORT: u16 = 4317;
/// How long a service may be unknown.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a mesh would have: every stanza that costs something per request.
const STANZAS: &str = "mtls: {mode: Strict}, \
     timeouts: {request: 10s, perTry: 5s, connect: 1s, idle: 60s}, \
     retries: {attempts: 2, conditions: [ConnectFailure, RefusedStream, Reset], statusCodes: [503]}, \
     circuitBreaker: {scope: Endpoint, consecutiveFailures: {threshold: 5}, \
     errorRate: {thresholdPercent: 50, minRequests: 20, window: 10s}, openDuration: 30s}";

/// Everything that stands while it is measured.
pub(super) struct Pairs {
    pub(super) all: Vec<Pair>,
    mesh: Mesh,
    /// Those that look on.
    tapping: Vec<Process>,
    servers: Vec<Server>,
}

/// A client's pod and a server's.
pub(super) struct Pair {
    pub(super) peer: Peer,
    pub(super) client: Pod,
    /// What the client asks.
    at: IpAddr,
    /// The sidecars' processes, the client's first; none where there are none.
    pub(super) sidecars: Vec<usage::Process>,
}

/// A thread in a pod that serves until this is dropped.
struct Server {
    _end: oneshot::Sender<()>,
}

impl Pairs {
    /// Starts all of them.
    pub(super) async fn start(sandbox: &Sandbox, peers: &[Peer]) -> anyhow::Result<Self> {
        let collector = Workload::new(COLLECTOR).unmeshed();
        let mesh = Mesh::builder("bench", Programs::of_this_program())
            .workload(collector.port(COLLECTOR_PORT, AppSpec::none()))
            .start(sandbox)
            .await?;
        // A mesh that begins without sidecars begins without it.
        mesh.start_control_plane().await?;
        let mut pairs = Self {
            all: Vec::new(),
            tapping: Vec::new(),
            servers: vec![Server::start(
                &mesh.pod(COLLECTOR),
                COLLECTOR_PORT,
                None,
                collector::collect,
            )],
            mesh,
        };
        for peer in peers {
            let began = if peer.is_weft() {
                pairs.weft(*peer).await
            } else {
                pairs.direct(*peer)
            };
            began.with_context(|| {
                let logs = pairs.mesh.log_tails();
                format!("starting {}\n{logs}", peer.name())
            })?;
        }
        Ok(pairs)
    }

    /// Where the sidecars of Weft are.
    pub(super) fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    fn direct(&mut self, peer: Peer) -> anyhow::Result<()> {
        let server = self.mesh.stranger("server-direct")?;
        self.all.push(Pair {
            peer,
            client: self.mesh.stranger("client-direct")?,
            at: server.v4().into(),
            sidecars: Vec::new(),
        });
        self.serve(&server);
        Ok(())
    }

    async fn weft(&mut self, peer: Peer) -> anyhow::Result<()> {
        let mesh = &self.mesh;
        let word = peer.name().replace('+', "-");
        let [client, server, service] =
            ["client", "server", "service"].map(|role| format!("{role}-{word}"));
        let with_settings = |workload: Workload| {
            let workload = workload.workers(1);
            let Some(share) = peer.traced() else {
                return workload;
            };
            let endpoint = format!("http://{}:{COLLECTOR_PORT}", mesh.pod(COLLECTOR).v4());
            workload
                .env(env::TRACE_ENDPOINT, &endpoint)
                .env(env::TRACE_SAMPLE, share)
        };
        mesh.add_workload(with_settings(Workload::new(&client)))
            .await?;
        let mut workload = Workload::new(&server);
        let mut behind = Service::new(&service).endpoints([&*server]);
        for protocol in Protocol::PORTS {
            let (port, target) = (protocol.service_port(), protocol.app_port());
            let declared = protocol.declared();
            workload = workload.port(target, AppSpec::none().protocol(declared));
            behind = behind
                .port(port, target)
                .port_name(protocol.name())
                .app_protocol(declared);
        }
        mesh.add_workload(with_settings(workload)).await?;
        mesh.add_service(behind)?;
        let logged = peer.logged().unwrap_or_default();
        mesh.apply_policy(
            &word,
            &format!(
                "apiVersion: weft.dev/v1alpha1\n\
                 kind: TrafficPolicy\n\
                 metadata: {{name: {word}, namespace: default}}\n\
                 spec: {{targetRefs: [{{kind: Service, name: {service}}}], {STANZAS}{logged}}}\n"
            ),
        )?;
        let mut sidecars = Vec::new();
        for (workload, core) in [(&client, CLIENT_CORE), (&server, SERVER_CORE)] {
            let sidecar = usage::Process::find(mesh.sidecar(workload)?.id())?;
            sidecar.pin(core).context("pinning a sidecar")?;
            sidecars.push(sidecar);
        }
        let pair = Pair {
            peer,
            client: mesh.pod(&client),
            at: mesh.cluster_ip(&service).into(),
            sidecars,
        };
        let server = mesh.pod(&server);
        self.serve(&server);
        // Before nobody asked, its sidecar knows of no service.
        let (asking, to) = (pair.client.clone(), pair.to(Protocol::Http1));
        let answered =
            asking.run_future(move || wire::until_answered(to, Protocol::Http1, PATIENCE));
        answered.await?;
        if let Some(percent) = peer.tapped() {
            self.tap(&client, percent)?;
        }
        self.all.push(pair);
        Ok(())
    }

    /// Looks on until the end of the run, as somebody at a terminal would.
    fn tap(&mut self, workload: &str, percent: &str) -> anyhow::Result<()> {
        let server = format!("http://127.0.0.1:{}", ports::ADMIN);
        let workload = format!("{}/{workload}", self.mesh.namespace());
        let command = Program::new(std::env::current_exe()?)
            .args(["tap", &workload, "--server", &server])
            .args(["--sample", percent, "--rate", "1000", "--for", "10m"])
            .command();
        let log = self.mesh.dir().join(format!("tap-{percent}.log"));
        let pod = self.mesh.control_plane_pod();
        self.tapping.push(pod.start("tap", command, &log)?);
        Ok(())
    }

    fn serve(&mut self, server: &Pod) {
        for protocol in Protocol::PORTS {
            let (port, core) = (protocol.app_port(), Some(SERVER_CORE));
            self.servers.push(match protocol {
                Protocol::Http1 => Server::start(server, port, core, wire::serve_http1),
                Protocol::Http2 | Protocol::Grpc => {
                    Server::start(server, port, core, wire::serve_http2)
                }
                Protocol::Tcp => Server::start(server, port, core, wire::serve_tcp),
            });
        }
    }
}

impl Pair {
    /// Where the client finds who speaks `protocol`.
    pub(super) fn to(&self, protocol: Protocol) -> SocketAddr {
        let port = match self.peer {
            Peer::Direct => protocol.app_port(),
            _ => protocol.service_port(),
        };
        (self.at, port).into()
    }
}

impl Server {
    fn start<F>(pod: &Pod, port: u16, core: Option<usize>, serve: fn(TcpListener) -> F) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        let (end, ended) = oneshot::channel();
        let address = SocketAddr::from((pod.v4(), port));
        drop(pod.spawn_runtime(move || async move {
            if let Some(core) = core {
                pin_thread(core).expect("the machine has the core");
            }
            let listener = TcpListener::bind(address).await;
            let listener = listener.expect("nobody else listens in a new pod");
            tokio::select! {
                () = serve(listener) => {}
                _ = ended => {}
            }
        }));
        Self { _end: end }
    }
}
