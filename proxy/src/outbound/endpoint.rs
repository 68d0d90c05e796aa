//! One endpoint: where it is, how it fares, and the connections to it.
//!
//! An endpoint outlives updates of policy and of the set that it belongs to, and with it its
//! breaker, its latency and its warm connections. Where an identity is promised, plaintext is never
//! used instead.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::http::Response;
use futures_util::future::Either;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::Shared;
use crate::bounds::Bounds;
use crate::http::Version;
use crate::http::body::UpstreamBody;
use crate::http::client::{
    BoxFuture, Connect, H1Pool, H2Pool, Outgoing, PoolOptions, Room, SendOptions, TryError,
    tcp_peer_has_closed,
};
use crate::http::floods::FloodBounds;
use crate::identity::{Alpn, fault_of};
use crate::inbound::UNKNOWN;
use crate::net::io::Rewind;
use crate::net::{Io, Stream};
use crate::outcome::{Failure, Origin, Outcome};
use crate::policy::EndpointInfo;
use crate::resilience::balance::Candidate;
use crate::resilience::health::EndpointHealth;
use crate::resilience::limits::Limits;
use crate::telemetry::edges::{Called, EdgeTls};
use crate::telemetry::{HandshakeFault, Tls};
use crate::worker::PerWorker;

/// One address behind a backend.
pub(crate) struct Endpoint {
    info: EndpointInfo,
    health: Arc<EndpointHealth>,
    link: Link,
    /// The other side, as the `peer` label.
    peer: Arc<str>,
    http1: PerWorker<H1Pool<Connector>>,
    http2: PerWorker<H2Pool<Connector>>,
}

/// How an endpoint is reached.
#[derive(Clone)]
pub(crate) struct Link {
    shared: Arc<Shared>,
    info: Arc<EndpointInfo>,
    /// The endpoint is this very workload: straight to the application, in the clear.
    local: bool,
    /// TCP and TLS together, in microseconds; policy may change it at any time.
    limit: Arc<AtomicU64>,
    /// The backend's concurrency caps.
    caps: Arc<Limits>,
    called: Arc<Called>,
}

/// Makes a pool's connections.
struct Connector {
    link: Link,
    alpn: Alpn,
}

impl Endpoint {
    /// An endpoint that nothing is known of yet. `limit` and `caps` are shared with its backend, whose
    /// label is `backend`.
    pub(crate) fn new(
        info: EndpointInfo,
        health: Arc<EndpointHealth>,
        limit: Arc<AtomicU64>,
        caps: Arc<Limits>,
        backend: &Arc<str>,
        shared: &Arc<Shared>,
    ) -> Self {
        let peer: Arc<str> = info.identity.as_ref().map_or_else(
            || UNKNOWN.into(),
            |id| format!("{}/{}", id.namespace(), id.service_account()).into(),
        );
        let local = shared.own_addresses.contains(info.address.ip());
        let edges = shared.telemetry.edges();
        let called = match (local, &info.identity) {
            (true, _) => edges.called(Arc::clone(backend), "".into(), EdgeTls::Local),
            (false, Some(_)) => edges.called(Arc::clone(backend), Arc::clone(&peer), EdgeTls::Mesh),
            (false, None) => edges.called(Arc::clone(backend), "".into(), EdgeTls::Plaintext),
        };
        let link = Link {
            local,
            shared: Arc::clone(shared),
            info: Arc::new(info.clone()),
            limit,
            caps,
            called: Arc::new(called),
        };
        // A peer that is no sidecar may close an idle connection at any moment.
        let options = if link.is_mesh() {
            PoolOptions {
                max_age: shared.max_age,
                ..PoolOptions::MESH
            }
        } else {
            PoolOptions::PLAIN
        };
        let most = shared.bounds.limits.endpoint_connections_of(shared.workers);
        let mut options = options.of(most);
        options.keep_case = shared.keep_case;
        let connector = |alpn| Connector {
            link: link.clone(),
            alpn,
        };
        Self {
            http1: PerWorker::new(shared.workers, |_| {
                H1Pool::new(connector(Alpn::Http1), options)
            }),
            http2: PerWorker::new(shared.workers, |_| {
                H2Pool::new(connector(Alpn::Http2), options)
            }),
            info,
            health,
            link,
            peer,
        }
    }

    /// What discovery said of it.
    pub(crate) fn info(&self) -> &EndpointInfo {
        &self.info
    }

    /// The other side, as the `peer` label.
    pub(crate) fn peer(&self) -> &Arc<str> {
        &self.peer
    }

    /// Where calls to it are counted.
    pub(crate) fn called(&self) -> &Called {
        &self.link.called
    }

    /// How bytes to it are protected.
    pub(crate) fn tls(&self) -> Tls {
        self.link.tls()
    }

    /// Sends a request and waits for the response's head.
    pub(crate) fn send<'a>(
        &'a self,
        version: Version,
        request: &'a mut Outgoing<'_>,
        options: &'a SendOptions,
    ) -> impl Future<Output = Result<Response<UpstreamBody>, TryError>> + Send {
        match version {
            Version::Http1 => Either::Left(self.http1.here().send_from(request, options)),
            Version::Http2 => Either::Right(self.http2.here().send_from(request, options)),
        }
    }

    /// Sends a request over a connection that some worker has to spare, and waits for the response's
    /// head.
    pub(crate) async fn send_from_anywhere(
        &self,
        version: Version,
        request: &mut Outgoing<'_>,
        options: &SendOptions,
    ) -> Result<Response<UpstreamBody>, TryError> {
        match version {
            Version::Http1 => {
                let mut pools = self.http1.all().iter();
                let spare = pools.find(|pool| pool.has_idle(options));
                let pool = spare.unwrap_or_else(|| self.http1.here());
                pool.send_from(request, options).await
            }
            Version::Http2 => {
                let spare = self.http2.all().iter().find(|pool| pool.has_stream());
                let pool = spare.unwrap_or_else(|| self.http2.here());
                pool.send_from(request, options).await
            }
        }
    }

    /// Whether some worker has a connection to spare that a request with these options may use.
    pub(crate) fn has_spare(&self, version: Version, options: &SendOptions) -> bool {
        match version {
            Version::Http1 => self.http1.all().iter().any(|pool| pool.has_idle(options)),
            Version::Http2 => self.http2.all().iter().any(H2Pool::has_stream),
        }
    }

    /// Closes an idle connection of some worker; false where there is none.
    pub(crate) fn close_idle(&self) -> bool {
        self.http1.all().iter().any(H1Pool::close_idle)
            || self.http2.all().iter().any(H2Pool::close_idle)
    }

    /// Closes connections of this worker that have been idle for too long.
    pub(crate) fn sweep(&self) {
        self.http1.here().sweep();
        self.http2.here().sweep();
    }

    /// A connection for bytes. The caller has the place for it.
    pub(crate) async fn connect_bytes(&self) -> Result<Io, Failure> {
        self.link.connect(Alpn::Tcp).await
    }
}

impl Candidate for Arc<Endpoint> {
    fn health(&self) -> &Arc<EndpointHealth> {
        &self.health
    }

    fn weight(&self) -> u32 {
        self.info.weight
    }
}

impl Link {
    fn is_mesh(&self) -> bool {
        !self.local && self.info.identity.is_some()
    }

    fn tls(&self) -> Tls {
        match (self.local, &self.info.identity) {
            (true, _) => Tls::Local,
            (false, Some(_)) => Tls::Mutual,
            (false, None) => Tls::None,
        }
    }

    /// TCP and, where an identity is promised, TLS, within one limit.
    async fn connect(&self, alpn: Alpn) -> Result<Io, Failure> {
        let limit = Duration::from_micros(self.limit.load(Ordering::Relaxed));
        let address = self.info.address;
        if let Ok(connected) = timeout(limit, self.connect_unbounded(address, alpn)).await {
            if connected.is_ok() {
                self.called.connection(Instant::now());
            }
            return connected;
        }
        if self.is_mesh() {
            self.shared
                .telemetry
                .tls_handshake_failed(Origin::Outbound, HandshakeFault::Timeout);
        }
        Err(Failure::never(
            Outcome::ConnectTimeout,
            "no connection in time",
        ))
    }

    async fn connect_unbounded(&self, address: SocketAddr, alpn: Alpn) -> Result<Io, Failure> {
        let dialled = if self.local {
            self.shared.own_addresses.app(address)
        } else {
            address
        };
        let tcp: TcpStream = self.shared.dialer.dial(dialled).await.map_err(|error| {
            let detail = format!("{dialled} took no connection");
            self.shared.not_connected(error, detail)
        })?;
        let Some(expected) = self.info.identity.as_ref().filter(|_| !self.local) else {
            return Ok(tcp.into());
        };
        let (identity, tcp) = (&self.shared.identity, Rewind::new(tcp));
        let connected = identity.connect(tcp, expected, alpn).await;
        let telemetry = &self.shared.telemetry;
        match &connected {
            Ok(_) => telemetry.tls_handshake(Origin::Outbound),
            Err(failure) => telemetry.tls_handshake_failed(Origin::Outbound, fault_of(failure)),
        }
        Ok(Io::new(Stream::Tls(Box::new(connected?))))
    }
}

impl Connect for Connector {
    type Io = Io;

    fn connect(&self) -> BoxFuture<Result<Io, Failure>> {
        let (link, alpn) = (self.link.clone(), self.alpn);
        Box::pin(async move { link.connect(alpn).await })
    }

    fn bounds(&self) -> Arc<Bounds> {
        Arc::clone(&self.link.shared.bounds)
    }

    fn room(&self) -> Option<Arc<dyn Room>> {
        let caps = Arc::clone(&self.link.caps);
        Some(caps)
    }

    fn clean_close_is_proof(&self) -> bool {
        self.link.is_mesh()
    }

    fn floods(&self) -> FloodBounds {
        self.link.shared.floods.clone()
    }

    fn check_before_reuse(&self) -> bool {
        !self.link.is_mesh()
    }

    fn ends_at(io: &Io) -> Option<Instant> {
        io.inner().ends_at()
    }

    fn peer_has_closed(io: &Io) -> bool {
        match io.inner() {
            Stream::Tcp(tcp) => tcp_peer_has_closed(tcp.inner()),
            _ => false,
        }
    }
}
