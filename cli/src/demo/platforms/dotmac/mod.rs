//! The DotMac platform: one application in three replicas, with PostgreSQL, Redis and services outside
//! that it calls. Its guide asks for breakers around these (five failures, 60 s, three successes, 30 s for
//! a request) that people can look at and reset, an end that takes 30 s and loses nothing, endpoints for
//! probes, and metrics by tenant.

mod breaker;
mod data;
mod down;
mod ended;
mod failing;
mod hanging;
mod managed;
mod servers;
mod well;

use std::time::Duration;

use weft_proto::names::env;
use weft_sandbox::load::Shot;
use weft_sandbox::mesh::Builder;

use super::common::{MOST_LATE, MOST_STEPS};
use super::{cast, common, policy, target};
use crate::demo::alerts::Watched;
use crate::demo::pace::Pace;
use crate::demo::story::{Door, Story, Target};

const NAME: &str = "dotmac";
const NAMESPACE: &str = "dotmac-production";
const MESH: &str = example!("dotmac/mesh.yaml");
/// The policies that acts are played without and with: of calls to the outside, and of the platform's
/// callers.
const EXTERNAL: &str = "external";
const EXTERNAL_POLICY: &str = example!("dotmac/policies/external.yaml");
const PLATFORM: &str = "platform";
const PLATFORM_POLICY: &str = example!("dotmac/policies/platform.yaml");

/// Failures in a row that open a breaker.
const FAILURES: u64 = 5;
/// How long it stays open: the guide's recovery timeout.
const RECOVERY: Duration = Duration::from_secs(60);
/// Successes that close it.
const SUCCESSES: u64 = 3;
/// The guide's limit for a request to the outside.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests may be finished after SIGTERM.
const DRAIN: Duration = Duration::from_secs(30);
/// What a sidecar adds to the time of an open breaker at most, so that not all probe at once.
const MOST_JITTER: f64 = 1.1;
/// What metrics are told apart by, as the annotation of kubernetes/platform.yaml says it.
const TENANT_LABEL: &str = "tenant=x-tenant-id";
const TENANT_VALUES: &str = "200";
const TENANT: http::HeaderName = http::HeaderName::from_static("x-tenant-id");

const INGRESS: &str = "dotmac-ingress/ingress-1";
const REPLICAS: [&str; 3] = [
    "dotmac-platform-1",
    "dotmac-platform-2",
    "dotmac-platform-3",
];
const SERVICE: &str = "dotmac-platform-service";
const PORT: u16 = 8000;
/// Services of others, and the workloads that play them.
const BILLING: &str = "billing-provider";
const BILLING_POD: &str = "billing-provider-1";
const SMS: &str = "sms-provider";
const SMS_POD: &str = "sms-provider-1";
const PROVIDER_PORT: u16 = 80;

/// Indices into [`TARGETS`].
const CALLERS: usize = 0;
const MESSAGES: usize = 1;

/// The story.
pub(super) static STORY: Story = Story {
    name: Some(NAME),
    about: "a platform of many tenants: breakers of 5 failures and 60 s, reset by command, 30 s to end",
    cast: "a control plane, an ingress, three replicas, PostgreSQL and Redis with their sidecars",
    namespace: NAMESPACE,
    targets: &TARGETS,
    mesh,
    policies: &[
        policy(EXTERNAL, EXTERNAL_POLICY),
        policy(PLATFORM, PLATFORM_POLICY),
        policy("namespace", example!("dotmac/policies/namespace.yaml")),
        policy("data", example!("dotmac/policies/data.yaml")),
    ],
    watched: Some(Watched {
        rules: example!("dotmac/prometheus/rules.yaml"),
        queries: example!("dotmac/prometheus/queries.yaml"),
    }),
    props: Some(|mesh, _| Box::pin(servers::start(mesh))),
    acts: &[
        |stage| Box::pin(well::play(stage)),
        |stage| Box::pin(failing::play(stage)),
        |stage| Box::pin(managed::play(stage)),
        |stage| Box::pin(hanging::play(stage)),
        |stage| Box::pin(ended::drained(stage)),
        |stage| Box::pin(ended::killed(stage)),
        |stage| Box::pin(data::play(stage)),
        |stage| Box::pin(down::play(stage)),
        |stage| {
            Box::pin(common::gone(
                stage,
                "It is killed; sidecars go on with what they know.",
            ))
        },
    ],
    doors: &[
        Door {
            target: CALLERS,
            paths: &[
                ("/api/v1/customers", "the ingress calls the platform"),
                (
                    "/api/v1/customers?delay_ms=5000",
                    "… which takes longer than it may, at a tenth of the guide's times",
                ),
            ],
        },
        Door {
            target: MESSAGES,
            paths: &[("/messages", "a replica calls a provider")],
        },
    ],
};

static TARGETS: [Target; 2] = [
    Target {
        rate: 30.0,
        ..target(SERVICE, PORT, &[SERVICE], INGRESS, |_| {
            ["acme", "globex", "initech"]
                .map(|tenant| of_tenant(Shot::get("/api/v1/customers"), tenant))
                .into()
        })
    },
    Target {
        rate: 10.0,
        clients: 100,
        ..target(SMS, PROVIDER_PORT, &[SMS], REPLICAS[0], |_| {
            vec![Shot::get("/messages")]
        })
    },
];

/// A request as the ingress passes it on: it knows whose it is.
fn of_tenant(shot: Shot, tenant: &'static str) -> Shot {
    shot.header(TENANT, http::HeaderValue::from_static(tenant))
}

fn mesh(pace: Pace) -> Builder {
    let workloads = [
        INGRESS,
        REPLICAS[0],
        REPLICAS[1],
        REPLICAS[2],
        servers::DATABASE,
        servers::CACHE,
        BILLING_POD,
        SMS_POD,
    ];
    cast(NAMESPACE, MESH, &workloads, |name, workload| {
        let workload = workload.drain_timeout(pace.of(DRAIN));
        if !REPLICAS.contains(&name) {
            return workload;
        }
        workload
            .env(env::METRICS_HEADER_LABEL, TENANT_LABEL)
            .env(env::METRICS_HEADER_VALUES, TENANT_VALUES)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_files() {
        for words in [
            format!("request: {}s", TIMEOUT.as_secs()),
            format!("threshold: {FAILURES}}}"),
            format!("openDuration: {}s\n", RECOVERY.as_secs()),
            format!("maxOpenDuration: {}s\n", RECOVERY.as_secs()),
            format!("successThreshold: {SUCCESSES}}}"),
        ] {
            assert!(EXTERNAL_POLICY.contains(&words), "{words}");
        }
        let deployment = example!("dotmac/kubernetes/platform.yaml");
        for words in [
            format!("drain-timeout: {}s", DRAIN.as_secs()),
            format!("metrics-header-label: {TENANT_LABEL}"),
            format!("metrics-header-values: \"{TENANT_VALUES}\""),
        ] {
            assert!(deployment.contains(&words), "{words}");
        }
    }
}
