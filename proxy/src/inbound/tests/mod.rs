//! The whole inbound direction between clients and applications of the test's own.

mod bounds;
mod bytes;
mod costs;
mod edges;
mod leaving;
mod limits;
mod mesh;
mod plaintext;
mod revoked;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use super::{Inbound, InboundParts};
use crate::bounds::ProcessLimits;
use crate::discovery::Discovery;
use crate::http::floods::FloodLimits;
use crate::http::forwarded::ForwardedFor;
use crate::identity::Alpn;
use crate::identity::testing::{Ca, spiffe};
use crate::net::age::AgeCap;
use crate::net::closing::{self, ClosingSender};
use crate::net::socket::Fixed;
use crate::net::{AppDialer, Dialer, OriginalDestination, OwnAddresses};
use crate::policy::InboundPolicy;
use crate::telemetry::Telemetry;
use crate::testing::clients::{Http, Link};
use crate::testing::servers::Server;
use crate::testing::{Seats, count, soon, tcp_pair, telemetry};

type Tls = crate::net::certified::Certified<crate::identity::Thin<TcpStream>>;

/// A server's sidecar, as `api`.
struct Sidecar {
    discovery: Discovery,
    telemetry: Arc<Telemetry>,
    ca: Ca,
    inbound: Arc<Inbound>,
    closing: ClosingSender,
    seats: Seats,
    /// Where the application listens.
    app: SocketAddr,
}

impl Sidecar {
    /// Knows nothing.
    fn untold(app: SocketAddr) -> Self {
        let options = (AgeCap::default(), ForwardedFor::default());
        Self::made(app, ProcessLimits::DEFAULT, options)
    }

    /// The same, within bounds.
    fn bounded(app: SocketAddr, limits: ProcessLimits) -> Self {
        let options = (AgeCap::default(), ForwardedFor::default());
        Self::made(app, limits, options)
    }

    /// Knows nothing but how old connections become, and what becomes of `x-forwarded-for`.
    fn with(app: SocketAddr, max_age: AgeCap, forwarded_for: ForwardedFor) -> Self {
        Self::made(app, ProcessLimits::DEFAULT, (max_age, forwarded_for))
    }

    fn made(
        app: SocketAddr,
        limits: ProcessLimits,
        (max_age, forwarded_for): (AgeCap, ForwardedFor),
    ) -> Self {
        let ca = Ca::new();
        let (discovery, telemetry) = (Discovery::untold(), telemetry());
        let inbound = Inbound::new(InboundParts {
            discovery: discovery.clone(),
            identity: ca.identity(&spiffe("api")),
            telemetry: Arc::clone(&telemetry),
            dialer: AppDialer::new(Dialer::default(), metrics::Counter::noop()),
            own_addresses: OwnAddresses::new(&["10.1.0.7".parse().unwrap()], &[]),
            workers: 1,
            max_age,
            keep_case: false,
            forwarded_for,
            floods: FloodLimits::default(),
            limits,
            connections: TaskTracker::new(),
        });
        let (closing, _) = closing::channel();
        Self {
            discovery,
            telemetry,
            ca,
            inbound,
            closing,
            seats: Seats::default(),
            app,
        }
    }

    /// Knows the policy of the application's port.
    fn new(app: SocketAddr, policy: InboundPolicy) -> Self {
        let sidecar = Self::untold(app);
        sidecar.tell(policy);
        sidecar
    }

    fn before(app: &Server, policy: InboundPolicy) -> Self {
        Self::new(app.address, policy)
    }

    fn tell(&self, policy: InboundPolicy) {
        self.discovery.tell_inbound(self.app.port(), policy);
    }

    /// Somebody dials the application.
    async fn dial(&self) -> Link {
        self.dial_to(Fixed(self.app)).await
    }

    async fn dial_to(&self, original: impl OriginalDestination) -> Link {
        let (tcp, accepted) = tcp_pair().await;
        let (inbound, closing) = (Arc::clone(&self.inbound), self.closing.subscribe());
        let seat = self.seats.seat();
        let served = tokio::spawn(async move {
            let connection = inbound.connection(accepted, &original, &seat, closing);
            connection.await;
        });
        Link { tcp, served }
    }

    /// A workload's sidecar dials the application.
    async fn dial_as(&self, account: &str, alpn: Alpn) -> (Tls, tokio::task::JoinHandle<()>) {
        let Link { tcp, served } = self.dial().await;
        let identity = self.ca.identity(&spiffe(account));
        let tls = soon(identity.connect(tcp, &spiffe("api"), alpn)).await;
        (tls.unwrap(), served)
    }

    async fn http1_as(&self, account: &str) -> Http {
        let (tls, served) = self.dial_as(account, Alpn::Http1).await;
        Http::over(tls, false, served).await
    }

    async fn http2_as(&self, account: &str) -> Http {
        let (tls, served) = self.dial_as(account, Alpn::Http2).await;
        Http::over(tls, true, served).await
    }

    fn requests(&self, labels: &[(&str, &str)]) -> u64 {
        count(&self.telemetry, "weft_requests_total", labels)
    }

    fn connections(&self, labels: &[(&str, &str)]) -> u64 {
        count(&self.telemetry, "weft_tcp_connections_total", labels)
    }
}
