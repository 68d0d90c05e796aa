//! The shop that the demo runs: what is in it, its policies, and the traffic that flows all along.
//!
//! Policies are those of `examples/quickstart`, so that what the demo shows can be tried by hand.

use std::net::SocketAddr;
use std::time::Duration;

use weft_sandbox::load::{Load, Protocol, Report, Running, Shot};
use weft_sandbox::{AppSpec, Mesh, Programs, Sandbox, Service, Workload};

/// The namespace of everything.
pub(super) const NAMESPACE: &str = "shop";
/// Where the traffic comes from; its sidecar is the one to look at.
pub(super) const WEB: &str = "web-1";
/// The endpoint that fails on purpose.
pub(super) const FAILING: &str = "inventory-2";
/// The service port of every service.
pub(super) const PORT: u16 = 80;
/// The port of every application.
pub(super) const APP_PORT: u16 = 8080;
/// The bound that policy sets for reports.
pub(super) const REPORT_DEADLINE: Duration = Duration::from_millis(400);
/// How long policy keeps a failing endpoint out.
pub(super) const OPEN_DURATION: Duration = Duration::from_secs(2);

const CHECKOUT_POLICY: &str = include_str!("../../../examples/quickstart/checkout.yaml");
const INVENTORY_POLICY: &str = include_str!("../../../examples/quickstart/inventory.yaml");
const WEB_POLICY: &str = include_str!("../../../examples/quickstart/web.yaml");
/// The longest time from a sidecar's SIGTERM to its end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long everything may take to become ready: a loaded machine and a debug build are slow.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of an order's body.
const ORDER_LENGTH: usize = 512;

/// A service that gets traffic, and where it comes from.
#[derive(Debug)]
pub(super) struct Target {
    /// The service.
    pub(super) service: &'static str,
    /// Services that its requests end up at.
    pub(super) backends: &'static [&'static str],
    /// The workload that calls it.
    pub(super) caller: &'static str,
    /// Requests per second.
    pub(super) rate: f64,
    clients: usize,
    protocol: Protocol,
}

/// In the order of the table's rows.
pub(super) const TARGETS: [Target; 3] = [
    Target {
        service: "checkout",
        backends: &["checkout-v1", "checkout-v2"],
        caller: WEB,
        rate: 300.0,
        clients: 16,
        protocol: Protocol::Http1,
    },
    Target {
        service: "inventory",
        backends: &["inventory"],
        caller: WEB,
        rate: 150.0,
        clients: 8,
        protocol: Protocol::Http2,
    },
    // The inventory tells the shop about its stock.
    Target {
        service: "web",
        backends: &["web"],
        caller: "inventory-3",
        rate: 20.0,
        clients: 2,
        protocol: Protocol::Http1,
    },
];
/// Index into [`TARGETS`].
pub(super) const CHECKOUT: usize = 0;
/// See [`CHECKOUT`].
pub(super) const INVENTORY: usize = 1;

/// The mesh and the traffic in it.
#[derive(Debug)]
pub(super) struct World {
    pub(super) mesh: Mesh,
    traffic: [Running; TARGETS.len()],
}

impl World {
    /// Starts the mesh, without traffic.
    pub(super) async fn start_mesh(sandbox: &Sandbox) -> anyhow::Result<Mesh> {
        let mut mesh = Mesh::builder("demo", Programs::of_this_program())
            .namespace(NAMESPACE)
            .patience(START_PATIENCE)
            .workload(workload(WEB, "web", "v1"))
            .service(service("web", &[WEB]))
            .named_policy("checkout", &checkout_policy([100, 0]))
            .named_policy("inventory", INVENTORY_POLICY);
        let v1 = ["checkout-v1-1", "checkout-v1-2"];
        let v2 = ["checkout-v2-1", "checkout-v2-2"];
        let inventory = ["inventory-1", FAILING, "inventory-3"];
        for name in v1 {
            mesh = mesh.workload(checkout(name, "v1"));
        }
        for name in v2 {
            mesh = mesh.workload(checkout(name, "v2"));
        }
        for name in inventory {
            mesh = mesh.workload(workload(name, "inventory", "v1"));
        }
        mesh.service(service("checkout", &v1))
            .service(service("checkout-v1", &v1))
            .service(service("checkout-v2", &v2))
            .service(service("inventory", &inventory))
            .start(sandbox)
            .await
    }

    /// Lets the traffic flow.
    pub(super) fn new(mesh: Mesh) -> Self {
        let traffic = [0, 1, 2].map(|index| load(&mesh, &TARGETS[index]));
        Self { mesh, traffic }
    }

    /// Looks at what has come of the traffic to one target since it was last taken.
    pub(super) fn look<T>(&self, target: usize, look: impl FnOnce(&Report) -> T) -> T {
        self.traffic[target].look(look)
    }

    /// Takes what has come of all traffic since the last time.
    pub(super) fn take(&self) -> [Report; TARGETS.len()] {
        [0, 1, 2].map(|index| self.traffic[index].take())
    }

    /// Ends the traffic, what is in flight included; the mesh stays.
    pub(super) async fn stop_traffic(self) -> (Mesh, [Report; TARGETS.len()]) {
        let [checkout, inventory, web] = self.traffic;
        let (checkout, inventory, web) =
            tokio::join!(checkout.stop(), inventory.stop(), web.stop());
        (self.mesh, [checkout, inventory, web])
    }

    /// A service's address.
    pub(super) fn addr(&self, service: &str) -> SocketAddr {
        self.mesh.addr(service, PORT)
    }

    /// Writes a split into the checkout's policy.
    pub(super) fn split_checkout(&self, weights: [u32; 2]) -> anyhow::Result<()> {
        self.mesh
            .apply_policy("checkout", &checkout_policy(weights))
    }

    /// Asks for mutual TLS on everything that comes to the shop.
    pub(super) fn make_web_strict(&self) -> anyhow::Result<()> {
        self.mesh.apply_policy("web", WEB_POLICY)
    }
}

/// A service as metrics name it.
pub(super) fn label(service: &str) -> String {
    format!("{NAMESPACE}/{service}:{PORT}")
}

/// A workload of the checkout.
pub(super) fn checkout(name: &str, version: &str) -> Workload {
    workload(name, "checkout", version)
}

fn workload(name: &str, service_account: &str, version: &str) -> Workload {
    Workload::new(name)
        .service_account(service_account)
        .version(version)
        .drain_timeout(DRAIN_TIMEOUT)
        .port(APP_PORT, AppSpec::http())
}

fn service(name: &str, endpoints: &[&str]) -> Service {
    Service::new(name)
        .port(PORT, APP_PORT)
        .port_name("http")
        .endpoints(endpoints.iter().copied())
}

fn load(mesh: &Mesh, target: &Target) -> Running {
    let mut load = Load::new(mesh.addr(target.service, PORT))
        .authority(target.service)
        .id_prefix(target.service)
        .protocol(target.protocol)
        .clients(target.clients)
        .rate(target.rate)
        .shot(Shot::get("/items"));
    if target.service == TARGETS[CHECKOUT].service {
        // Orders are never to be repeated once they may have been processed.
        load = load.shot(Shot::post("/orders", ORDER_LENGTH));
    }
    load.start(&mesh.pod(target.caller))
}

fn checkout_policy(weights: [u32; 2]) -> String {
    let [v1, v2] = weights;
    CHECKOUT_POLICY
        .replace(
            "checkout-v1, weight: 90",
            &format!("checkout-v1, weight: {v1}"),
        )
        .replace(
            "checkout-v2, weight: 10",
            &format!("checkout-v2, weight: {v2}"),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_that_is_asked_for_is_written() {
        let policy = checkout_policy([25, 75]);
        assert!(
            policy.contains("{name: checkout-v1, weight: 25}"),
            "{policy}"
        );
        assert!(
            policy.contains("{name: checkout-v2, weight: 75}"),
            "{policy}"
        );
        assert_eq!(checkout_policy([90, 10]), CHECKOUT_POLICY);
    }

    #[test]
    fn bounds_are_those_of_the_policies() {
        let deadline = format!("request: {}ms", REPORT_DEADLINE.as_millis());
        assert!(CHECKOUT_POLICY.contains(&deadline));
        let open = format!("openDuration: {}s\n", OPEN_DURATION.as_secs());
        assert!(INVENTORY_POLICY.contains(&open));
    }

    /// The directory that the documents point to has nothing that is refused.
    #[tokio::test]
    async fn the_quickstart_is_a_mesh() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart");
        let end = tokio_util::sync::CancellationToken::new();
        let models = weft_control_plane::source::files::watch_dir(dir, end.clone())
            .await
            .expect("a mesh");
        let model = std::sync::Arc::clone(&models.borrow());
        assert_eq!(model.refusals(), []);
        let workloads: Vec<_> = model.workloads().map(|it| it.name.name.as_str()).collect();
        assert!(
            workloads.contains(&WEB) && workloads.contains(&FAILING),
            "{workloads:?}"
        );
        for target in TARGETS {
            for service in target.backends.iter().chain([&target.service]) {
                assert!(model.service(NAMESPACE, service).is_some(), "{service}");
            }
        }
        end.cancel();
    }
}
