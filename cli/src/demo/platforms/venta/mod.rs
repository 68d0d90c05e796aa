//! Venta's backend: a gateway of two pods before user and vendor management with PostgreSQL, a location
//! service that lives from Redis, WebSockets, and NATS. Its guide asks for updates of one pod at a time, a
//! rollback by script, clients that try three times or connect again five times, and pools of ten.

mod database;
mod killed;
mod locations;
mod nats;
mod redis;
mod rolling;
mod servers;
mod slow;
mod sockets;
mod version;

use std::rc::Rc;
use std::time::Duration;

use weft_proto::names::headers::REQUEST_ID;
use weft_sandbox::app::http::Seen;
use weft_sandbox::load::{Protocol, Shot};
use weft_sandbox::mesh::Builder;
use weft_sandbox::{AppSpec, Mesh, Workload};

use self::servers::{SOCKETS, Servers};
use super::{cast, common};
use crate::demo::alerts::Watched;
use crate::demo::check::{Expected, Unit};
use crate::demo::pace::Pace;
use crate::demo::stage::Stage;
use crate::demo::story::{Door, Policy, Story, Target};

const NAMESPACE: &str = "venta";
const MESH: &str = include_str!("../../../../../examples/venta/mesh.yaml");
/// The policy that acts are played without and with.
const SERVICES: &str = "services";
const SERVICES_POLICY: &str = include_str!("../../../../../examples/venta/policies/services.yaml");
const VENDOR_POLICY: &str =
    include_str!("../../../../../examples/venta/policies/vendor-management.yaml");

/// The port of every service and of every application.
const PORT: u16 = 3000;
/// What a caller waits for a service.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The guide's `maxRetryTime` for Redis.
const MAX_RETRY_TIME: Duration = Duration::from_secs(10);
/// The time that real-time's pods give their clients to leave.
const REAL_TIME_DRAIN: Duration = Duration::from_secs(30);
/// How long other sidecars may take to end.
const DRAIN: Duration = Duration::from_secs(5);
/// What a machine with other things to do may take on top of a bound.
const MOST_LATE: Duration = Duration::from_millis(250);
/// The same for what takes several steps.
const MOST_STEPS: Duration = Duration::from_secs(2);
/// Calls of which each is looked at.
const CALLS: u64 = 10;
/// How long clients may take until all have a WebSocket.
const PATIENCE: Duration = Duration::from_secs(10);

const INGRESS: &str = "ingress-nginx/ingress-1";
const GATEWAY_PODS: [&str; 2] = ["api-gateway-1", "api-gateway-2"];
/// The one that calls.
const GATEWAY: &str = GATEWAY_PODS[0];
const USER_PODS: [&str; 2] = ["user-management-1", "user-management-2"];
const VENDOR_POD: &str = "vendor-management-stable-1";
const CANARY_POD: &str = "vendor-management-canary-1";
const LOCATION_PODS: [&str; 2] = ["location-service-1", "location-service-2"];
const REAL_TIME_PODS: [&str; 2] = ["real-time-1", "real-time-2"];
/// Which serve probes, and where.
const PROBED: [(&str, u16); 4] = [
    (GATEWAY, PORT),
    (USER_PODS[0], PORT),
    (VENDOR_POD, PORT),
    (LOCATION_PODS[0], PORT),
];

/// Indices into [`TARGETS`].
const LOCATION: usize = 0;
const VENDOR: usize = 1;
const USERS: usize = 2;
const FRONT: usize = 3;
/// All but the location service.
const OTHERS: [usize; 3] = [USERS, VENDOR, FRONT];
/// All but the gateway.
const BEHIND: [usize; 3] = [LOCATION, VENDOR, USERS];
/// All but vendor management.
const OTHERS_THAN_VENDOR: [usize; 3] = [LOCATION, USERS, FRONT];

/// The story.
pub(super) static STORY: Story = Story {
    name: Some(NAMESPACE),
    about: "a gateway and locations: Redis and NATS restarted, WebSockets, rolling update, rollback",
    cast: "a control plane, eleven pods of six services, PostgreSQL, Redis and NATS with their sidecars",
    namespace: NAMESPACE,
    targets: &TARGETS,
    mesh,
    policies: &[
        Policy {
            name: SERVICES,
            yaml: SERVICES_POLICY,
        },
        Policy {
            name: "vendor-management",
            yaml: VENDOR_POLICY,
        },
        Policy {
            name: "namespace",
            yaml: include_str!("../../../../../examples/venta/policies/namespace.yaml"),
        },
        Policy {
            name: "authorization",
            yaml: include_str!("../../../../../examples/venta/policies/authorization.yaml"),
        },
        Policy {
            name: "real-time",
            yaml: include_str!("../../../../../examples/venta/policies/real-time.yaml"),
        },
        Policy {
            name: "data",
            yaml: include_str!("../../../../../examples/venta/policies/data.yaml"),
        },
    ],
    watched: Some(Watched {
        rules: include_str!("../../../../../examples/venta/prometheus/rules.yaml"),
        queries: include_str!("../../../../../examples/venta/prometheus/queries.yaml"),
    }),
    props: Some(|mesh, pace| Box::pin(servers::start(mesh, pace))),
    acts: &[
        |stage| Box::pin(well(stage)),
        |stage| Box::pin(slow::play(stage)),
        |stage| Box::pin(redis::play(stage)),
        |stage| Box::pin(nats::play(stage)),
        |stage| Box::pin(version::play(stage)),
        |stage| Box::pin(database::play(stage)),
        |stage| Box::pin(killed::play(stage)),
        |stage| Box::pin(rolling::play(stage)),
        |stage| Box::pin(gone(stage)),
    ],
    doors: &[
        Door {
            target: LOCATION,
            paths: &[(
                "/locations/42",
                "the gateway asks the location service, which asks Redis",
            )],
        },
        Door {
            target: VENDOR,
            paths: &[("/vendors/42", "the gateway calls one of two versions")],
        },
        Door {
            target: FRONT,
            paths: &[("/", "the ingress calls the gateway")],
        },
    ],
};

static TARGETS: [Target; 4] = [
    target("location-service", &["location-service"], GATEWAY, |_| {
        vec![Shot::get("/locations/42")]
    }),
    target(
        "vendor-management",
        &["vendor-management-stable", "vendor-management-canary"],
        GATEWAY,
        |_| vec![Shot::get("/vendors/42")],
    ),
    target("user-management", &["user-management"], GATEWAY, |_| {
        vec![Shot::get("/users/42"), Shot::post("/users", 256)]
    }),
    target("api-gateway", &["api-gateway"], INGRESS, |_| {
        vec![Shot::get("/")]
    }),
];

const fn target(
    service: &'static str,
    backends: &'static [&'static str],
    caller: &'static str,
    shots: fn(&Mesh) -> Vec<Shot>,
) -> Target {
    Target {
        service,
        port: PORT,
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

fn mesh(pace: Pace) -> Builder {
    let workloads = [
        INGRESS,
        GATEWAY_PODS[0],
        GATEWAY_PODS[1],
        USER_PODS[0],
        USER_PODS[1],
        VENDOR_POD,
        CANARY_POD,
        LOCATION_PODS[0],
        LOCATION_PODS[1],
        REAL_TIME_PODS[0],
        REAL_TIME_PODS[1],
        servers::DATABASE,
        servers::REDIS,
        servers::NATS,
    ];
    cast(NAMESPACE, MESH, &workloads, |name, workload| {
        if LOCATION_PODS.contains(&name) {
            // Its application is one of the story's own.
            return Workload::new(name)
                .service_account("location-service")
                .drain_timeout(DRAIN)
                .port(PORT, AppSpec::none())
                .probe(PORT, "/health");
        }
        if REAL_TIME_PODS.contains(&name) {
            return rolling::real_time_pod(name, pace.of(REAL_TIME_DRAIN));
        }
        workload.drain_timeout(DRAIN)
    })
}

async fn well(stage: &mut Stage) -> anyhow::Result<()> {
    let words = "The ingress calls the gateway, the gateway calls locations, vendors and users.";
    common::all_well(stage, words).await?;
    common::check_probes(stage, &PROBED).await?;
    check_callers(stage).await?;
    check_lines(stage).await?;
    let world = Rc::clone(&stage.world);
    let sockets = world.props::<Servers>().map_or(&[][..], |it| &it.sockets);
    let open = || sockets.iter().filter(|it| it.now().is_some()).count() as u64;
    stage.until(PATIENCE, async |_| open() == SOCKETS).await;
    stage.check_count(
        "WebSockets open",
        (SOCKETS, "WebSockets"),
        open(),
        Expected::exactly(SOCKETS as f64),
    );
    stage.check_alerts(&[], &[]).await
}

/// A service that the policy does not name is refused, and does not get to the application.
async fn check_callers(stage: &mut Stage) -> anyhow::Result<()> {
    let world = Rc::clone(&stage.world);
    let (pod, to) = (world.mesh.pod(USER_PODS[0]), world.addr(VENDOR));
    let calls = common::calls(&pod, to, "/not-allowed", CALLS);
    let (answers, _) = stage.during(calls).await?;
    let denied = answers.iter().filter(|answer| answer.status == 403);
    let denied = denied.count() as u64;
    let mut seen = 0;
    for pod in [VENDOR_POD, CANARY_POD] {
        let stats = world.mesh.app(pod).stats().await?;
        seen += stats.routes.get("GET /not-allowed").copied().unwrap_or(0);
    }
    let of = (CALLS, "calls");
    stage.check_count(
        "calls of a service that is not named refused",
        of,
        denied,
        Expected::exactly(CALLS as f64),
    );
    let what = "of these seen by vendor-management";
    stage.check_count(what, of, seen, Expected::exactly(0));
    Ok(())
}

/// Each request has one id, which the sidecars of both sides write in their lines, in JSON.
async fn check_lines(stage: &mut Stage) -> anyhow::Result<()> {
    let world = Rc::clone(&stage.world);
    let (pod, to) = (world.mesh.pod(GATEWAY), world.addr(VENDOR));
    let calls = common::calls(&pod, to, "/vendors/7", CALLS);
    let (answers, _) = stage.during(calls).await?;
    let mut ids = Vec::new();
    for answer in &answers {
        let seen: Seen = serde_json::from_slice(&answer.body)?;
        let headers = seen.headers.into_iter();
        ids.extend(
            headers
                .filter(|(name, _)| name == REQUEST_ID)
                .map(|it| it.1),
        );
    }
    let sides = [&[GATEWAY][..], &[VENDOR_POD, CANARY_POD]];
    let mut both = 0;
    stage
        .until(MOST_STEPS, async |world| {
            let logs = sides.map(|side| side.iter().map(|it| world.mesh.sidecar_log(it)));
            let logs = logs.map(|logs| ids_of(&logs.collect::<String>()));
            let all = ids
                .iter()
                .filter(|id| logs.iter().all(|log| log.contains(*id)));
            both = all.count() as u64;
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

/// Those that the lines of a log have.
fn ids_of(log: &str) -> Vec<String> {
    let lines = log.lines().filter_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(line["requestId"].as_str()?.to_owned())
    });
    lines.collect()
}

async fn gone(stage: &mut Stage) -> anyhow::Result<()> {
    let words = "It is killed; sidecars go on with what they know, and WebSockets stay open.";
    let world = Rc::clone(&stage.world);
    let sockets = world.props::<Servers>().map_or(&[][..], |it| &it.sockets);
    let connections = || sockets.iter().map(|it| it.seen().len()).sum::<usize>();
    let before = connections();
    common::control_plane_gone(stage, words).await?;
    stage.check_count(
        "WebSockets cut",
        (SOCKETS, "WebSockets"),
        (connections() - before) as u64,
        Expected::exactly(0),
    );
    // Every policy has come and gone since the story began.
    let seen: Vec<_> = sockets.iter().map(sockets::Client::seen).collect();
    let stayed =
        |seen: &&Vec<sockets::Seen>| seen.first().is_some_and(|it| it.pod == REAL_TIME_PODS[0]);
    let stayed: Vec<_> = seen.iter().filter(stayed).collect();
    stage.check_count(
        "of real-time-1 open since the story began",
        (stayed.len() as u64, "WebSockets"),
        stayed.iter().filter(|seen| seen.len() == 1).count() as u64,
        Expected::exactly(stayed.len() as f64),
    );
    let gaps = stayed.iter().flat_map(|seen| seen.iter());
    let gap = gaps.map(|it| it.longest_gap).max();
    stage.check(
        "the longest that one of these was silent",
        gap.map(common::millis),
        Unit::Milliseconds,
        Expected::at_most(common::millis(MOST_STEPS)),
    );
    stage.check_silence().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_policies() {
        let request = format!("request: {}s", TIMEOUT.as_secs());
        for words in [
            &request,
            "attempts: 3",
            "consecutiveFailures: {threshold: 5}",
        ] {
            assert!(SERVICES_POLICY.contains(words), "{words}");
        }
        let drain = format!("drain-timeout: {}s", REAL_TIME_DRAIN.as_secs());
        let pods = include_str!("../../../../../examples/venta/kubernetes/services.yaml");
        assert!(pods.contains(&drain));
    }
}
