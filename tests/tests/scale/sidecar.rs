//! A sidecar's side of one discovery stream, as `weft-proxy` talks: it proves who it is, says hello,
//! subscribes, applies every update and then acknowledges it, asks for the endpoints of the backends
//! that it hears of, and reports. Nothing else of a sidecar is here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use weft_proto::discovery::client_message::Kind as Say;
use weft_proto::discovery::discovery_client::DiscoveryClient;
use weft_proto::discovery::server_message::Kind as Hear;
use weft_proto::discovery::update::Resource;
use weft_proto::discovery::{
    Ack, ClientMessage, Edge, EdgeTls, Endpoint, Hello, Outbound, Report, ResourceKey, ServiceRef,
    SocketAddress, Subscribe, Update, outbound,
};
use weft_proto::identity::CertifyRequest;
use weft_proto::identity::identity_client::IdentityClient;
use weft_tests::tls::{self, Credentials};

use crate::plan::{self, Plan, Topic, pod_name};

/// As `weft-proxy` has them.
const CONNECTION_WINDOW: u32 = 16 << 20;
const STREAM_WINDOW: u32 = 4 << 20;
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
const SEND_BUFFER: usize = 64;
const MAX_MESSAGE: usize = 16 << 20;

/// An update that was applied and acknowledged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) stream: usize,
    pub(crate) topic: Topic,
    pub(crate) at: Instant,
}

/// What all sidecars share.
pub(crate) struct Fleet {
    pub(crate) plan: Plan,
    /// In the order of their acknowledgements.
    pub(crate) seen: Mutex<Vec<Seen>>,
    /// Streams that ended, and why.
    pub(crate) ended: Mutex<Vec<String>>,
    /// What each sidecar has.
    pub(crate) held: Vec<Mutex<Held>>,
}

/// What one sidecar has.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// By service.
    pub(crate) endpoints: HashMap<usize, BTreeMap<SocketAddr, Endpoint>>,
    /// The seconds of the last route's `request` timeout, by service.
    pub(crate) timeouts: HashMap<usize, i64>,
    /// Requests per second of the one limit, by port.
    pub(crate) limits: HashMap<u32, u32>,
    pub(crate) roots: usize,
}

/// A certificate of its own: the identity that a token proves.
pub(crate) async fn certify(
    control_plane: SocketAddr,
    token: String,
) -> anyhow::Result<Credentials> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let request = CertificateParams::default().serialize_request(&key)?;
    let channel = connect(control_plane, None).await?;
    let mut client = IdentityClient::with_origin(channel, origin());
    let request = CertifyRequest {
        token,
        csr: request.der().to_vec(),
    };
    let answer = client.certify(request).await?.into_inner();
    Ok(Credentials::of(answer.chain, key.serialize_der()))
}

/// Opens a stream, which then goes on by itself.
pub(crate) async fn open(
    fleet: Arc<Fleet>,
    stream: usize,
    control_plane: SocketAddr,
    credentials: Credentials,
) -> anyhow::Result<()> {
    let channel = connect(control_plane, Some(&credentials)).await?;
    let mut client =
        DiscoveryClient::with_origin(channel, origin()).max_decoding_message_size(MAX_MESSAGE);
    let (say, messages) = mpsc::channel(SEND_BUFFER);
    let mut sidecar = Sidecar {
        topics: HashMap::new(),
        backends: HashSet::new(),
        fleet,
        stream,
        say,
    };
    let hello = Hello {
        workload: pod_name(stream, 0),
        zone: String::new(),
        proxy_version: env!("CARGO_PKG_VERSION").to_owned(),
        held: Vec::new(),
    };
    sidecar.say(Say::Hello(hello)).await?;
    let mut incoming = client
        .stream(ReceiverStream::new(messages))
        .await?
        .into_inner();
    let first = incoming.message().await?.and_then(|message| message.kind);
    ensure!(
        matches!(first, Some(Hear::HelloReply(_))),
        "no answer to hello"
    );
    for (topic, key) in sidecar.fleet.plan.subscriptions(stream) {
        sidecar.subscribe(topic, key).await?;
    }
    tokio::spawn(async move {
        let end = sidecar.run(incoming).await;
        let why = end.err().map_or_else(String::new, |why| format!("{why:#}"));
        let mut ended = sidecar.fleet.ended.lock();
        ended.push(format!("stream {}: {why}", sidecar.stream));
    });
    Ok(())
}

struct Sidecar {
    fleet: Arc<Fleet>,
    stream: usize,
    say: mpsc::Sender<ClientMessage>,
    topics: HashMap<ResourceKey, Topic>,
    backends: HashSet<ServiceRef>,
}

impl Sidecar {
    async fn run(
        &mut self,
        mut incoming: tonic::Streaming<weft_proto::discovery::ServerMessage>,
    ) -> anyhow::Result<()> {
        let first = REPORT_INTERVAL.mul_f64(fastrand::f64());
        let mut report = interval_at(tokio::time::Instant::now() + first, REPORT_INTERVAL);
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = incoming.message() => {
                    match message?.context("the control plane ended it")?.kind {
                        Some(Hear::Update(update)) => self.on_update(update).await?,
                        Some(Hear::HelloReply(_)) => {}
                        other => bail!("unexpected: {other:?}"),
                    }
                }
                _ = report.tick() => {
                    let report = self.report();
                    self.say(Say::Report(report)).await?;
                }
            }
        }
    }

    async fn on_update(&mut self, update: Update) -> anyhow::Result<()> {
        let key = update.key.context("a key")?;
        let topic = *self.topics.get(&key).context("a key that is subscribed")?;
        let resource = update.resource.context("a resource")?;
        let backends = self.apply(topic, resource)?;
        let ack = Ack {
            key: Some(key),
            version: update.version,
        };
        self.say(Say::Ack(ack)).await?;
        self.fleet.seen.lock().push(Seen {
            stream: self.stream,
            topic,
            at: Instant::now(),
        });
        for backend in backends {
            if self.backends.insert(backend.clone()) {
                let (topic, key) = plan::endpoints(&backend);
                self.subscribe(topic, key).await?;
            }
        }
        Ok(())
    }

    /// Takes a resource over. The backends that it names.
    fn apply(&self, topic: Topic, resource: Resource) -> anyhow::Result<Vec<ServiceRef>> {
        let mut held = self.fleet.held[self.stream].lock();
        match (topic, resource) {
            (Topic::Bundle, Resource::TrustBundle(bundle)) => held.roots = bundle.roots.len(),
            (Topic::Inbound(port), Resource::Inbound(inbound)) => {
                let limit = inbound.rate_limits.first().and_then(|limit| limit.rate);
                let limit = limit.context("a limit")?;
                held.limits.insert(port, limit.requests_per_second);
            }
            (Topic::Service(service), Resource::Outbound(Outbound { target })) => {
                let Some(outbound::Target::Service(target)) = target else {
                    bail!("not a service");
                };
                let timeouts = target.routes.last().and_then(|route| route.timeouts);
                let request = timeouts.and_then(|timeouts| timeouts.request);
                held.timeouts
                    .insert(service, request.context("a timeout")?.seconds);
                let backends = target.backends.into_iter();
                return Ok(backends.filter_map(|backend| backend.service).collect());
            }
            (Topic::Endpoints(service), Resource::Endpoints(all)) => {
                let all = all.endpoints.into_iter();
                let all = all.map(|endpoint| Ok((address(endpoint.address.as_ref())?, endpoint)));
                held.endpoints
                    .insert(service, all.collect::<anyhow::Result<_>>()?);
            }
            (Topic::Endpoints(service), Resource::EndpointsDelta(delta)) => {
                let known = held.endpoints.get_mut(&service);
                let known = known.context("a delta to something")?;
                for gone in &delta.remove {
                    let gone = known.remove(&address(Some(gone))?);
                    ensure!(gone.is_some(), "removed what is not here");
                }
                for endpoint in delta.upsert {
                    known.insert(address(endpoint.address.as_ref())?, endpoint);
                }
            }
            (topic, resource) => bail!("{topic:?} is answered with {resource:?}"),
        }
        Ok(Vec::new())
    }

    async fn subscribe(&mut self, topic: Topic, key: ResourceKey) -> anyhow::Result<()> {
        self.topics.insert(key.clone(), topic);
        self.say(Say::Subscribe(Subscribe { key: Some(key) })).await
    }

    async fn say(&self, kind: Say) -> anyhow::Result<()> {
        let message = ClientMessage { kind: Some(kind) };
        self.say.send(message).await.context("nobody listens")
    }

    fn report(&self) -> Report {
        let edge = |backend: &ServiceRef| Edge {
            outbound: true,
            service: format!("{}/{}:{}", backend.namespace, backend.name, backend.port),
            peer: format!("{}/any", backend.namespace),
            tls: EdgeTls::Mesh.into(),
            connections: 10,
            requests: 1000,
            ..Edge::default()
        };
        Report {
            watched_seconds: 1000,
            edges: self.backends.iter().map(edge).collect(),
            ..Report::default()
        }
    }
}

fn address(address: Option<&SocketAddress>) -> anyhow::Result<SocketAddr> {
    let address = address.context("an address")?;
    let ip: [u8; 4] = address.ip.as_slice().try_into()?;
    Ok((ip, u16::try_from(address.port)?).into())
}

async fn connect(to: SocketAddr, credentials: Option<&Credentials>) -> anyhow::Result<Channel> {
    let tcp = TcpStream::connect(to).await?;
    tcp.set_nodelay(true)?;
    let stream = tls::connect(tcp, credentials, &[b"h2"]).await?;
    let (requests, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(connection);
    Ok(Channel(requests))
}

fn origin() -> http::Uri {
    http::Uri::from_static("https://control-plane.weft")
}

/// A connection as generated clients want it.
#[derive(Clone)]
struct Channel(SendRequest<Body>);

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
