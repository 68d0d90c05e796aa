//! The life of a connection that the application makes.
//!
//! [`Outbound::connection`] is the way in: original destination, identification, detection, then
//! requests (`request`) or bytes (`bytes`). Promises:
//!
//! * Traffic to addresses outside the mesh's networks passes as it is, without asking anybody.
//! * Inside, a destination that is unknown while the control plane is away waits up to 5 s and is
//!   then refused as `config_unavailable`; what is known stays known.
//! * Silence is never a verdict: a silent client makes the sidecar dial, and whoever speaks first
//!   decides. Only a server that spoke first is remembered for the destination.
//! * Where an identity is promised, plaintext is never used instead.

pub(crate) mod backend;
pub(crate) mod bytes;
mod course;
pub(crate) mod destination;
pub(crate) mod endpoint;
pub(crate) mod fallback;
mod filters;
mod limits;
mod mirror;
pub(crate) mod request;
pub(crate) mod tries;
mod view;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ::bytes::BytesMut;
use metrics::Counter;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use weft_proto::names::sentinel;

use crate::bounds::{Bounds, ProcessLimits};
use crate::detect::{self, Speaker, Verdict};
use crate::discovery::Discovery;
use crate::http::Version;
use crate::http::floods::{FloodBounds, FloodLimits};
use crate::http::server::{self, ServerOptions};
use crate::identity::{HelloVerdict, Identity, is_mesh_client_hello};
use crate::net::age::AgeCap;
use crate::net::closing::{self, Closing, Phase};
use crate::net::{Dialer, Io, OriginalDestination, OwnAddresses, Rewind, Stream};
use crate::outcome::{Failure, Origin, Outcome};
use crate::policy::Protocol;
use crate::telemetry::Telemetry;
use crate::worker::Seat;
use bytes::Upstream;
use destination::{Destination, Destinations, Service, Target};

/// How long an unknown destination waits for discovery.
pub(crate) const DISCOVERY_WAIT: Duration = Duration::from_secs(5);
/// After this much silence the upstream is dialled, to hear whether the server speaks first.
const SILENCE: Duration = Duration::from_millis(100);
/// How long bytes that could still become HTTP may stay undecided; then they are just bytes.
const UNDECIDED_LIMIT: Duration = Duration::from_secs(10);
/// What the sentinel connection is told: it reached a sidecar, through the redirect.
pub(crate) const SENTINEL_GREETING: &[u8] = b"weft\n";

/// The outbound direction.
pub struct Outbound {
    shared: Arc<Shared>,
    destinations: Arc<Destinations>,
}

/// What all outbound connections share.
pub(crate) struct Shared {
    pub(crate) discovery: Discovery,
    pub(crate) identity: Identity,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) dialer: Dialer,
    pub(crate) own_addresses: OwnAddresses,
    /// `namespace/name` of this workload instance: what `ClientIdentity` stickiness hashes, and the
    /// source of everything that consistent hashing sees.
    pub(crate) workload: Arc<str>,
    /// As this process was told at its start; empty when unknown.
    zone: Arc<str>,
    pub(crate) workers: usize,
    pub(crate) max_age: AgeCap,
    pub(crate) keep_case: bool,
    pub(crate) floods: FloodBounds,
    /// What the end of this process waits for.
    pub(crate) connections: TaskTracker,
    pub(crate) limits: Limits,
    /// What the process bears.
    pub(crate) bounds: Arc<Bounds>,
}

/// Bounds that were hit.
pub(crate) struct Limits {
    pub(crate) destinations: Counter,
    pub(crate) backends: Counter,
    source_ports: Counter,
}

/// What outbound connections stand on.
pub struct OutboundParts {
    /// What this sidecar knows.
    pub discovery: Discovery,
    /// Who it is.
    pub identity: Identity,
    /// Where it counts.
    pub telemetry: Arc<Telemetry>,
    /// How it connects.
    pub dialer: Dialer,
    /// The workload's own addresses.
    pub own_addresses: OwnAddresses,
    /// `namespace/name` of the workload.
    pub workload: Arc<str>,
    /// Its zone; where it is empty, the control plane's word holds.
    pub zone: Arc<str>,
    /// Data-path workers.
    pub workers: usize,
    /// How old connections to other sidecars may become.
    pub max_age: AgeCap,
    /// Names of HTTP/1 headers are written as they were spelled.
    pub keep_case: bool,
    /// What is borne of one HTTP/2 connection.
    pub floods: FloodLimits,
    /// What is borne in all.
    pub limits: ProcessLimits,
    /// What the end of this process waits for.
    pub connections: TaskTracker,
}

/// What a connection to a service turned out to be.
enum Opened {
    /// With the host that the application's own TLS asks for.
    Bytes(Io, Option<Box<Upstream>>, Option<Arc<str>>),
    Http(Io, Version),
    /// The client has gone.
    Nothing,
}

impl Outbound {
    /// The outbound direction of one workload.
    pub fn new(parts: OutboundParts) -> Arc<Self> {
        let limits = Limits {
            destinations: parts.telemetry.limit("outbound_destinations"),
            backends: parts.telemetry.limit("outbound_backends"),
            source_ports: parts.telemetry.limit("outbound_source_ports"),
        };
        let floods = FloodBounds {
            limits: parts.floods,
            hits: parts.telemetry.limit("http2_floods"),
        };
        let bounds = Bounds::new(
            parts.limits,
            Origin::Outbound,
            parts.workers,
            &parts.telemetry,
        );
        let shared = Arc::new(Shared {
            bounds,
            discovery: parts.discovery,
            identity: parts.identity,
            telemetry: parts.telemetry,
            dialer: parts.dialer,
            own_addresses: parts.own_addresses,
            workload: parts.workload,
            zone: parts.zone,
            workers: parts.workers,
            max_age: parts.max_age,
            keep_case: parts.keep_case,
            floods,
            connections: parts.connections,
            limits,
        });
        let destinations = Destinations::new(Arc::clone(&shared));
        let idle = Arc::downgrade(&destinations);
        shared.bounds.dials.reclaim_with(move || {
            let Some(destinations) = idle.upgrade() else {
                return false;
            };
            let backends = destinations.backends().all();
            backends.iter().any(|backend| backend.close_idle())
        });
        Arc::new(Self {
            shared,
            destinations,
        })
    }

    /// The whole life of one accepted connection. Each part of it is boxed: what it needs is given
    /// back when it is over, and an idle connection has only what it needs then.
    pub async fn connection(
        self: Arc<Self>,
        mut tcp: TcpStream,
        original: &dyn OriginalDestination,
        seat: &Seat,
        closing: Closing,
    ) {
        // Without a redirect behind it, a connection was made to this listener itself.
        let Some(address) = original.of(&tcp) else {
            return;
        };
        if address == sentinel::V4 || address == sentinel::V6 {
            // The prober may have heard enough already.
            let _ = tcp.write_all(SENTINEL_GREETING).await;
            return;
        }
        if !self.is_in_mesh(address.ip()).await {
            return Box::pin(self.pass(tcp.into(), address, closing)).await;
        }

        let destination = self.destinations.at(address);
        let target = match Box::pin(destination.known(DISCOVERY_WAIT)).await {
            Ok(target) => target,
            Err(failure) => return Box::pin(self.refuse(tcp, failure, closing)).await,
        };
        let service = match &*target {
            Target::Endpoint { service, .. } | Target::Service(service) => Arc::clone(service),
            Target::NotFound => {
                return Box::pin(self.pass(tcp.into(), address, closing)).await;
            }
        };
        let opened = tokio::select! {
            opened = Box::pin(self.open(tcp, address, (&destination, &service), seat)) => opened,
            () = Box::pin(closing.clone().ends_silence()) => return,
        };
        match opened {
            Opened::Bytes(io, upstream, sni) => {
                let relay = Box::pin(self.bytes(io, &service, upstream, sni)).await;
                // What is known of the service may be replaced while the bytes go on.
                drop((target, service, destination, self));
                if let Some(relay) = relay {
                    Box::pin(relay.run(closing)).await;
                }
            }
            Opened::Http(io, version) => {
                let options = self.shared.server_options();
                let requests = request::Requests::new(self, destination, closing.clone());
                Box::pin(server::serve(
                    io,
                    version,
                    Arc::new(requests),
                    closing,
                    options,
                ))
                .await;
            }
            Opened::Nothing => {}
        }
    }

    /// Finds out what the client speaks.
    async fn open(
        &self,
        mut tcp: TcpStream,
        address: SocketAddr,
        (destination, service): (&Destination, &Service),
        seat: &Seat,
    ) -> Opened {
        if service.target.protocol == Protocol::Opaque
            || destination.server_speaks_first()
            || (service.target.protocol == Protocol::Detect && self.is_server_first(address.port()))
        {
            return Opened::Bytes(tcp.into(), None, None);
        }
        let mut heard = BytesMut::new();
        let mut upstream = None;
        let patience = if service.target.protocol == Protocol::Detect {
            SILENCE
        } else {
            // Policy says that clients speak HTTP, and so they speak first.
            Duration::MAX
        };
        match timeout(patience, detect::read_more(&mut tcp, &mut heard)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Opened::Nothing,
            // Where nobody can be dialled, what the client says may still get an honest answer.
            Err(_) => {
                if let Ok(mut dialled) = self.dial_bytes(service).await {
                    match detect::first_speaker(&mut tcp, &mut heard, dialled.io()).await {
                        Ok(Speaker::Client) => upstream = Some(Box::new(dialled)),
                        Ok(Speaker::Server(greeting)) => {
                            // One that only left has not spoken.
                            if !greeting.is_empty() {
                                destination.remember_server_first();
                            }
                            let dialled = Box::new(dialled.rewound(greeting));
                            return Opened::Bytes(tcp.into(), Some(dialled), None);
                        }
                        Err(_) => return Opened::Nothing,
                    }
                } else if detect::read_more(&mut tcp, &mut heard).await.is_err() {
                    return Opened::Nothing;
                }
            }
        }
        match timeout(UNDECIDED_LIMIT, verdict(&mut tcp, &mut heard)).await {
            Ok(Verdict::Http1) => requests(heard, tcp, Version::Http1, seat).await,
            Ok(Verdict::Http2) => requests(heard, tcp, Version::Http2, seat).await,
            // What is said to be HTTP is refused as HTTP where it is not, or never is a whole head.
            Ok(Verdict::Opaque) | Err(_)
                if service.target.protocol == Protocol::Http1 && !heard.is_empty() =>
            {
                requests(heard, tcp, Version::Http1, seat).await
            }
            Ok(Verdict::Tls) => {
                // One that breaks off in its first words is passed on as it is.
                let asked = timeout(UNDECIDED_LIMIT, server_name(&mut tcp, &mut heard)).await;
                Opened::Bytes(rewound(heard, tcp), upstream, asked.unwrap_or_default())
            }
            _ => Opened::Bytes(rewound(heard, tcp), upstream, None),
        }
    }

    /// Answers what can be answered with `failure`; closes the rest.
    async fn refuse(&self, mut tcp: TcpStream, failure: Failure, mut closing: Closing) {
        tracing::info!(%failure, "connection refused");
        let mut heard = BytesMut::new();
        let version = match timeout(SILENCE, verdict(&mut tcp, &mut heard)).await {
            Ok(Verdict::Http1) => Version::Http1,
            Ok(Verdict::Http2) => Version::Http2,
            _ => {
                let unknown: Arc<str> = crate::inbound::UNKNOWN.into();
                let tls = crate::telemetry::Tls::None;
                return self
                    .tcp_connection(
                        Arc::clone(&unknown),
                        Arc::clone(&unknown),
                        unknown,
                        tls,
                        None,
                    )
                    .end(failure.outcome);
            }
        };
        let refusal = Arc::new(request::Refusal::new(&self.shared, failure));
        // What is unknown now may be known soon: the client is told to come again.
        let (announce, leaving) = closing::channel();
        announce.advance(Phase::Announcing);
        let options = ServerOptions {
            announce: true,
            ..self.shared.server_options()
        };
        let served = server::serve(rewound(heard, tcp), version, refusal, leaving, options);
        tokio::select! {
            () = served => {}
            _ = closing.reached(Phase::Over) => {}
        }
    }

    /// Closes connections of this worker that have been idle for too long. To be called now and
    /// then on every worker: without traffic nothing else does.
    pub fn sweep(&self) {
        for backend in self.destinations.backends().all() {
            for endpoint in backend.known_endpoints().iter() {
                endpoint.sweep();
            }
        }
    }

    /// Runs what goes on after its connection's task has ended.
    pub(crate) fn spawn_tracked(
        &self,
        what: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let supervised = self.shared.telemetry.supervise(what, task);
        self.shared.connections.spawn(supervised);
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn destinations(&self) -> &Arc<Destinations> {
        &self.destinations
    }

    /// Whether an address belongs to the mesh. Before that is known nothing is sent anywhere: the
    /// first word of the control plane is waited for, and a sidecar without it is not ready.
    async fn is_in_mesh(&self, ip: IpAddr) -> bool {
        let mesh = self.shared.discovery.mesh();
        let known = match mesh.load() {
            Some(known) => Some(known),
            // Boxed, as it is waited for once in a sidecar's life.
            None => Box::pin(mesh.ready(DISCOVERY_WAIT)).await,
        };
        // Without an answer the destination is asked for, which fails honestly.
        known.is_none_or(|mesh| mesh.contains(ip))
    }

    fn is_server_first(&self, port: u16) -> bool {
        let mesh = self.shared.discovery.mesh().load();
        mesh.is_some_and(|mesh| mesh.server_first_ports.contains(&port))
    }
}

impl Shared {
    /// The workload's zone; empty when nobody knows.
    fn zone(&self) -> Arc<str> {
        if !self.zone.is_empty() {
            return Arc::clone(&self.zone);
        }
        let mesh = self.discovery.mesh().load();
        mesh.map_or_else(|| "".into(), |mesh| Arc::clone(&mesh.zone))
    }

    /// [`Failure::not_connected`], and counts where it was for want of source ports.
    fn not_connected(&self, error: io::Error, refused: impl Into<Cow<'static, str>>) -> Failure {
        let failure = Failure::not_connected(error, refused);
        if failure.outcome == Outcome::Overflow {
            self.limits.source_ports.increment(1);
        }
        failure
    }

    /// The application's own connections are kept for an hour, if nobody says otherwise; it is not
    /// told of a pod's end, because it is the pod's application that ends.
    fn server_options(&self) -> ServerOptions {
        ServerOptions {
            announce: false,
            keep_case: self.keep_case,
            floods: self.floods.clone(),
            ..ServerOptions::within(&self.bounds)
        }
    }
}

/// Reads until it is clear what the client speaks; a client that ends before has sent bytes.
async fn verdict(tcp: &mut TcpStream, heard: &mut BytesMut) -> Verdict {
    loop {
        match detect::classify(heard) {
            Verdict::NeedMore => {}
            verdict => return verdict,
        }
        match detect::read_more(tcp, heard).await {
            Ok(0) | Err(_) => return Verdict::Opaque,
            Ok(_) => {}
        }
    }
}

/// Which host a client asks for that speaks TLS.
async fn server_name(tcp: &mut TcpStream, heard: &mut BytesMut) -> Option<Arc<str>> {
    loop {
        match is_mesh_client_hello(heard) {
            HelloVerdict::Foreign { sni } => return sni.map(Arc::from),
            HelloVerdict::Mesh { .. } | HelloVerdict::NotTls => return None,
            HelloVerdict::NeedMore => {}
        }
        if detect::read_more(tcp, heard).await.ok()? == 0 {
            return None;
        }
    }
}

/// Requests: which worker serves them is settled now.
async fn requests(heard: BytesMut, tcp: TcpStream, version: Version, seat: &Seat) -> Opened {
    match seat.settle(tcp).await {
        Ok(tcp) => Opened::Http(rewound(heard, tcp), version),
        Err(error) => {
            tracing::debug!(%error, "connection gone before it was served");
            Opened::Nothing
        }
    }
}

fn rewound(heard: BytesMut, tcp: TcpStream) -> Io {
    Io::new(Stream::Tcp(Rewind::with_prefix(heard, tcp)))
}
