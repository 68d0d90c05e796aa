//! The rent-to-own marketplace: a gateway and services of which each has a database of its own. Its
//! guide asks for 5 s and three retries for each call, a breaker at 50 % errors that tries again after
//! 30 s, and a fallback in JSON.

mod database;
mod down;
mod killed;
mod messages;
mod servers;
mod slow;

use std::rc::Rc;
use std::time::Duration;

use weft_proto::names::headers::REQUEST_ID;
use weft_sandbox::Mesh;
use weft_sandbox::app::http::Seen;
use weft_sandbox::load::{Protocol, Shot};
use weft_sandbox::mesh::Builder;

use super::{cast, common};
use crate::demo::alerts::Watched;
use crate::demo::check::Expected;
use crate::demo::pace::Pace;
use crate::demo::stage::Stage;
use crate::demo::story::{Door, Policy, Story, Target};

const NAMESPACE: &str = "rent-to-own";
const MESH: &str = include_str!("../../../../../examples/rent-to-own/mesh.yaml");
/// The policy that acts are played without and with.
const SERVICES: &str = "services";
const SERVICES_POLICY: &str =
    include_str!("../../../../../examples/rent-to-own/policies/services.yaml");

/// The guide's limit for a call.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The guide's time until an open breaker tries again.
const RESET: Duration = Duration::from_secs(30);
/// The time that the breaker counts errors over.
const WINDOW: Duration = Duration::from_secs(10);
/// The guide's answer where a service cannot.
const FALLBACK: &str = r#"{"success":false,"error":"Service temporarily unavailable"}"#;
/// What a machine with other things to do may take on top of a bound.
const MOST_LATE: Duration = Duration::from_millis(250);
/// The same for what takes several steps.
const MOST_STEPS: Duration = Duration::from_secs(2);
/// How long a sidecar may take to end.
const DRAIN: Duration = Duration::from_secs(5);

/// Calls of which each is looked at.
const CALLS: u64 = 10;
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
        Policy {
            name: SERVICES,
            yaml: SERVICES_POLICY,
        },
        Policy {
            name: "namespace",
            yaml: include_str!("../../../../../examples/rent-to-own/policies/namespace.yaml"),
        },
        Policy {
            name: "authorization",
            yaml: include_str!("../../../../../examples/rent-to-own/policies/authorization.yaml"),
        },
        Policy {
            name: "rabbitmq",
            yaml: include_str!("../../../../../examples/rent-to-own/policies/rabbitmq.yaml"),
        },
        Policy {
            name: "databases",
            yaml: include_str!("../../../../../examples/rent-to-own/policies/databases.yaml"),
        },
    ],
    watched: Some(Watched {
        rules: include_str!("../../../../../examples/rent-to-own/prometheus/rules.yaml"),
        queries: include_str!("../../../../../examples/rent-to-own/prometheus/queries.yaml"),
    }),
    props: Some(|mesh, _| Box::pin(servers::start(mesh))),
    acts: &[
        |stage| Box::pin(well(stage)),
        |stage| Box::pin(slow::play(stage)),
        |stage| Box::pin(down::play(stage)),
        |stage| Box::pin(killed::play(stage)),
        |stage| Box::pin(database::play(stage)),
        |stage| Box::pin(messages::play(stage)),
        |stage| Box::pin(gone(stage)),
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

const fn target(
    service: &'static str,
    port: u16,
    backends: &'static [&'static str],
    caller: &'static str,
    shots: fn(&Mesh) -> Vec<Shot>,
) -> Target {
    Target {
        service,
        port,
        backends,
        caller,
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
    common::all_well(stage, words).await?;
    common::check_probes(stage, &PROBED).await?;
    check_callers(stage).await?;
    check_lines(stage).await?;
    stage.check_alerts(&[], &[]).await
}

/// A service that the policy does not name is refused, and does not get to the application.
async fn check_callers(stage: &mut Stage) -> anyhow::Result<()> {
    let world = Rc::clone(&stage.world);
    let (pod, to) = (world.mesh.pod("user-service-1"), world.addr(CREDIT));
    let (answers, _) = stage
        .during(common::calls(&pod, to, "/not-allowed", CALLS))
        .await?;
    let denied = answers.iter().filter(|answer| answer.status == 403);
    let denied = denied.count() as u64;
    let mut seen = 0;
    for pod in CREDIT_PODS {
        let stats = world.mesh.app(pod).stats().await?;
        seen += stats.routes.get("GET /not-allowed").copied().unwrap_or(0);
    }
    let all = Expected::exactly(CALLS as f64);
    let of = (CALLS, "calls");
    stage.check_count(
        "calls of a service that is not named refused",
        of,
        denied,
        all,
    );
    let what = "of these seen by credit-service";
    stage.check_count(what, of, seen, Expected::exactly(0));
    Ok(())
}

/// Each request has one id, which the sidecars of both sides write in their lines, in JSON.
async fn check_lines(stage: &mut Stage) -> anyhow::Result<()> {
    let world = Rc::clone(&stage.world);
    let (pod, to) = (world.mesh.pod(GATEWAY), world.addr(CREDIT));
    let (answers, _) = stage
        .during(common::calls(&pod, to, "/credit/7", CALLS))
        .await?;
    let mut ids = Vec::new();
    for answer in &answers {
        let seen: Seen = serde_json::from_slice(&answer.body)?;
        let mut headers = seen.headers.into_iter();
        ids.extend(
            headers
                .find(|(name, _)| name == REQUEST_ID)
                .map(|(_, id)| id),
        );
    }
    let sides = [&[GATEWAY][..], &CREDIT_PODS];
    let mut both = 0;
    stage
        .until(MOST_STEPS, async |world| {
            let logs = sides.map(|side| side.iter().map(|it| world.mesh.sidecar_log(it)));
            let logs = logs.map(Iterator::collect::<String>);
            let has = |log: &String, id: &String| {
                let mut lines = log.lines().filter_map(|line| {
                    let line: serde_json::Value = serde_json::from_str(line).ok()?;
                    Some(line["requestId"] == id.as_str())
                });
                lines.any(|it| it)
            };
            both = ids
                .iter()
                .filter(|id| logs.iter().all(|log| has(log, id)))
                .count() as u64;
            both == CALLS
        })
        .await;
    stage.check_count(
        "request ids in the lines of both sidecars",
        (CALLS, "calls"),
        both,
        Expected::exactly(CALLS as f64),
    );
    Ok(())
}

async fn gone(stage: &mut Stage) -> anyhow::Result<()> {
    let words = "It is killed; sidecars go on with what they know.";
    common::control_plane_gone(stage, words).await?;
    stage.check_silence().await;
    Ok(())
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
