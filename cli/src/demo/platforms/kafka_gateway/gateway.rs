//! The gateway, the only part that speaks HTTP: its replicas fail, are slow, and one is killed.

use std::rc::Rc;
use std::time::Duration;

use weft_sandbox::app::Behavior;

use super::super::common::{Killed, REQUESTS, Waited, behave, check_waited, millis};
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
    let limit = millis(stage.time(TIMEOUT));
    let bound = Expected::between(limit, limit + millis(MOST_LATE));
    check_waited(stage, waited, stage.time(SLOW), bound, bound);
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
    Ok(Waited::all(&report))
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
    let gateway = Killed {
        target: GATEWAY,
        pods: &GATEWAY_PODS,
        policy: GATEWAY_FILE,
    };
    let saw = gateway.play(stage).await?;
    // By who says that it served.
    stage.check_count(
        "after: requests that gateways answered themselves",
        (REQUESTS, "requests"),
        saw.served_by.values().sum(),
        Expected::exactly(REQUESTS as f64),
    );
    check_unharmed(stage, lost);
    Ok(())
}
