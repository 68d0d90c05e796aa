//! Connections that are bytes to us: to a service, to one workload, or out of the mesh.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::{Instant, timeout};

use super::backend::{Backend, Caller, Chosen};
use super::destination::Service;
use super::endpoint::Endpoint;
use super::{Outbound, limits};
use crate::bounds::DialPlace;
use crate::inbound::UNKNOWN;
use crate::net::Io;
use crate::net::closing::{Closing, Phase};
use crate::outcome::{Failure, Origin, Outcome};
use crate::resilience::attempt::{TryResult, TryVerdict};
use crate::resilience::balance::ProbeEligibility;
use crate::resilience::deadline::Deadline;
use crate::resilience::limits::Place;
use crate::tcp::{self, Progress};
use crate::telemetry::edges::Open;
use crate::telemetry::{TcpConnection, TcpLabels, Tls};

/// Connecting to what is outside of the mesh; the application's own connect would take minutes.
const OUTSIDE_CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// Endpoints tried for one connection. Nothing of it was sent, so that every try is safe.
const MAX_TRIES: usize = 3;

/// A connection to an upstream that carries nothing yet.
pub(crate) struct Upstream {
    io: Io,
    chosen: Chosen,
    backend: Arc<Backend>,
    /// Among the backend's connections; given back after the connection itself.
    _place: Place,
    /// Among all connections of the process.
    _dial: DialPlace,
}

/// The application's connection and an endpoint's, with what is told of them.
pub(crate) struct Relay {
    client: Io,
    connection: TcpConnection,
    _open: Open,
    upstream: Upstream,
}

impl Outbound {
    /// Relays between the application and an address that is none of the mesh's.
    pub(crate) async fn pass(&self, mut io: Io, address: SocketAddr, closing: Closing) {
        let connection = self.tcp_connection(
            UNKNOWN.into(),
            UNKNOWN.into(),
            UNKNOWN.into(),
            Tls::None,
            None,
        );
        let Ok(_dial) = self.shared().bounds.dials.place().await else {
            return connection.end(Outcome::Overflow);
        };
        let dialled = timeout(OUTSIDE_CONNECT_LIMIT, self.shared().dialer.dial(address)).await;
        let mut upstream: Io = match dialled {
            Ok(Ok(upstream)) => upstream.into(),
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "address outside of the mesh not reached");
                let failure = self
                    .shared()
                    .not_connected(error, "nobody took the connection");
                return connection.end(failure.outcome);
            }
            Err(_) => return connection.end(Outcome::ConnectTimeout),
        };
        let outcome = relay(&mut io, &mut upstream, &connection, closing).await;
        connection.end(outcome);
    }

    /// What is between the application and an endpoint of `service`; `None` where nobody takes the
    /// connection, which has been told then.
    pub(crate) async fn bytes(
        &self,
        io: Io,
        service: &Service,
        upstream: Option<Box<Upstream>>,
        sni: Option<Arc<str>>,
    ) -> Option<Box<Relay>> {
        let dialled = match upstream {
            Some(upstream) => Ok(upstream),
            None => Box::pin(self.dial_bytes(service)).await.map(Box::new),
        };
        match dialled {
            Ok(upstream) => {
                let endpoint = &upstream.chosen.endpoint;
                let connection = self.tcp_connection(
                    Arc::clone(&service.label),
                    Arc::clone(&upstream.backend.label),
                    Arc::clone(endpoint.peer()),
                    endpoint.tls(),
                    sni,
                );
                let open = endpoint.called().bytes(Instant::now());
                Some(Box::new(Relay {
                    client: io,
                    connection,
                    _open: open,
                    upstream: *upstream,
                }))
            }
            Err(failure) => {
                let label = Arc::clone(&service.label);
                tracing::info!(service = &*label, %failure, "connection failed");
                self.tcp_connection(Arc::clone(&label), label, UNKNOWN.into(), Tls::None, sni)
                    .end(failure.outcome);
                None
            }
        }
    }

    /// Connects to an endpoint of the service; another one where the first takes no connection.
    pub(crate) async fn dial_bytes(&self, service: &Service) -> Result<Upstream, Failure> {
        let backend = service.backend_for_bytes()?;
        let patience = Deadline::after(Instant::now().into_std(), Some(backend.connect_limit()));
        let place = limits::connection_place(&backend, patience).await?;
        let dial = self.shared().bounds.dials.place().await?;
        let mut tried = SmallVec::<[Arc<Endpoint>; MAX_TRIES]>::new();
        let mut last = None;
        while tried.len() < MAX_TRIES {
            let choosing = backend.choose(Caller::Bytes, ProbeEligibility::Yes, &tried, false);
            let mut chosen = match choosing.await {
                Ok(chosen) => chosen,
                Err(failure) => return Err(last.unwrap_or(failure)),
            };
            let started = Instant::now();
            match chosen.endpoint.connect_bytes().await {
                Ok(io) => {
                    chosen
                        .permits
                        .observe(started.elapsed(), TryVerdict::Success);
                    return Ok(Upstream {
                        io,
                        chosen,
                        backend,
                        _place: place,
                        _dial: dial,
                    });
                }
                Err(failure) => {
                    let verdict = backend.verdict(&TryResult::failed(&failure));
                    chosen.permits.observe(started.elapsed(), verdict);
                    tried.push(chosen.endpoint);
                    last = Some(failure);
                }
            }
        }
        Err(last.unwrap_or_else(|| Failure::never(Outcome::NoEndpoints, "no endpoint was tried")))
    }

    pub(crate) fn tcp_connection(
        &self,
        service: Arc<str>,
        backend: Arc<str>,
        peer: Arc<str>,
        tls: Tls,
        sni: Option<Arc<str>>,
    ) -> TcpConnection {
        let labels = TcpLabels {
            direction: Origin::Outbound,
            service,
            backend,
            peer,
            tls,
            sni,
        };
        self.shared().telemetry.tcp_scope(labels).open()
    }
}

impl Relay {
    /// Relays until both sides have ended, or the sidecar has.
    ///
    /// It stays in its box, as the future would have a place of its own for what it moves.
    pub(crate) async fn run(mut self: Box<Self>, closing: Closing) {
        let Self {
            client,
            upstream,
            connection,
            ..
        } = &mut *self;
        let outcome = relay(client, &mut upstream.io, connection, closing).await;
        self.connection.end(outcome);
    }
}

impl Upstream {
    /// The connection itself, to listen whether the server speaks first.
    pub(crate) fn io(&mut self) -> &mut Io {
        &mut self.io
    }

    /// The server has spoken: what it said comes again.
    pub(crate) fn rewound(mut self, greeting: bytes::BytesMut) -> Self {
        let (_, stream) = self.io.into_parts();
        self.io = Io::with_prefix(greeting, stream);
        self
    }
}

/// Relays until both sides have ended, or one has broken, or the sidecar has ended.
async fn relay(
    client: &mut Io,
    server: &mut Io,
    connection: &TcpConnection,
    mut closing: Closing,
) -> Outcome {
    let progress = Progress::default();
    let outcome = tokio::select! {
        end = tcp::relay(client, server, &progress) => match end {
            Ok(()) => Outcome::Ok,
            Err(error) => error.outcome(),
        },
        _ = closing.reached(Phase::Over) => Outcome::Shed,
    };
    if outcome != Outcome::Ok {
        client.cut();
        server.cut();
    }
    connection.read(progress.upstream.into_inner());
    connection.wrote(progress.downstream.into_inner());
    outcome
}
