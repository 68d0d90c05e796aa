//! The rent-to-own marketplace: a gateway and services of which each has a database of its own. Its
//! guide asks for 5 s and three retries for each call, a breaker at 50 % errors that tries again after
//! 30 s, and a fallback in JSON.

mod database;
mod down;
mod killed;
mod messages;
mod servers;
mod slow;

use std::time::Duration;

use weft_sandbox::load::Shot;
use weft_sandbox::mesh::Builder;

use super::common::{DRAIN, MOST_LATE, MOST_STEPS};
use super::{cast, common, policy, target};
use crate::demo::alerts::Watched;
use crate::demo::pace::Pace;
use crate::demo::stage::Stage;
use crate::demo::story::{Door, Story, Target};

const NAMESPACE: &str = "rent-to-own";
const MESH: &str = example!("rent-to-own/mesh.yaml");
/// The policy that acts are played without and with.
const SERVICES: &str = "services";
const SERVICES_POLICY: &str = example!("rent-to-own/policies/services.yaml");

/// The guide's limit for a call.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The guide's time until an open breaker tries again.
const RESET: Duration = Duration::from_secs(30);
/// The time that the breaker counts errors over.
const WINDOW: Duration = Duration::from_secs(10);
/// The guide's answer where a service cannot.
const FALLBACK: &str = r#"{"success":false,"error":"Service temporarily unavailable"}"#;

const GATEWAY: &str = "api-gateway-1";
const CREDIT_PODS: [&str; 2] = ["credit-service-1", "credit-service-2"];
/// Which serve probes, and where.
const PROBED: [(&str, u16); 4] = [
    (GATEWAY, 3000),
    ("user-service-1", 3001),
    ("vehicle-service-1", 3002),
    ("credit-service-1", 3004),
];

/// Indices into [`TARGETS`].
const CREDIT: usize = 0;
/// Those that fail on no account.
const OTHERS: [usize; 3] = [1, 2, 3];

/// The story.
pub(super) static STORY: Story = Story {
    name: Some(NAMESPACE),
    about: "a marketplace: 5 s and 3 retries, breaker at 50 %, 30 s until it tries again, JSON fallback",
    cast: "a control plane, the gateway, three services, a database and a broker with their sidecars",
    namespace: NAMESPACE,
    targets: &TARGETS,
    mesh,
    policies: &[
        policy(SERVICES, SERVICES_POLICY),
        policy("namespace", example!("rent-to-own/policies/namespace.yaml")),
        policy(
            "authorization",
            example!("rent-to-own/policies/authorization.yaml"),
        ),
        policy("rabbitmq", example!("rent-to-own/policies/rabbitmq.yaml")),
        policy("databases", example!("rent-to-own/policies/databases.yaml")),
    ],
    watched: Some(Watched {
        rules: example!("rent-to-own/prometheus/rules.yaml"),
        queries: example!("rent-to-own/prometheus/queries.yaml"),
    }),
    props: Some(|mesh, _| Box::pin(servers::start(mesh))),
    acts: &[
        |stage| Box::pin(well(stage)),
        |stage| Box::pin(slow::play(stage)),
        |stage| Box::pin(down::play(stage)),
        |stage| Box::pin(killed::play(stage)),
        |stage| Box::pin(database::play(stage)),
        |stage| Box::pin(messages::play(stage)),
        |stage| {
            Box::pin(common::gone(
                stage,
                "It is killed; sidecars go on with what they know.",
            ))
        },
    ],
    doors: &[
        Door {
            target: CREDIT,
            paths: &[
                ("/credit/42", "the gateway calls credit-service"),
                ("/credit/42?delay_ms=3000", "… which is too slow"),
            ],
        },
        Door {
            target: 3,
            paths: &[("/", "the ingress calls the gateway")],
        },
    ],
};

static TARGETS: [Target; 4] = [
    target("credit-service", 3004, &["credit-service"], GATEWAY, |_| {
        vec![Shot::get("/credit/42")]
    }),
    target("user-service", 3001, &["user-service"], GATEWAY, |_| {
        vec![Shot::get("/users/42")]
    }),
    target(
        "vehicle-service",
        3002,
        &["vehicle-service"],
        GATEWAY,
        |_| vec![Shot::get("/vehicles"), Shot::post("/vehicles", 256)],
    ),
    target(
        "api-gateway",
        3000,
        &["api-gateway"],
        "ingress-nginx/ingress-1",
        |_| vec![Shot::get("/")],
    ),
];

fn mesh(_: Pace) -> Builder {
    let workloads = [
        "ingress-nginx/ingress-1",
        GATEWAY,
        "user-service-1",
        "vehicle-service-1",
        CREDIT_PODS[0],
        CREDIT_PODS[1],
        servers::DATABASE,
        servers::BROKER,
    ];
    cast(NAMESPACE, MESH, &workloads, |_, workload| {
        workload.drain_timeout(DRAIN)
    })
}

async fn well(stage: &mut Stage) -> anyhow::Result<()> {
    let words = "The ingress calls the gateway, the gateway calls users, vehicles and credit.";
    common::all_well(stage, words).await;
    common::check_probes(stage, &PROBED).await?;
    common::check_refused(
        stage,
        "user-service-1",
        CREDIT,
        &CREDIT_PODS,
        "credit-service",
    )
    .await?;
    common::check_lines(stage, CREDIT, "/credit/7", &CREDIT_PODS).await?;
    stage.check_alerts(&[], &[]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_policies() {
        for words in [
            format!("request: {}s", TIMEOUT.as_secs()),
            format!("openDuration: {}s\n", RESET.as_secs()),
            format!("maxOpenDuration: {}s\n", RESET.as_secs()),
            format!("body: '{FALLBACK}'"),
            "attempts: 3".to_owned(),
            "thresholdPercent: 50".to_owned(),
            format!("window: {}s", WINDOW.as_secs()),
        ] {
            assert!(SERVICES_POLICY.contains(&words), "{words}");
        }
    }
}
