//! The life of a connection that is made to the application.
//!
//! [`Inbound::connection`] is the way in: original destination, policy, TLS, detection, then either
//! requests ([`request`]) or bytes. Promises:
//!
//! * Nothing is decided before the port's policy is known, and nothing is dialled before the caller
//!   is authorized.
//! * Under Strict nothing of a plaintext connection reaches the application but the declared probes.
//! * The ALPN of mesh TLS saves detection but grants nothing: a byte stream to a port whose policy
//!   looks into requests is detected again.
//! * What could not be handed to the application is answered in a way that says so, and the
//!   client's sidecar may try another endpoint for every method.

pub mod app;
pub mod authorize;
mod limits;
pub mod request;
mod revoke;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;
use weft_proto::spiffe::SpiffeId;

use crate::bounds::{Bounds, DialPlace, ProcessLimits};
use crate::detect::{self, Speaker, Verdict};
use crate::discovery::{Discovery, Watched};
use crate::http::Version;
use crate::http::cuts::Cuts;
use crate::http::floods::{FloodBounds, FloodLimits};
use crate::http::forwarded::ForwardedFor;
use crate::http::server::{self, ServerOptions};
use crate::identity::{Alpn, HelloVerdict, Identity, fault_of, is_mesh_client_hello};
use crate::net::age::AgeCap;
use crate::net::closing::{Closing, Phase};
use crate::net::{AppDialer, Io, OriginalDestination, OwnAddresses, Rewind, Stream};
use crate::outcome::{Failure, Origin, Outcome};
use crate::policy::{InboundPolicy, MtlsMode, Protocol, ServiceRef};
use crate::tcp::{self, Progress};
use crate::telemetry::edges::{Caller, EdgeTls, Visit};
use crate::telemetry::{TcpConnection, TcpLabels, Telemetry, Tls};
use crate::worker::Seat;
use app::Apps;
use authorize::{Admission, Decision, Wish, admit, authorize, has_request_rules};

/// How long a connection waits for its port's policy before it is closed.
const POLICY_WAIT: Duration = Duration::from_secs(5);
/// How long a client that must speak first, or has begun to, may take for each step until it is
/// clear what it speaks and who it is.
const OPENING_LIMIT: Duration = Duration::from_secs(10);
/// After this much silence the application is asked whether it speaks first.
const SILENCE: Duration = Duration::from_millis(100);
/// Connecting to the own application: it is on this very machine.
const APP_CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// An idle connection of a sidecar is kept for at least as long: it leaves first.
const SIDECAR_IDLE_LIMIT: Duration = Duration::from_secs(120);
/// What stands in labels for a caller who proved nothing, and for a port behind no service.
pub(crate) const UNKNOWN: &str = "unknown";

/// What all inbound connections share.
pub struct Inbound {
    pub(crate) discovery: Discovery,
    pub(crate) identity: Identity,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) apps: Apps,
    pub(crate) limits: limits::Limits,
    own_addresses: OwnAddresses,
    dialer: AppDialer,
    /// What the end of this process waits for.
    connections: TaskTracker,
    max_age: AgeCap,
    keep_case: bool,
    forwarded_for: ForwardedFor,
    floods: FloodBounds,
    /// What the process bears.
    bounds: Arc<Bounds>,
}

/// What inbound connections stand on.
pub struct InboundParts {
    /// What this sidecar knows.
    pub discovery: Discovery,
    /// Who it is.
    pub identity: Identity,
    /// Where it counts.
    pub telemetry: Arc<Telemetry>,
    /// How it connects to the application.
    pub dialer: AppDialer,
    /// The workload's own addresses.
    pub own_addresses: OwnAddresses,
    /// Data-path workers.
    pub workers: usize,
    /// How old connections from other sidecars may become.
    pub max_age: AgeCap,
    /// Names of HTTP/1 headers are written as they were spelled.
    pub keep_case: bool,
    /// What the application is told of its clients' addresses.
    pub forwarded_for: ForwardedFor,
    /// What is borne of one HTTP/2 connection.
    pub floods: FloodLimits,
    /// What is borne in all.
    pub limits: ProcessLimits,
    /// What the end of this process waits for.
    pub connections: TaskTracker,
}

/// One port of the application, as a connection sees it.
#[derive(Clone)]
pub(crate) struct Port {
    /// The address that the client dialled.
    pub(crate) address: SocketAddr,
    /// Where the application takes what comes to it.
    pub(crate) app: SocketAddr,
    pub(crate) policy: Watched<InboundPolicy>,
}

/// Who is at the other end, as far as proved.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) id: Option<SpiffeId>,
    pub(crate) label: Arc<str>,
}

/// A connection to the application that carries bytes.
struct App {
    io: Io,
    /// Given back after the connection itself.
    _place: DialPlace,
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    /// A sidecar's own, which it uses for requests of many.
    Sidecar,
    /// An application's, with or without sidecars that carry its bytes.
    Application,
}

/// TLS of the application's own, as far as bytes are that.
enum OwnTls {
    /// They are something else.
    No,
    /// With the host that it asks for.
    Asks(Option<Arc<str>>),
}

/// What a connection turned out to be.
enum Opened {
    Bytes(Io, Peer, OwnTls),
    /// The application spoke first, on a connection that is made already.
    Greeted(Io, App),
    Http(Io, Version, Peer, Client),
    /// Nobody is there any more.
    Nothing,
}

impl Inbound {
    /// The inbound direction of one workload.
    pub fn new(parts: InboundParts) -> Arc<Self> {
        let pools_dropped = parts.telemetry.limit("inbound_app_pools");
        let bounds = Bounds::new(
            parts.limits,
            Origin::Inbound,
            parts.workers,
            &parts.telemetry,
        );
        let floods = FloodBounds {
            limits: parts.floods,
            hits: parts.telemetry.limit("http2_floods"),
        };
        let apps = Apps::new(
            parts.dialer.clone(),
            Arc::clone(&bounds),
            parts.keep_case,
            pools_dropped,
            floods.clone(),
        );
        Arc::new(Self {
            apps,
            bounds,
            limits: limits::Limits::new(&parts.telemetry),
            max_age: parts.max_age,
            keep_case: parts.keep_case,
            forwarded_for: parts.forwarded_for,
            floods,
            connections: parts.connections,
            discovery: parts.discovery,
            identity: parts.identity,
            telemetry: parts.telemetry,
            own_addresses: parts.own_addresses,
            dialer: parts.dialer,
        })
    }

    /// The whole life of one accepted connection. Each part of it is boxed: what it needs is given
    /// back when it is over, and an idle connection has only what it needs then.
    pub async fn connection(
        self: Arc<Self>,
        tcp: TcpStream,
        original: &dyn OriginalDestination,
        seat: &Seat,
        closing: Closing,
    ) {
        // Without a redirect behind it, a connection was made to this listener itself.
        let Some(address) = original.of(&tcp) else {
            return;
        };
        if !self.own_addresses.contains_or_loopback(address.ip()) {
            tracing::warn!(%address, "inbound connection to an address that is not this workload's");
            return;
        }
        let policy = self.discovery.inbound(address.port());
        let port = Port {
            address,
            app: self.own_addresses.app(address),
            policy,
        };
        if port.policy.ready(POLICY_WAIT).await.is_none() {
            tracing::warn!(port = address.port(), "no policy for this port yet: closed");
            self.count_refused(
                &port,
                &Peer::unknown(),
                Tls::None,
                Outcome::ConfigUnavailable,
            );
            return;
        }

        // One that has gone again needs no address.
        let client = tcp.peer_addr().ok().map(|peer| peer.ip());
        let opened = tokio::select! {
            opened = Box::pin(self.open(tcp, &port, seat)) => opened,
            () = closing.clone().ends_silence() => return,
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(refused) => {
                tracing::info!(port = address.port(), %refused, "inbound connection refused");
                if refused.outcome == Outcome::MtlsRequired {
                    self.visit(&port, &Peer::unknown(), client)
                        .refused(Instant::now());
                }
                self.count_refused(&port, &Peer::unknown(), Tls::None, refused.outcome);
                return;
            }
        };
        match opened {
            Opened::Bytes(io, peer, own_tls) => {
                let visit = self.visit(&port, &peer, client);
                Box::pin(self.bytes(io, None, &port, &peer, (own_tls, visit), closing)).await;
            }
            Opened::Greeted(io, app) => {
                let peer = Peer::unknown();
                let visit = self.visit(&port, &peer, client);
                let call = (OwnTls::No, visit);
                Box::pin(self.bytes(io, Some(app), &port, &peer, call, closing)).await;
            }
            Opened::Http(io, version, peer, whose) => {
                let from_sidecar = peer.id.is_some();
                let ordinary = ServerOptions::within(&self.bounds);
                let options = ServerOptions {
                    // Sidecars keep connections to each other for a minute only.
                    idle_limit: if from_sidecar {
                        ordinary.idle_limit.max(SIDECAR_IDLE_LIMIT)
                    } else {
                        ordinary.idle_limit
                    },
                    // A sidecar that ends its side has given the exchange up: so must the application.
                    half_close: !from_sidecar,
                    floods: self.floods.clone(),
                    replace_at: self.replace_at(whose, io.inner().ends_at()),
                    keep_case: self.keep_case,
                    from_sidecar,
                    ..ordinary
                };
                let cuts = Arc::new(Cuts::default());
                let handler = Arc::new(request::Requests::new(
                    self,
                    port.clone(),
                    peer.clone(),
                    client,
                    Arc::clone(&cuts),
                    closing.clone(),
                ));
                Box::pin(async {
                    let serving = pin!(server::serve(io, version, handler, closing, options));
                    revoke::serve_while_welcome(&port, &peer, &cuts, serving).await;
                })
                .await;
            }
            Opened::Nothing => {}
        }
    }

    /// When a connection has become too old. Applications keep theirs.
    fn replace_at(&self, whose: Client, ends_at: Option<Instant>) -> Option<Instant> {
        if whose == Client::Application {
            return None;
        }
        self.max_age
            .replace_at(Instant::now(), fastrand::f64(), ends_at)
    }

    /// Finds out what the client speaks and who it is. A client that may not have what it wants is
    /// refused here, unless HTTP can tell it so. Where it carries requests, it is settled which worker
    /// serves them.
    async fn open(&self, mut tcp: TcpStream, port: &Port, seat: &Seat) -> Result<Opened, Failure> {
        let mut buffer = BytesMut::new();
        if let Some(app) = self.first_words(&mut tcp, &mut buffer, port).await? {
            return Ok(Opened::Greeted(tcp.into(), app));
        }
        if buffer.is_empty() {
            return Ok(Opened::Nothing);
        }
        let verdict = in_time(read_verdict(&mut tcp, &mut buffer)).await?;
        let mut own_tls = OwnTls::No;
        if verdict == Verdict::Tls {
            match in_time(read_hello(&mut tcp, &mut buffer)).await? {
                HelloVerdict::Mesh { http } => {
                    if http {
                        tcp = seat.settle(tcp).await.map_err(client_broke)?;
                    }
                    let (stream, peer, alpn) = self.accept(tcp, buffer).await?;
                    return open_mesh(stream, peer, alpn, port).await;
                }
                HelloVerdict::NeedMore => return Ok(Opened::Nothing),
                HelloVerdict::Foreign { sni } => own_tls = OwnTls::Asks(sni.map(Arc::from)),
                HelloVerdict::NotTls => {}
            }
        }
        let version = open_plain(verdict, port)?;
        if version.is_some() {
            tcp = seat.settle(tcp).await.map_err(client_broke)?;
        }
        let io = Io::new(Stream::Tcp(Rewind::with_prefix(buffer, tcp)));
        let peer = Peer::unknown();
        Ok(match version {
            Some(version) => Opened::Http(io, version, peer, Client::Application),
            None => Opened::Bytes(io, peer, own_tls),
        })
    }

    /// Waits for the client's first bytes, into `heard`; none where it left without a word.
    ///
    /// Where a port takes plaintext bytes from anybody, a silent client may be waiting for the
    /// server's greeting: then the application is dialled, and is the answer if it spoke first (or
    /// left). How long that takes is the application's affair; elsewhere silence has a limit.
    async fn first_words(
        &self,
        tcp: &mut TcpStream,
        heard: &mut BytesMut,
        port: &Port,
    ) -> Result<Option<App>, Failure> {
        if let Ok(read) = timeout(SILENCE, detect::read_more(tcp, heard)).await {
            read.map_err(client_broke)?;
            return Ok(None);
        }
        if port.may_be_greeted()
            && let Ok(mut app) = self.dial_app(port.app).await
        {
            let speaker = detect::first_speaker(tcp, heard, &mut app.io).await;
            return Ok(match speaker.map_err(client_broke)? {
                Speaker::Client => None,
                Speaker::Server(greeting) => Some(app.rewound(greeting)),
            });
        }
        in_time(async { detect::read_more(tcp, heard).await.map_err(client_broke) }).await?;
        Ok(None)
    }

    /// Mesh TLS, whoever it is.
    async fn accept(
        &self,
        tcp: TcpStream,
        hello: BytesMut,
    ) -> Result<(Stream, Peer, Alpn), Failure> {
        // What is given up for its slowness is counted too.
        let accepting = self.identity.accept(Rewind::with_prefix(hello, tcp));
        let accepted = in_time(accepting).await;
        match &accepted {
            Ok(_) => self.telemetry.tls_handshake(Origin::Inbound),
            Err(failure) => self
                .telemetry
                .tls_handshake_failed(Origin::Inbound, fault_of(failure)),
        }
        let (tls, id, alpn) = accepted?;
        Ok((Stream::Tls(Box::new(tls)), Peer::verified(id), alpn))
    }

    /// Bytes both ways between the client and the application.
    async fn bytes(
        &self,
        mut io: Io,
        app: Option<App>,
        port: &Port,
        peer: &Peer,
        (own_tls, visit): (OwnTls, Visit),
        mut closing: Closing,
    ) {
        let (tls, sni) = match own_tls {
            OwnTls::No => (peer.edge_tls(), None),
            OwnTls::Asks(sni) => (EdgeTls::Passthrough, sni),
        };
        let connection = self.tcp_connection(port, peer, peer.tls(), sni);
        let policy = port.policy.load();
        let admission = match &policy {
            Some(policy) => admit(policy, peer.id.as_ref(), Wish::Bytes),
            None => Err(Outcome::ConfigUnavailable),
        };
        match admission {
            Ok(Admission::Audited) => self.audited(port, peer),
            Ok(Admission::Allowed | Admission::Exempt) => {}
            Err(outcome) => {
                let (port, peer) = (port.address.port(), &*peer.label);
                tracing::info!(port, peer, %outcome, "connection refused");
                match outcome {
                    Outcome::MtlsRequired => visit.refused(Instant::now()),
                    _ => drop(visit.bytes(tls, Instant::now())),
                }
                return connection.end(outcome);
            }
        }
        let _seen = visit.bytes(tls, Instant::now());
        let app = match app {
            Some(app) => Ok(app),
            None => Box::pin(self.dial_app(port.app)).await,
        };
        let mut app = match app {
            Ok(app) => app,
            Err(failure) => {
                tracing::debug!(port = port.address.port(), %failure, "application not reached");
                return connection.end(failure.outcome);
            }
        };

        let progress = Progress::default();
        let relayed = {
            let relaying = pin!(async {
                tokio::select! {
                    end = tcp::relay(&mut io, &mut app.io, &progress) => match end {
                        Ok(()) => Outcome::Ok,
                        Err(error) => error.outcome(),
                    },
                    _ = closing.reached(Phase::Over) => Outcome::Shed,
                }
            });
            revoke::relay_while_welcome(port, peer, Wish::Bytes, policy, relaying).await
        };
        let outcome = relayed.unwrap_or_else(|revoked| revoked);
        if outcome != Outcome::Ok {
            io.cut();
            app.io.cut();
        }
        connection.read(progress.upstream.into_inner());
        connection.wrote(progress.downstream.into_inner());
        connection.end(outcome);
    }

    async fn dial_app(&self, address: SocketAddr) -> Result<App, Failure> {
        let place = self.bounds.dials.place().await?;
        let tcp = app::dial(&self.dialer, address, APP_CONNECT_LIMIT).await?;
        let io = tcp.into();
        Ok(App { io, _place: place })
    }

    /// Closes connections of this worker that have been idle for too long. To be called now and
    /// then on every worker: without traffic nothing else does.
    pub fn sweep(&self) {
        self.apps.sweep();
    }

    /// Runs what goes on after its connection's task has ended.
    pub(crate) fn spawn_tracked(
        &self,
        what: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.connections.spawn(self.telemetry.supervise(what, task));
    }

    fn tcp_connection(
        &self,
        port: &Port,
        peer: &Peer,
        tls: Tls,
        sni: Option<Arc<str>>,
    ) -> TcpConnection {
        let service = port.service_label();
        self.telemetry
            .tcp_scope(TcpLabels {
                direction: Origin::Inbound,
                service: Arc::clone(&service),
                backend: service,
                peer: Arc::clone(&peer.label),
                tls,
                sni,
            })
            .open()
    }

    /// Says who was let in only because the policy audits.
    pub(crate) fn audited(&self, port: &Port, peer: &Peer) {
        let (number, peer) = (port.address.port(), &peer.label);
        tracing::info!(
            port = number,
            peer = &**peer,
            "would be unauthorized (audit)"
        );
        self.telemetry.audited(&port.service_label(), peer);
    }

    /// What this connection's caller is told of under.
    pub(crate) fn visit(&self, port: &Port, peer: &Peer, client: Option<IpAddr>) -> Visit {
        let service = port.service();
        let service = service.map_or_else(|| "".into(), |service| service.to_string().into());
        let from = match (&peer.id, client) {
            (Some(_), _) => Caller::Identity(Arc::clone(&peer.label)),
            (None, Some(ip)) => Caller::Address(ip.to_canonical()),
            (None, None) => Caller::Unknown,
        };
        let edges = self.telemetry.edges();
        edges.visit(port.address.port(), service, from)
    }

    fn count_refused(&self, port: &Port, peer: &Peer, tls: Tls, outcome: Outcome) {
        self.tcp_connection(port, peer, tls, None).end(outcome);
    }
}

impl App {
    /// The application has spoken: what it said comes again.
    fn rewound(mut self, greeting: BytesMut) -> Self {
        let (_, stream) = self.io.into_parts();
        self.io = Io::with_prefix(greeting, stream);
        self
    }
}

impl Port {
    /// Whether a plaintext client that says nothing may be connected to the application: the port
    /// takes plaintext, nobody has to prove anything, and no request could hide in the bytes.
    fn may_be_greeted(&self) -> bool {
        self.policy.load().is_some_and(|policy| {
            policy.mtls != MtlsMode::Strict
                && matches!(policy.protocol, Protocol::Opaque | Protocol::Detect)
                && authorize(&policy.authorization, None, Wish::Bytes) != Decision::Deny
        })
    }

    fn looks_into_requests(&self) -> bool {
        self.policy
            .load()
            .is_none_or(|policy| has_request_rules(&policy.authorization))
    }

    /// The first service that leads here.
    fn service(&self) -> Option<ServiceRef> {
        let policy = self.policy.load();
        policy.and_then(|policy| policy.services.first().cloned())
    }

    /// The service that leads here, as a label.
    pub(crate) fn service_label(&self) -> Arc<str> {
        let service = self.service();
        service.map_or_else(|| UNKNOWN.into(), |service| service.to_string().into())
    }
}

impl Peer {
    fn unknown() -> Self {
        Self {
            id: None,
            label: UNKNOWN.into(),
        }
    }

    fn verified(id: SpiffeId) -> Self {
        let label = format!("{}/{}", id.namespace(), id.service_account()).into();
        Self {
            id: Some(id),
            label,
        }
    }

    /// What it comes as, where it does not speak TLS of the application's own.
    pub(crate) fn edge_tls(&self) -> EdgeTls {
        match self.id {
            Some(_) => EdgeTls::Mesh,
            None => EdgeTls::Plaintext,
        }
    }

    pub(crate) fn tls(&self) -> Tls {
        if self.id.is_some() {
            Tls::Mutual
        } else {
            Tls::None
        }
    }
}

/// What is inside of mesh TLS: the ALPN says so, unless policy wants to see for itself. A verified
/// peer may be silent for as long as it likes.
async fn open_mesh(
    mut stream: Stream,
    peer: Peer,
    alpn: Alpn,
    port: &Port,
) -> Result<Opened, Failure> {
    match alpn {
        Alpn::Http1 => {
            return Ok(Opened::Http(
                Io::new(stream),
                Version::Http1,
                peer,
                Client::Sidecar,
            ));
        }
        Alpn::Http2 => {
            return Ok(Opened::Http(
                Io::new(stream),
                Version::Http2,
                peer,
                Client::Sidecar,
            ));
        }
        Alpn::Tcp if !port.looks_into_requests() => {
            return Ok(Opened::Bytes(Io::new(stream), peer, OwnTls::No));
        }
        Alpn::Tcp => {}
    }
    let mut heard = BytesMut::new();
    let first = detect::read_more(&mut stream, &mut heard).await;
    if first.map_err(client_broke)? == 0 {
        return Ok(Opened::Nothing);
    }
    let verdict = in_time(read_verdict(&mut stream, &mut heard)).await?;
    let io = Rewind::with_prefix(heard, stream);
    Ok(match verdict {
        Verdict::Http1 => Opened::Http(io, Version::Http1, peer, Client::Application),
        Verdict::Http2 => Opened::Http(io, Version::Http2, peer, Client::Application),
        Verdict::NeedMore | Verdict::Opaque | Verdict::Tls => Opened::Bytes(io, peer, OwnTls::No),
    })
}

/// Plaintext, or TLS of the application's own: the version of its requests, or none where it is bytes.
fn open_plain(verdict: Verdict, port: &Port) -> Result<Option<Version>, Failure> {
    let policy = port.policy.load();
    let strict = policy
        .as_ref()
        .is_none_or(|policy| policy.mtls == MtlsMode::Strict);
    let protocol = policy.map_or(Protocol::Detect, |policy| policy.protocol);
    let opaque = protocol == Protocol::Opaque;
    match verdict {
        // What is said to be HTTP is refused as HTTP where it is not.
        Verdict::Opaque if !strict && protocol == Protocol::Http1 => Ok(Some(Version::Http1)),
        // Under Strict, HTTP clients are told so, and probes pass: per request.
        Verdict::Http1 if strict || !opaque => Ok(Some(Version::Http1)),
        Verdict::Http2 if strict || !opaque => Ok(Some(Version::Http2)),
        _ if strict => {
            let refusal = "plaintext to a port that takes mesh TLS";
            Err(Failure::never(Outcome::MtlsRequired, refusal))
        }
        _ => Ok(None),
    }
}

/// Reads until it is clear what the client speaks; one that ends before has sent bytes.
async fn read_verdict<R: AsyncRead + Unpin>(
    reader: &mut R,
    heard: &mut BytesMut,
) -> Result<Verdict, Failure> {
    loop {
        match detect::classify(heard) {
            Verdict::NeedMore => {}
            verdict => return Ok(verdict),
        }
        if detect::read_more(reader, heard)
            .await
            .map_err(client_broke)?
            == 0
        {
            return Ok(Verdict::Opaque);
        }
    }
}

/// Bounds one step of a client that has begun to say something, or must.
async fn in_time<T>(step: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match timeout(OPENING_LIMIT, step).await {
        Ok(result) => result,
        Err(_) => Err(Failure::never(
            Outcome::IdleTimeout,
            "the client said too little for too long",
        )),
    }
}

/// Reads a ClientHello until it is clear whose it is; `NeedMore` when it never becomes so.
async fn read_hello(tcp: &mut TcpStream, buffer: &mut BytesMut) -> Result<HelloVerdict, Failure> {
    loop {
        match is_mesh_client_hello(buffer) {
            HelloVerdict::NeedMore => {}
            verdict => return Ok(verdict),
        }
        if detect::read_more(tcp, buffer).await.map_err(client_broke)? == 0 {
            return Ok(HelloVerdict::NeedMore);
        }
    }
}

fn client_broke(error: std::io::Error) -> Failure {
    Failure::never(Outcome::ClientGone, "the client's connection broke").because(error)
}
