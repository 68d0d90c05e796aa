//! Pods in pairs, and who stands between them.
//!
//! Nothing is measured before a stranger has tried what it should not be able to do: see [`proof`].

mod envoy;
mod foreign;
mod haproxy;
mod identity;
mod proof;

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use weft_proto::names::{env, ports};
use weft_sandbox::mesh::Programs;
use weft_sandbox::process::{Process, Program};
use weft_sandbox::{AppSpec, Mesh, Pod, Sandbox, Service, Workload};

use super::collector;
use super::options::{Options, Peer};
use super::protocol::Protocol;
use super::usage::{self, CLIENT_CORE, SERVER_CORE, pin_thread};
use super::wire;
use identity::Identities;

const COLLECTOR: &str = "collector";
const COLLECTOR_PORT: u16 = 4317;
/// Lets a pod's new connections have the port of one to the same place that is over, once that is a second old.
/// Without it, whichever sidecar closes the connections between sidecars first has the port of each wait a
/// minute for what may still be under way, and after 28,000 within it a client's has none left: Envoy's
/// closes first, Weft's does not. From the half of that on, looking for one costs more than the connection.
const PORTS_AGAIN: &str = "/proc/sys/net/ipv4/tcp_tw_reuse";
/// How long a service may be unknown.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a mesh would have: every stanza that costs something per request, and what stands in its place
/// where it is switched off.
const STANZAS: [(&str, &str, &str); 5] = [
    ("mtls", "mtls: {mode: Strict}", "mtls: {mode: Disabled}"),
    (
        "authorization",
        "authorization: {allow: [{principals: [{serviceAccount: {namespace: default, name: default}}]}]}",
        "",
    ),
    (
        "timeouts",
        "timeouts: {request: 10s, perTry: 5s, connect: 1s, idle: 60s}",
        "timeouts: {connect: 1s}",
    ),
    (
        "retries",
        "retries: {attempts: 2, conditions: [ConnectFailure, RefusedStream, Reset], statusCodes: [503]}",
        "retries: {attempts: 0}",
    ),
    (
        "circuitBreaker",
        "circuitBreaker: {scope: Endpoint, consecutiveFailures: {threshold: 5}, \
         errorRate: {thresholdPercent: 50, minRequests: 20, window: 10s}, openDuration: 30s}",
        "",
    ),
];

/// Everything that stands while it is measured.
pub(super) struct Pairs {
    pub(super) all: Vec<Pair>,
    mesh: Mesh,
    /// Those that look on.
    tapping: Vec<Process>,
    /// Sidecars of others.
    others: Vec<Process>,
    /// Somebody without a sidecar.
    stranger: Pod,
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
    pub(super) async fn start(sandbox: &Sandbox, options: &Options) -> anyhow::Result<Self> {
        let collector = Workload::new(COLLECTOR).unmeshed();
        let mesh = Mesh::builder("bench", Programs::of_this_program())
            .workload(collector.port(COLLECTOR_PORT, AppSpec::none()))
            .start(sandbox)
            .await?;
        let stranger = mesh.stranger("stranger")?;
        // What is redirected would otherwise be the whole machine's.
        anyhow::ensure!(
            stranger.place().is_none(),
            "this machine has no network namespaces for pods: nothing can be measured"
        );
        // A mesh that begins without sidecars begins without it.
        mesh.start_control_plane().await?;
        let mut pairs = Self {
            all: Vec::new(),
            tapping: Vec::new(),
            others: Vec::new(),
            stranger,
            servers: vec![Server::start(
                &mesh.pod(COLLECTOR),
                COLLECTOR_PORT,
                None,
                collector::collect,
            )],
            mesh,
        };
        for peer in &options.peers {
            let began = match options.program(*peer) {
                Some(program) => pairs.foreign(*peer, &program).await,
                None if peer.is_weft() => pairs.weft(*peer, options.sidecar(*peer)).await,
                None => pairs.direct(*peer).await,
            };
            began.with_context(|| {
                let (own, others) = (pairs.mesh.log_tails(), foreign::last_words(&pairs.others));
                format!("starting {}\n{own}\n{others}", peer.name())
            })?;
        }
        Ok(pairs)
    }

    /// The pair of this peer.
    pub(super) fn of(&self, peer: Peer) -> Option<&Pair> {
        self.all.iter().find(|pair| pair.peer == peer)
    }

    /// Adds services in front of the same server, each with a policy of its own, and has Weft's client ask
    /// each of them for something.
    pub(super) async fn know(&self, numbers: Range<usize>) -> anyhow::Result<()> {
        let pair = self.of(Peer::Weft).context("no pair of Weft's own")?;
        let name = |number| format!("known-{number}");
        let (port, target) = (Protocol::Http1.service_port(), Protocol::Http1.app_port());
        let service = |number| {
            Service::new(&name(number))
                .endpoints(["server-weft"])
                .port(port, target)
                .app_protocol(Protocol::Http1.declared())
        };
        self.mesh.add_services(numbers.clone().map(service))?;
        let policies = numbers.clone().map(|it| policy(&name(it), Peer::Weft));
        let policies: Vec<String> = policies.collect();
        self.mesh.apply_policy(
            &format!("known-to-{}", numbers.end),
            &policies.join("---\n"),
        )?;
        for number in numbers {
            let to = SocketAddr::from((self.mesh.cluster_ip(&name(number)), port));
            let asking = move || wire::until_answered(to, Protocol::Http1, PATIENCE);
            let answered = pair.client.run_future(asking).await;
            answered.with_context(|| name(number))?;
        }
        Ok(())
    }

    /// Where the sidecars of Weft are.
    pub(super) fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    async fn direct(&mut self, peer: Peer) -> anyhow::Result<()> {
        let server = self.mesh.stranger("server-direct")?;
        let pair = Pair {
            peer,
            client: self.mesh.stranger("client-direct")?,
            at: server.v4().into(),
            sidecars: Vec::new(),
        };
        has_ports(&pair.client)?;
        self.serve(&server);
        pair.until_answered().await?;
        // What is refused elsewhere would be taken.
        let answered = proof::takes_plaintext(&self.stranger, pair.to(Protocol::Http1)).await?;
        anyhow::ensure!(answered, "a server without a sidecar refuses plaintext");
        self.all.push(pair);
        Ok(())
    }

    /// Sidecars of others, in pods of their own.
    async fn foreign(&mut self, peer: Peer, program: &Path) -> anyhow::Result<()> {
        let name = peer.name();
        let client = self.mesh.stranger(&format!("client-{name}"))?;
        let server = self.mesh.stranger(&format!("server-{name}"))?;
        has_ports(&client)?;
        let dir = self.mesh.dir().join(name);
        let identities = Identities::new(&dir)?;
        let setup = match peer {
            Peer::Haproxy => haproxy::setup(program, &dir, &identities, server.v4())?,
            _ => envoy::setup(program, &dir, &identities, server.v4())?,
        };
        self.serve(&server);
        let mut sidecars = Vec::new();
        let places = [(&client, CLIENT_CORE), (&server, SERVER_CORE)];
        for ((pod, core), sidecar) in places.into_iter().zip(&setup.sidecars) {
            let log = dir.join(format!("{}.log", pod.name()));
            let (process, found) = sidecar.start(pod, core, &log)?;
            self.others.push(process);
            sidecars.push(found);
        }
        let pair = Pair {
            peer,
            client,
            at: server.v4().into(),
            sidecars,
        };
        pair.until_answered().await?;
        let proven = async {
            proof::mutual_tls(&self.stranger, &server, &setup).await?;
            let pods = [&pair.client, &server];
            proof::identities(&self.stranger, pods, &identities, &setup).await
        };
        proven.await.context("this is not mutual TLS")?;
        self.all.push(pair);
        Ok(())
    }

    async fn weft(&mut self, peer: Peer, sidecar: Option<PathBuf>) -> anyhow::Result<()> {
        let mesh = &self.mesh;
        let word = peer.name().replace('+', "-");
        let [client, server, service] =
            ["client", "server", "service"].map(|role| format!("{role}-{word}"));
        let with_settings = |workload: Workload| {
            let workload = workload.workers(peer.workers());
            let workload = match &sidecar {
                Some(file) => workload.sidecar(Program::new(file)),
                None => workload,
            };
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
        mesh.apply_policy(&word, &policy(&service, peer))?;
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
        has_ports(&pair.client)?;
        let server = mesh.pod(&server);
        self.serve(&server);
        // Before nobody asked, its sidecar knows of no service.
        pair.until_answered().await?;
        let behind = (server.v4(), Protocol::Http1.app_port()).into();
        let plaintext = proof::takes_plaintext(&self.stranger, behind).await?;
        let wanted = peer.without() == Some("mtls");
        anyhow::ensure!(
            plaintext == wanted,
            "the server's sidecar takes plaintext: {plaintext}"
        );
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

/// Sees to it that a client's pod does not run out of ports: [`PORTS_AGAIN`].
fn has_ports(client: &Pod) -> anyhow::Result<()> {
    let set = client.run(|| std::fs::write(PORTS_AGAIN, "1"));
    set.context(PORTS_AGAIN)
}

/// The policy that `peer` has for a service.
fn policy(service: &str, peer: Peer) -> String {
    let stanzas = stanzas(peer);
    format!(
        "apiVersion: weft.dev/v1alpha1\n\
         kind: TrafficPolicy\n\
         metadata: {{name: {service}, namespace: default}}\n\
         spec: {{targetRefs: [{{kind: Service, name: {service}}}], {stanzas}}}\n"
    )
}

/// The stanzas of `peer`'s policy.
fn stanzas(peer: Peer) -> String {
    let with = STANZAS.into_iter().map(|(name, with, without)| {
        let without_it = peer.without() == Some(name);
        // Nobody is told from another without TLS.
        let nobody = peer.without() == Some("mtls") && name == "authorization";
        if without_it || nobody { without } else { with }
    });
    let with = with.chain(peer.logged());
    let with: Vec<&str> = with.filter(|stanza| !stanza.is_empty()).collect();
    with.join(", ")
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

    /// Until the client has an answer of the server at every port.
    async fn until_answered(&self) -> anyhow::Result<()> {
        for protocol in Protocol::PORTS {
            let (asking, to) = (self.client.clone(), self.to(protocol));
            let answered = asking.run_future(move || wire::until_answered(to, protocol, PATIENCE));
            answered.await.with_context(|| protocol.name())?;
        }
        Ok(())
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
