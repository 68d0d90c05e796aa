//! The gateway, the only part that speaks HTTP: its replicas fail, are slow, and one is killed.

use std::rc::Rc;
use std::time::Duration;

use weft_sandbox::app::Behavior;

use super::super::common::{behave, forget, millis};
use super::{
    GATEWAY, GATEWAY_FILE, GATEWAY_PODS, INGRESS, MOST_LATE, MOST_STEPS, PATIENCE, TIMEOUT,
    check_unharmed, servers,
};
use crate::demo::check::{Expected, Unit};
use crate::demo::compare::BeforeAfter;
use crate::demo::stage::Stage;

/// Share of the answers that say so, where they fail; and how long they do.
const FAILED_PERCENT: f64 = 20.0;
const FAILING: Duration = Duration::from_secs(20);
/// How long both are slow.
const TIME: Duration = Duration::from_secs(25);
/// What a slow answer takes: twice what a call may.
const SLOW: Duration = Duration::from_secs(20);
/// What an answer takes of a pod that is to be killed, so that some requests are always being worked on.
const BUSY: Duration = Duration::from_millis(200);
/// Requests of one time, and how many per second.
const REQUESTS: u64 = 120;
const RATE: f64 = 60.0;
const CLIENTS: usize = 100;
const KILLED_AFTER: Duration = Duration::from_millis(700);

/// Both answer a part of what they are asked with 503.
pub(super) async fn fails(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "A gateway that fails",
            "Both answer every fifth request with 503.",
        )
        .await;
    let failed = stage
        .before_and_after(INGRESS, &[GATEWAY_FILE], async |stage| {
            fail_for(stage).await
        })
        .await?;
    stage.check_both(
        "not answered with 200, in percent",
        failed,
        Unit::Percent,
        BeforeAfter {
            before: Expected::at_least(FAILED_PERCENT / 3.0),
            // What fails three times in a row.
            after: Expected::at_most(FAILED_PERCENT / 4.0),
        },
    );
    Ok(())
}

/// What callers saw of it.
async fn fail_for(stage: &mut Stage) -> anyhow::Result<f64> {
    let world = Rc::clone(&stage.world);
    let time = stage.time(FAILING);
    let failing = Behavior {
        status_percent: FAILED_PERCENT,
        ..Behavior::status(503)
    };
    behave(&world, &GATEWAY_PODS, &failing).await?;
    stage.cut();
    stage.watch(time).await;
    let report = stage.cut().swap_remove(GATEWAY);
    behave(&world, &GATEWAY_PODS, &Behavior::default()).await?;
    Ok(report.not_ok() as f64 * 100.0 / report.sent.max(1) as f64)
}

/// What callers waited.
#[derive(Clone, Copy, Debug)]
struct Waited {
    longest: f64,
    median: f64,
}

/// Both are slow; nobody waits longer than the policy says.
pub(super) async fn slow(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "A slow gateway",
            "Both take twice the 10 s that its policy gives it.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    let lost = servers::losses(&world);
    let waited = stage
        .before_and_after(INGRESS, &[GATEWAY_FILE], async |stage| {
            slow_for(stage).await
        })
        .await?;
    let (hung, limit) = (millis(stage.time(SLOW)), millis(stage.time(TIMEOUT)));
    let expected = BeforeAfter {
        before: Expected::at_least(hung),
        after: Expected::between(limit, limit + millis(MOST_LATE)),
    };
    let [longest, median] = [waited.map(|it| it.longest), waited.map(|it| it.median)];
    let what = "the longest that a caller waited";
    stage.check_both(what, longest, Unit::Milliseconds, expected);
    let what = "the median of what callers waited";
    stage.check_both(what, median, Unit::Milliseconds, expected);
    stage
        .check_alerts(&["HighErrorRate", "HighLatency"], &[])
        .await?;
    stage.check_queries().await?;
    stage.cut();
    let took = stage
        .until(PATIENCE, async |world| {
            world.look(GATEWAY, |report| report.status(200) > 0)
        })
        .await;
    stage.check_time("from quick again to an answer", took, MOST_STEPS);
    check_unharmed(stage, lost);
    Ok(())
}

async fn slow_for(stage: &mut Stage) -> anyhow::Result<Waited> {
    let world = Rc::clone(&stage.world);
    let (time, slow) = (stage.time(TIME), stage.time(SLOW));
    stage.cut();
    behave(&world, &GATEWAY_PODS, &Behavior::latency(slow)).await?;
    stage.watch(time).await;
    let report = stage.cut().swap_remove(GATEWAY);
    behave(&world, &GATEWAY_PODS, &Behavior::default()).await?;
    // What hangs is waited for, and not the next time's.
    stage.watch(slow + MOST_LATE).await;
    let mut waits: Vec<_> = report.records.iter().map(|record| record.took).collect();
    waits.sort_unstable();
    Ok(Waited {
        longest: millis(waits.last().copied().unwrap_or_default()),
        median: millis(waits.get(waits.len() / 2).copied().unwrap_or_default()),
    })
}

/// One of them is killed, application and sidecar at once.
pub(super) async fn killed(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "A gateway is killed",
            "One of its two pods: application and sidecar at once, under load.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    let lost = servers::losses(&world);
    behave(&world, &GATEWAY_PODS, &Behavior::latency(BUSY)).await?;
    let failed = stage
        .before_and_after(INGRESS, &[GATEWAY_FILE], async |stage| kill(stage).await)
        .await?;
    stage.check_both(
        "not answered with 200, of 120 requests",
        failed.map(|it| it.failed),
        Unit::Count,
        BeforeAfter {
            before: Expected::at_least(1),
            after: Expected::exactly(0),
        },
    );
    stage.check_count(
        "after: requests that gateways answered themselves",
        (REQUESTS, "requests"),
        failed.after.answered,
        Expected::exactly(REQUESTS as f64),
    );
    behave(&world, &GATEWAY_PODS, &Behavior::default()).await?;
    stage.cut();
    let back = GATEWAY_PODS[1];
    let took = stage
        .until(PATIENCE, async |world| {
            world.look(GATEWAY, |report| report.served_by.contains_key(back))
        })
        .await;
    stage.check_time("from running again to serving", took, MOST_STEPS);
    check_unharmed(stage, lost);
    Ok(())
}

#[derive(Clone, Copy, Debug)]
struct Killed {
    failed: f64,
    /// By who says that it served.
    answered: u64,
}

/// Kills the pod under load and starts it again; how many requests failed.
async fn kill(stage: &mut Stage) -> anyhow::Result<Killed> {
    let world = Rc::clone(&stage.world);
    forget(&world, &GATEWAY_PODS).await?;
    let load = world
        .load(GATEWAY, "killed")
        .requests(REQUESTS)
        .rate(RATE)
        .clients(CLIENTS)
        .on_demand()
        .start(&world.mesh.pod(INGRESS));
    stage.watch(KILLED_AFTER).await;
    let pod = GATEWAY_PODS[1];
    world.mesh.kill_workload(pod).await?;
    // A cluster's controller takes it out of its services a moment later.
    world.mesh.set_endpoints("gateway", [GATEWAY_PODS[0]])?;
    let report = stage.during(load.ended()).await;
    if report.not_ok() > 0 {
        let reasons = (&report.statuses, &report.outcomes, &report.failures);
        stage.say(&format!("how they ended: {reasons:?}"));
    }
    stage.during(world.mesh.start_workload(pod)).await?;
    behave(&world, &[pod], &Behavior::latency(BUSY)).await?;
    world.mesh.set_endpoints("gateway", GATEWAY_PODS)?;
    Ok(Killed {
        failed: report.not_ok() as f64,
        answered: report.served_by.values().sum(),
    })
}
