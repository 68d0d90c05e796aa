//! A pod is killed with everything that it works on, application and sidecar at once.

use std::rc::Rc;
use std::time::Duration;

use weft_sandbox::app::Behavior;

use super::super::common::behave;
use super::{CREDIT, CREDIT_PODS, GATEWAY, MOST_STEPS, OTHERS, SERVICES};
use crate::demo::check::{Expected, Unit};
use crate::demo::compare::BeforeAfter;
use crate::demo::stage::Stage;

/// What an answer takes, so that some requests are always being worked on.
const BUSY: Duration = Duration::from_millis(200);
/// Requests of one time, and how many per second: a dozen are under way when the pod is killed, half of
/// them there.
const REQUESTS: u64 = 120;
const RATE: f64 = 60.0;
const CLIENTS: usize = 100;
/// When it is killed.
const KILLED_AFTER: Duration = Duration::from_millis(700);
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "A pod is killed",
            "One of the two pods of credit-service: application and sidecar at once, under load.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    behave(&world, &CREDIT_PODS, &Behavior::latency(BUSY)).await?;
    let failed = stage
        .before_and_after(GATEWAY, &[SERVICES], async |stage| kill(stage).await)
        .await?;
    stage.check_both(
        "not answered with 200, of 120 requests",
        failed,
        Unit::Count,
        BeforeAfter {
            before: Expected::at_least(1),
            after: Expected::exactly(0),
        },
    );
    behave(&world, &CREDIT_PODS, &Behavior::default()).await?;
    stage.cut();
    let back = CREDIT_PODS[1];
    let took = stage
        .until(PATIENCE, async |world| {
            world.look(CREDIT, |report| report.served_by.contains_key(back))
        })
        .await;
    stage.check_time("from running again to serving", took, MOST_STEPS);
    stage.check_no_failure_of("failed of what others were asked", &OTHERS);
    Ok(())
}

/// Kills the pod under load and starts it again; how many requests failed.
async fn kill(stage: &mut Stage) -> anyhow::Result<f64> {
    let world = Rc::clone(&stage.world);
    let load = world
        .load(CREDIT, "killed")
        .requests(REQUESTS)
        .rate(RATE)
        .clients(CLIENTS)
        .on_demand()
        .start(&world.mesh.pod(GATEWAY));
    stage.watch(KILLED_AFTER).await;
    let pod = CREDIT_PODS[1];
    world.mesh.kill_workload(pod).await?;
    // A cluster's controller takes it out of its services a moment later.
    world
        .mesh
        .set_endpoints("credit-service", [CREDIT_PODS[0]])?;
    let report = stage.during(load.ended()).await;
    stage.during(world.mesh.start_workload(pod)).await?;
    behave(&world, &[pod], &Behavior::latency(BUSY)).await?;
    world.mesh.set_endpoints("credit-service", CREDIT_PODS)?;
    Ok(report.not_ok() as f64)
}
