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

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use weft_sandbox::load::Shot;
use weft_sandbox::mesh::Builder;
use weft_sandbox::{AppSpec, Workload};

use super::common::{CALLS, DRAIN, MOST_LATE, MOST_STEPS};
use super::{cast, common, policy, target};
use crate::demo::alerts::Watched;
use crate::demo::pace::Pace;
use crate::demo::stage::Stage;
use crate::demo::story::{Door, Story, Target};

/// The name of the example, and the namespace of its services.
const NAME: &str = "ecommerce";
const NAMESPACE: &str = "ecommerce-prod";
const MESH: &str = example!("ecommerce/mesh.yaml");
/// Policies that acts are played without and with, or change.
const SERVICES: &str = "services";
const SERVICES_POLICY: &str = example!("ecommerce/policies/services.yaml");
const CANARY: &str = "user-service";
const CANARY_POLICY: &str = example!("ecommerce/policies/user-service.yaml");
const COLOURS: &str = "product-service";
const COLOURS_POLICY: &str = example!("ecommerce/policies/product-service.yaml");
const INGRESS: &str = "ingress";
const INGRESS_POLICY: &str = example!("ecommerce/policies/ingress.yaml");
const POOL: &str = "pool";
const POOL_POLICY: &str = example!("ecommerce/policies/pool.yaml");

/// The guide's canary, old and new.
const SHARES: [u32; 2] = [90, 10];
/// The guide's limit for a statement of the database, and so for a request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The guide's time until a connection to the database is there.
const CONNECT: Duration = Duration::from_secs(2);
/// From a policy on disk to live traffic.
const MOST_DELAY: Duration = Duration::from_secs(1);

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
        policy("data", example!("ecommerce/policies/data.yaml")),
        policy("namespace", example!("ecommerce/policies/namespace.yaml")),
        policy(
            "authorization",
            example!("ecommerce/policies/authorization.yaml"),
        ),
    ],
    watched: Some(Watched {
        rules: example!("ecommerce/prometheus/rules.yaml"),
        queries: example!("ecommerce/prometheus/queries.yaml"),
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
        |stage| {
            let words =
                "It is killed; sidecars go on with what they know, the canary's shares too.";
            Box::pin(common::gone(stage, words))
        },
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
            GATEWAY,
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
            GATEWAY,
            |_| vec![Shot::get("/api/products/7")],
        )
    },
    target("cart-service", 3003, &["cart-service"], GATEWAY, |_| {
        vec![Shot::get("/carts/42"), Shot::post("/carts/42", 256)]
    }),
    target("order-service", 3004, &["order-service"], GATEWAY, |_| {
        vec![Shot::get("/orders/42")]
    }),
    target("api-gateway", 8000, &["api-gateway"], FRONT, |_| {
        vec![Shot::get("/").header(CLIENT, CUSTOMER)]
    }),
];

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
    common::all_well(stage, words).await;
    common::check_probes(stage, &PROBED).await?;
    let users = [OLD_PODS[0], OLD_PODS[1], NEW_POD];
    common::check_refused(stage, CART, USERS, &users, "user-service").await?;
    stage.check_alerts(&[], &[]).await
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
