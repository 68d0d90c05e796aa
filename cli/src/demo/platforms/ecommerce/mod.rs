//! The e-commerce system: a gateway and services behind an ingress, which keep their data in PostgreSQL,
//! Redis and Kafka. Its guide asks for a canary of 90/10, for blue and green with a way back, for a rate
//! limit of 100 at the ingress, a pool of 20 connections that are there within 2 s, and statements of at
//! most 10 s.

mod canary;
mod colours;
mod database;
mod front;
mod killed;
mod pool;
mod servers;
mod slow;
mod splits;

use std::rc::Rc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use weft_sandbox::load::{Protocol, Shot};
use weft_sandbox::mesh::Builder;
use weft_sandbox::{AppSpec, Mesh, Workload};

use super::{cast, common};
use crate::demo::alerts::Watched;
use crate::demo::check::Expected;
use crate::demo::pace::Pace;
use crate::demo::stage::Stage;
use crate::demo::story::{Door, Policy, Story, Target};

/// The name of the example, and the namespace of its services.
const NAME: &str = "ecommerce";
const NAMESPACE: &str = "ecommerce-prod";
const MESH: &str = include_str!("../../../../../examples/ecommerce/mesh.yaml");
/// Policies that acts are played without and with, or change.
const SERVICES: &str = "services";
const SERVICES_POLICY: &str =
    include_str!("../../../../../examples/ecommerce/policies/services.yaml");
const CANARY: &str = "user-service";
const CANARY_POLICY: &str =
    include_str!("../../../../../examples/ecommerce/policies/user-service.yaml");
const COLOURS: &str = "product-service";
const COLOURS_POLICY: &str =
    include_str!("../../../../../examples/ecommerce/policies/product-service.yaml");
const INGRESS: &str = "ingress";
const INGRESS_POLICY: &str =
    include_str!("../../../../../examples/ecommerce/policies/ingress.yaml");
const POOL: &str = "pool";
const POOL_POLICY: &str = include_str!("../../../../../examples/ecommerce/policies/pool.yaml");

/// The guide's canary, old and new.
const SHARES: [u32; 2] = [90, 10];
/// The guide's limit for a statement of the database, and so for a request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The guide's time until a connection to the database is there.
const CONNECT: Duration = Duration::from_secs(2);
/// What a machine with other things to do may take on top of a bound.
const MOST_LATE: Duration = Duration::from_millis(250);
/// The same for what takes several steps.
const MOST_STEPS: Duration = Duration::from_secs(2);
/// From a policy on disk to live traffic.
const MOST_DELAY: Duration = Duration::from_secs(1);
/// How long a sidecar may take to end.
const DRAIN: Duration = Duration::from_secs(5);

/// Calls of which each is looked at.
const CALLS: u64 = 10;
/// Says who a client of the ingress is.
const CLIENT: HeaderName = HeaderName::from_static("x-real-ip");
/// Whom the ingress asks the gateway for all along.
const CUSTOMER: HeaderValue = HeaderValue::from_static("203.0.113.9");

const FRONT: &str = "ingress-nginx/ingress-1";
const GATEWAY: &str = "api-gateway-1";
const OLD_PODS: [&str; 2] = ["user-service-v1-1", "user-service-v1-2"];
const NEW_POD: &str = "user-service-v2-1";
const BLUE: &str = "product-service-blue-1";
const GREEN: &str = "product-service-green-1";
const CART: &str = "cart-service-1";
const ORDER: &str = "order-service-1";
/// Which serve probes, and where.
const PROBED: [(&str, u16); 5] = [
    (GATEWAY, 8000),
    (OLD_PODS[0], 3001),
    (BLUE, 3002),
    (CART, 3003),
    (ORDER, 3004),
];

/// Indices into [`TARGETS`].
const USERS: usize = 0;
const PRODUCTS: usize = 1;
const CARTS: usize = 2;
const ORDERS: usize = 3;
const SHOP: usize = 4;

/// The story.
pub(super) static STORY: Story = Story {
    name: Some(NAME),
    about: "a shop: canary 90/10, blue and green, 100 requests per second and client, pools of 20",
    cast: "a control plane, an ingress, the gateway, four services, and their data, with sidecars",
    namespace: NAMESPACE,
    targets: &TARGETS,
    mesh,
    policies: &[
        policy(SERVICES, SERVICES_POLICY),
        policy(CANARY, CANARY_POLICY),
        policy(COLOURS, COLOURS_POLICY),
        policy(INGRESS, INGRESS_POLICY),
        policy(POOL, POOL_POLICY),
        policy(
            "data",
            include_str!("../../../../../examples/ecommerce/policies/data.yaml"),
        ),
        policy(
            "namespace",
            include_str!("../../../../../examples/ecommerce/policies/namespace.yaml"),
        ),
        policy(
            "authorization",
            include_str!("../../../../../examples/ecommerce/policies/authorization.yaml"),
        ),
    ],
    watched: Some(Watched {
        rules: include_str!("../../../../../examples/ecommerce/prometheus/rules.yaml"),
        queries: include_str!("../../../../../examples/ecommerce/prometheus/queries.yaml"),
    }),
    props: Some(|mesh, _| Box::pin(servers::start(mesh))),
    acts: &[
        |stage| Box::pin(well(stage)),
        |stage| Box::pin(canary::play(stage)),
        |stage| Box::pin(canary::play_bad(stage)),
        |stage| Box::pin(colours::play(stage)),
        |stage| Box::pin(front::play(stage)),
        |stage| Box::pin(slow::play(stage)),
        |stage| Box::pin(killed::play(stage)),
        |stage| Box::pin(pool::play(stage)),
        |stage| Box::pin(database::play(stage)),
        |stage| Box::pin(gone(stage)),
    ],
    doors: &[
        Door {
            target: USERS,
            paths: &[("/api/users/42", "nine of ten by v1, one by v2")],
        },
        Door {
            target: ORDERS,
            paths: &[
                ("/orders/42", "the gateway calls order-service"),
                ("/orders/42?delay_ms=3000", "… which is too slow"),
            ],
        },
    ],
};

static TARGETS: [Target; 5] = [
    Target {
        rate: 100.0,
        versions: Some(["v1", "v2"]),
        ..target(
            "user-service",
            3001,
            &["user-service-v1", "user-service-v2"],
            |_| vec![Shot::get("/api/users/42")],
        )
    },
    Target {
        rate: 40.0,
        versions: Some(["blue", "green"]),
        ..target(
            "product-service",
            3002,
            &["product-service-blue", "product-service-green"],
            |_| vec![Shot::get("/api/products/7")],
        )
    },
    target("cart-service", 3003, &["cart-service"], |_| {
        vec![Shot::get("/carts/42"), Shot::post("/carts/42", 256)]
    }),
    target("order-service", 3004, &["order-service"], |_| {
        vec![Shot::get("/orders/42")]
    }),
    Target {
        caller: FRONT,
        ..target("api-gateway", 8000, &["api-gateway"], |_| {
            vec![Shot::get("/").header(CLIENT, CUSTOMER)]
        })
    },
];

const fn policy(name: &'static str, yaml: &'static str) -> Policy {
    Policy { name, yaml }
}

/// Called by the gateway.
const fn target(
    service: &'static str,
    port: u16,
    backends: &'static [&'static str],
    shots: fn(&Mesh) -> Vec<Shot>,
) -> Target {
    Target {
        service,
        port,
        backends,
        caller: GATEWAY,
        rate: 20.0,
        // Callers that hang for 20 s each, at the rate above and in real time, are four hundred.
        clients: 500,
        protocol: Protocol::Http1,
        versions: None,
        shots,
    }
}

fn mesh(_: Pace) -> Builder {
    let workloads = [
        FRONT,
        GATEWAY,
        OLD_PODS[0],
        OLD_PODS[1],
        NEW_POD,
        BLUE,
        GREEN,
        CART,
        ORDER,
        servers::DATABASE,
        servers::CACHE,
        servers::BROKER,
    ];
    cast(NAMESPACE, MESH, &workloads, |name, workload| {
        let workload = match name {
            servers::BROKER => Workload::new(name)
                .namespace(NAMESPACE)
                .service_account("kafka")
                .port(servers::BROKER_PORT, AppSpec::kafka()),
            NEW_POD => workload.version("v2"),
            BLUE => workload.version("blue"),
            GREEN => workload.version("green"),
            _ => workload.version("v1"),
        };
        workload.drain_timeout(DRAIN)
    })
}

async fn well(stage: &mut Stage) -> anyhow::Result<()> {
    stage.want_split(USERS, SHARES);
    let words =
        "The ingress calls the gateway; the gateway calls users, products, carts and orders.";
    common::all_well(stage, words).await?;
    common::check_probes(stage, &PROBED).await?;
    check_callers(stage).await?;
    stage.check_alerts(&[], &[]).await
}

/// A service that the policy does not name is refused, and does not get to the application.
async fn check_callers(stage: &mut Stage) -> anyhow::Result<()> {
    let world = Rc::clone(&stage.world);
    let (pod, to) = (world.mesh.pod(CART), world.addr(USERS));
    let (answers, _) = stage
        .during(common::calls(&pod, to, "/not-allowed", CALLS))
        .await?;
    let denied = answers.iter().filter(|answer| answer.status == 403);
    let denied = denied.count() as u64;
    let mut seen = 0;
    for pod in [OLD_PODS[0], OLD_PODS[1], NEW_POD] {
        let stats = world.mesh.app(pod).stats().await?;
        seen += stats.routes.get("GET /not-allowed").copied().unwrap_or(0);
    }
    let (of, all) = ((CALLS, "calls"), Expected::exactly(CALLS as f64));
    let what = "calls of a service that is not named refused";
    stage.check_count(what, of, denied, all);
    let what = "of these seen by user-service";
    stage.check_count(what, of, seen, Expected::exactly(0));
    Ok(())
}

async fn gone(stage: &mut Stage) -> anyhow::Result<()> {
    let words = "It is killed; sidecars go on with what they know, the canary's shares too.";
    common::control_plane_gone(stage, words).await?;
    stage.check_silence().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_policies() {
        let request = format!("request: {}s,", TIMEOUT.as_secs());
        let connect = format!("connect: {}s}}", CONNECT.as_secs());
        let connections = format!("maxConnections: {}}}", pool::MOST);
        let rate = format!(
            "requestsPerSecond: {0}, burst: {0}, key: Header, header: {CLIENT}",
            front::RATE
        );
        let [old, new] = SHARES;
        let shares = [
            format!("{{name: user-service-v1, weight: {old}}}"),
            format!("{{name: user-service-v2, weight: {new}}}"),
        ];
        for (policy, words) in [
            (SERVICES_POLICY, &request),
            (POOL_POLICY, &connect),
            (POOL_POLICY, &connections),
            (INGRESS_POLICY, &rate),
            (CANARY_POLICY, &shares[0]),
            (CANARY_POLICY, &shares[1]),
        ] {
            assert!(policy.contains(words), "{words}");
        }
    }
}
