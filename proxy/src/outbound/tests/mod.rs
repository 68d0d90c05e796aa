//! The whole outbound direction between clients and servers of the test's own.

mod balancing;
mod bodies;
mod bounds;
mod budgets;
mod bytes;
mod costs;
mod deadlines;
mod destinations;
mod failures;
mod fallback_time;
mod fallbacks;
mod faults;
mod forms;
mod gated;
mod hot_path;
mod limits;
mod mesh;
mod mirrors;
mod retries;
mod splits;
mod survival;
mod timeouts;
mod traces;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::{Outbound, OutboundParts};
use crate::bounds::ProcessLimits;
use crate::discovery::Discovery;
use crate::http::floods::FloodLimits;
use crate::identity::Identity;
use crate::identity::testing::{Ca, spiffe};
use crate::net::age::AgeCap;
use crate::net::closing::{self, ClosingSender};
use crate::net::socket::Fixed;
use crate::net::{Dialer, OwnAddresses};
use crate::policy::{EndpointInfo, OutboundTarget, ServiceTarget};
use crate::telemetry::Telemetry;
use crate::testing::clients::{Http, Link};
use crate::testing::policies::{mesh, service};
use crate::testing::servers::Server;
use crate::testing::{Seats, count, tcp_pair, telemetry};

/// The service that clients dial.
const API: &str = "10.96.0.1:80";
/// The workload's own address; a loopback one, so that tests can listen there.
const OWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

/// A client's sidecar.
struct Sidecar {
    discovery: Discovery,
    telemetry: Arc<Telemetry>,
    ca: Ca,
    outbound: Arc<Outbound>,
    closing: ClosingSender,
    seats: Seats,
}

impl Sidecar {
    /// Knows the mesh and nothing of it.
    fn new() -> Self {
        Self::bounded(ProcessLimits::DEFAULT)
    }

    /// The same, within bounds.
    fn bounded(limits: ProcessLimits) -> Self {
        let ca = Ca::new();
        let (discovery, telemetry) = (Discovery::untold(), telemetry());
        discovery.tell_mesh(mesh());
        let outbound = Outbound::new(OutboundParts {
            discovery: discovery.clone(),
            identity: ca.identity(&spiffe("web")),
            telemetry: Arc::clone(&telemetry),
            dialer: Dialer::default(),
            own_addresses: OwnAddresses::new(&[OWN], &[]),
            workload: "shop/web-1".into(),
            zone: "".into(),
            workers: 1,
            max_age: AgeCap::default(),
            keep_case: false,
            floods: FloodLimits::default(),
            limits,
            connections: TaskTracker::new(),
        });
        let (closing, _) = closing::channel();
        Self {
            discovery,
            telemetry,
            ca,
            outbound,
            closing,
            seats: Seats::default(),
        }
    }

    /// Knows what is at [`API`], and the endpoints of its first backend.
    fn knowing(target: ServiceTarget, endpoints: Vec<EndpointInfo>) -> Self {
        let sidecar = Self::new();
        let backend = target.backends[0].service.clone();
        sidecar.discovery.tell_endpoints(&backend, endpoints);
        sidecar.tell(target);
        sidecar
    }

    fn tell(&self, target: ServiceTarget) {
        let target = OutboundTarget::Service(Arc::new(target));
        self.discovery.tell_outbound(api(), target);
    }

    fn tell_endpoints(&self, backend: &str, endpoints: Vec<EndpointInfo>) {
        let backend = service(backend);
        self.discovery.tell_endpoints(&backend, endpoints);
    }

    /// A workload's identity in the same mesh.
    fn identity(&self, account: &str) -> Identity {
        self.ca.identity(&spiffe(account))
    }

    /// The application dials `destination`.
    async fn dial(&self, destination: SocketAddr) -> Link {
        let (tcp, accepted) = tcp_pair().await;
        let (outbound, closing) = (Arc::clone(&self.outbound), self.closing.subscribe());
        let seat = self.seats.seat();
        let served = tokio::spawn(async move {
            let original = Fixed(destination);
            let connection = outbound.connection(accepted, &original, &seat, closing);
            connection.await;
        });
        Link { tcp, served }
    }

    async fn http1(&self) -> Http {
        self.dial(api()).await.http1().await
    }

    async fn http2(&self) -> Http {
        self.dial(api()).await.http2().await
    }

    fn requests(&self, labels: &[(&str, &str)]) -> u64 {
        count(&self.telemetry, "weft_requests_total", labels)
    }

    fn retries(&self, result: &str) -> u64 {
        count(&self.telemetry, "weft_retries_total", &[("result", result)])
    }

    fn connections(&self, labels: &[(&str, &str)]) -> u64 {
        count(&self.telemetry, "weft_tcp_connections_total", labels)
    }
}

fn api() -> SocketAddr {
    API.parse().unwrap()
}

/// Endpoints in the clear at these servers.
fn at(servers: &[&Server]) -> Vec<EndpointInfo> {
    let endpoint = |server: &&Server| crate::testing::policies::endpoint(server.address, None);
    servers.iter().map(endpoint).collect()
}
