//! A pod is killed with everything that it works on, application and sidecar at once.

use std::rc::Rc;
use std::time::Duration;

use weft_sandbox::app::Behavior;

use super::super::common::{behave, serves_again};
use super::{CARTS, GATEWAY, NEW_POD, OLD_PODS, ORDERS, PRODUCTS, SERVICES, SHOP, USERS};
use crate::demo::check::Expected;
use crate::demo::stage::Stage;

/// What an answer takes, so that some requests are always being worked on.
const BUSY: Duration = Duration::from_millis(150);
/// When it is killed, and how long is counted from then on.
const BEFORE: Duration = Duration::from_secs(1);
const AFTERWARDS: Duration = Duration::from_secs(1);
const PODS: [&str; 3] = [OLD_PODS[0], OLD_PODS[1], NEW_POD];

/// What callers saw.
#[derive(Clone, Copy, Debug)]
struct Seen {
    ended: u64,
    failed: u64,
}

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "A pod is killed",
            "One of the two pods of user-service v1: application and sidecar at once, under load.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    behave(&world, &PODS, &Behavior::latency(BUSY)).await?;
    let saw = stage
        .before_and_after(GATEWAY, &[SERVICES], async |stage| kill(stage).await)
        .await?;
    for (what, saw, expected) in [
        (
            "before: not answered with 200",
            saw.before,
            Expected::at_least(1),
        ),
        (
            "after: not answered with 200",
            saw.after,
            Expected::exactly(0),
        ),
    ] {
        stage.check_count(what, (saw.ended, "requests"), saw.failed, expected);
    }
    behave(&world, &PODS, &Behavior::default()).await?;
    serves_again(stage, USERS, OLD_PODS[1]).await;
    stage.check_no_failure_of(
        "failed of what others were asked",
        &[PRODUCTS, CARTS, ORDERS, SHOP],
    );
    Ok(())
}

/// Kills the pod under the traffic that flows all along, and starts it again.
async fn kill(stage: &mut Stage) -> anyhow::Result<Seen> {
    let world = Rc::clone(&stage.world);
    stage.cut();
    stage.watch(BEFORE).await;
    let [other, pod] = OLD_PODS;
    world.mesh.kill_workload(pod).await?;
    // A cluster's controller takes it out of its services a moment later.
    world.mesh.set_endpoints("user-service", [other, NEW_POD])?;
    world.mesh.set_endpoints("user-service-v1", [other])?;
    stage.watch(AFTERWARDS).await;
    let report = stage.cut().swap_remove(USERS);
    stage.during(world.mesh.start_workload(pod)).await?;
    behave(&world, &[pod], &Behavior::latency(BUSY)).await?;
    world.mesh.set_endpoints("user-service", PODS)?;
    world.mesh.set_endpoints("user-service-v1", OLD_PODS)?;
    Ok(Seen {
        ended: report.answered + report.failed,
        failed: report.not_ok(),
    })
}
