//! The whole platform is gone for a moment: somebody is told, and it comes back by itself.

use std::rc::Rc;
use std::time::Duration;

use weft_sandbox::client::Answer;

use super::super::common::{calls, millis};
use super::{CALLERS, INGRESS, MOST_LATE, MOST_STEPS, REPLICAS, SERVICE};
use crate::demo::check::{Expected, Unit};
use crate::demo::stage::Stage;

/// How long nothing of it runs: longer than alerts wait, which have their own factor.
const TIME: Duration = Duration::from_secs(4);
/// Calls of which each is looked at.
const CALLS: u64 = 10;
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "The platform is down",
            "All three replicas are killed, with their sidecars. Somebody has to be told.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    for replica in REPLICAS {
        world.mesh.kill_workload(replica).await?;
    }
    let none: [&str; 0] = [];
    world.mesh.set_endpoints(SERVICE, none)?;
    let (pod, to) = (world.mesh.pod(INGRESS), world.addr(CALLERS));
    let took = stage
        .until(PATIENCE, async |_| {
            let answer = pod.get(to, "/").await;
            answer.is_ok_and(|answer| is_no_endpoints(&answer))
        })
        .await;
    stage.check_time("until callers know that nobody is there", took, MOST_STEPS);
    let (answers, longest) = stage.during(calls(&pod, to, "/", CALLS)).await?;
    let said = answers.iter().filter(|answer| is_no_endpoints(answer));
    let said = said.count() as u64;
    stage.check_count(
        "answered 503, no_endpoints, by the caller's sidecar",
        (CALLS, "calls"),
        said,
        Expected::exactly(CALLS as f64),
    );
    stage.check(
        "the longest of these",
        millis(longest),
        Unit::Milliseconds,
        Expected::at_most(millis(MOST_LATE)),
    );
    stage.watch(TIME).await;
    for replica in REPLICAS {
        stage.during(world.mesh.start_workload(replica)).await?;
    }
    world.mesh.set_endpoints(SERVICE, REPLICAS)?;
    stage.cut();
    let took = stage
        .until(PATIENCE, async |world| {
            world.look(CALLERS, |report| {
                REPLICAS.iter().all(|it| report.served_by.contains_key(*it))
            })
        })
        .await;
    stage.check_time("from running again to all three serving", took, MOST_STEPS);
    let may = [
        // What databases made, at the end of the act before.
        "DatabaseConnectionFailures",
        "CacheConnectionFailures",
        // Who asks in the moment of the kill waits for further tries.
        "HighLatency",
    ];
    let alerts = ["PlatformDown", "HighErrorRate"];
    stage.check_alerts(&alerts, &may).await
}

fn is_no_endpoints(answer: &Answer) -> bool {
    answer.status == 503 && answer.outcome() == Some("no_endpoints")
}
