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

use weft_sandbox::load::Shot;
use weft_sandbox::mesh::Builder;
use weft_sandbox::{AppSpec, Workload};

use self::servers::{SOCKETS, Servers};
use super::common::{DRAIN, MOST_LATE, MOST_STEPS};
use super::{cast, common, policy, target};
use crate::demo::alerts::Watched;
use crate::demo::check::{Expected, Unit};
use crate::demo::pace::Pace;
use crate::demo::stage::Stage;
use crate::demo::story::{Door, Story, Target};

const NAMESPACE: &str = "venta";
const MESH: &str = example!("venta/mesh.yaml");
/// The policy that acts are played without and with.
const SERVICES: &str = "services";
const SERVICES_POLICY: &str = example!("venta/policies/services.yaml");
const VENDOR_POLICY: &str = example!("venta/policies/vendor-management.yaml");

/// The port of every service and of every application.
const PORT: u16 = 3000;
/// What a caller waits for a service.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The guide's `maxRetryTime` for Redis.
const MAX_RETRY_TIME: Duration = Duration::from_secs(10);
/// The time that real-time's pods give their clients to leave.
const REAL_TIME_DRAIN: Duration = Duration::from_secs(30);
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
        policy(SERVICES, SERVICES_POLICY),
        policy("vendor-management", VENDOR_POLICY),
        policy("namespace", example!("venta/policies/namespace.yaml")),
        policy(
            "authorization",
            example!("venta/policies/authorization.yaml"),
        ),
        policy("real-time", example!("venta/policies/real-time.yaml")),
        policy("data", example!("venta/policies/data.yaml")),
    ],
    watched: Some(Watched {
        rules: example!("venta/prometheus/rules.yaml"),
        queries: example!("venta/prometheus/queries.yaml"),
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
    target(
        "location-service",
        PORT,
        &["location-service"],
        GATEWAY,
        |_| vec![Shot::get("/locations/42")],
    ),
    target(
        "vendor-management",
        PORT,
        &["vendor-management-stable", "vendor-management-canary"],
        GATEWAY,
        |_| vec![Shot::get("/vendors/42")],
    ),
    target(
        "user-management",
        PORT,
        &["user-management"],
        GATEWAY,
        |_| vec![Shot::get("/users/42"), Shot::post("/users", 256)],
    ),
    target("api-gateway", PORT, &["api-gateway"], INGRESS, |_| {
        vec![Shot::get("/")]
    }),
];

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
    common::all_well(stage, words).await;
    common::check_probes(stage, &PROBED).await?;
    let pods = [VENDOR_POD, CANARY_POD];
    common::check_refused(stage, USER_PODS[0], VENDOR, &pods, "vendor-management").await?;
    common::check_lines(stage, VENDOR, "/vendors/7", &pods).await?;
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
        let pods = example!("venta/kubernetes/services.yaml");
        assert!(pods.contains(&drain));
    }
}
