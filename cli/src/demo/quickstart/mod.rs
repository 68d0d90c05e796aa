//! The story of `weft demo` without a name: a small shop of eight workloads.
//!
//! Policies are those of `examples/quickstart`, so that what the demo shows can be tried by hand. They
//! are played with their own durations.

mod breaker;
mod canary;
mod deadline;
mod outage;
mod plaintext;
mod rolling;
mod steady;

use std::time::Duration;

use weft_sandbox::load::{Protocol, Shot};
use weft_sandbox::mesh::Builder;
use weft_sandbox::{AppSpec, Mesh, Programs, Service, Workload};

use super::pace::Pace;
use super::story::{Door, Story, Target};
use super::world::World;

/// The namespace of everything.
const NAMESPACE: &str = "shop";
/// Where the traffic comes from; its sidecar is the one to look at.
const WEB: &str = "web-1";
/// The endpoint that fails on purpose.
const FAILING: &str = "inventory-2";
/// The service port of every service.
const PORT: u16 = 80;
/// The port of every application.
const APP_PORT: u16 = 8080;
/// The bound that policy sets for reports.
const REPORT_DEADLINE: Duration = Duration::from_millis(400);
/// How long policy keeps a failing endpoint out.
const OPEN_DURATION: Duration = Duration::from_secs(2);

const CHECKOUT_POLICY: &str = include_str!("../../../../examples/quickstart/checkout.yaml");
const INVENTORY_POLICY: &str = include_str!("../../../../examples/quickstart/inventory.yaml");
const WEB_POLICY: &str = include_str!("../../../../examples/quickstart/web.yaml");
/// The longest time from a sidecar's SIGTERM to its end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an order's body.
const ORDER_LENGTH: usize = 512;

/// The story.
pub(super) static STORY: Story = Story {
    name: None,
    about: "a small shop: canary, failing endpoint, deadline, rolling update, lost control plane",
    cast: "a control plane and eight workloads with their sidecars",
    namespace: NAMESPACE,
    targets: &TARGETS,
    mesh,
    policies: &[],
    watched: None,
    props: None,
    acts: &[
        |stage| Box::pin(steady::play(stage)),
        |stage| Box::pin(canary::play(stage)),
        |stage| Box::pin(breaker::play(stage)),
        |stage| Box::pin(deadline::play(stage)),
        |stage| Box::pin(plaintext::play(stage)),
        |stage| Box::pin(rolling::play(stage)),
        |stage| Box::pin(outage::play(stage)),
    ],
    doors: &[
        Door {
            target: CHECKOUT,
            paths: &[
                ("/hello", "web-1 calls checkout"),
                ("/report?delay_ms=3000", "… which meets its deadline"),
            ],
        },
        Door {
            target: INVENTORY,
            paths: &[("/hello", "web-1 calls inventory")],
        },
    ],
};

/// In the order of the table's rows.
const TARGETS: [Target; 3] = [
    Target {
        service: "checkout",
        port: PORT,
        backends: &["checkout-v1", "checkout-v2"],
        caller: WEB,
        rate: 300.0,
        clients: 16,
        protocol: Protocol::Http1,
        versions: Some(["v1", "v2"]),
        // Orders are never to be repeated once they may have been processed.
        shots: |_| vec![Shot::get("/items"), Shot::post("/orders", ORDER_LENGTH)],
    },
    Target {
        service: "inventory",
        port: PORT,
        backends: &["inventory"],
        caller: WEB,
        rate: 150.0,
        clients: 8,
        protocol: Protocol::Http2,
        versions: None,
        shots: items,
    },
    // The inventory tells the shop about its stock.
    Target {
        service: "web",
        port: PORT,
        backends: &["web"],
        caller: "inventory-3",
        rate: 20.0,
        clients: 2,
        protocol: Protocol::Http1,
        versions: None,
        shots: items,
    },
];
/// Index into [`TARGETS`].
const CHECKOUT: usize = 0;
/// See [`CHECKOUT`].
const INVENTORY: usize = 1;

fn items(_: &Mesh) -> Vec<Shot> {
    vec![Shot::get("/items")]
}

fn mesh(_: Pace) -> Builder {
    let mut mesh = Mesh::builder("demo", Programs::of_this_program())
        .namespace(NAMESPACE)
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
}

/// Writes a split into the checkout's policy.
fn split_checkout(world: &World, weights: [u32; 2]) -> anyhow::Result<()> {
    world
        .mesh
        .apply_policy("checkout", &checkout_policy(weights))
}

/// Asks for mutual TLS on everything that comes to the shop.
fn make_web_strict(world: &World) -> anyhow::Result<()> {
    world.mesh.apply_policy("web", WEB_POLICY)
}

/// A workload of the checkout.
fn checkout(name: &str, version: &str) -> Workload {
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
        let workloads =
            super::super::rehearsal::reads_as_a_mesh("quickstart", &STORY, Pace::REAL).await;
        assert!(workloads.iter().any(|it| it == FAILING), "{workloads:?}");
    }
}
