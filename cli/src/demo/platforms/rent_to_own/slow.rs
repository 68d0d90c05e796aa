//! A dependency becomes slow: callers hang with it, until they are told that they need not.

use std::rc::Rc;
use std::time::Duration;

use weft_sandbox::app::Behavior;

use super::super::common::{Waited, behave, calls, check_waited, forget, millis, seen};
use super::{
    CREDIT, CREDIT_PODS, FALLBACK, GATEWAY, MOST_LATE, MOST_STEPS, OTHERS, RESET, SERVICES,
    TIMEOUT, WINDOW,
};
use crate::demo::check::{Expected, Unit};
use crate::demo::compare::BeforeAfter;
use crate::demo::stage::Stage;

/// What each answer takes: four times what the guide allows.
const SLOW: Duration = Duration::from_secs(20);
/// How long it is so.
const TIME: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(60);
/// Calls whose whole answer is looked at.
const CALLS: u64 = 5;
/// Share of the requests that may reach what is slow before the breaker keeps them away.
const MOST_REACHED: f64 = 0.6;

/// What callers and the service saw.
#[derive(Clone, Copy, Debug)]
struct Seen {
    waited: Waited,
    sent: u64,
    reached: u64,
    /// Neither a 200 nor the fallback.
    unanswered: u64,
}

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "A slow dependency",
            "credit-service takes four times the 5 s that the guide gives it.",
        )
        .await;
    let saw = stage
        .before_and_after(GATEWAY, &[SERVICES], async |stage| slow(stage).await)
        .await?;
    let limit = millis(stage.time(TIMEOUT));
    let late = millis(MOST_LATE);
    check_waited(
        stage,
        saw.map(|it| it.waited),
        stage.time(SLOW),
        Expected::between(limit, limit + late),
        Expected::at_most(late),
    );
    stage.check_both(
        "requests that reached it, in percent",
        saw.map(|it| it.reached as f64 * 100.0 / it.sent.max(1) as f64),
        Unit::Percent,
        BeforeAfter {
            before: Expected::at_least(90),
            after: Expected::at_most(MOST_REACHED * 100.0),
        },
    );
    stage.check_count(
        "after: neither 200 nor the fallback",
        (saw.after.sent, "requests"),
        saw.after.unanswered,
        Expected::exactly(0),
    );
    heal(stage).await?;
    stage.check_no_failure_of("failed of what others were asked", &OTHERS);
    let alerts = ["CircuitBreakerOpen", "HighErrorRate", "SlowResponses"];
    stage.check_alerts(&alerts, &[]).await?;
    Ok(())
}

/// It is slow for a while; afterwards it answers as before, and what had hung is over.
async fn slow(stage: &mut Stage) -> anyhow::Result<Seen> {
    let world = Rc::clone(&stage.world);
    let time = stage.time(TIME);
    // The breaker of a policy that has just come has counted nothing yet.
    let window = stage.time(WINDOW);
    stage.watch(window).await;
    forget(&world, &CREDIT_PODS).await?;
    stage.cut();
    behave(&world, &CREDIT_PODS, &Behavior::latency(stage.time(SLOW))).await?;
    stage.watch(time).await;
    let reached = seen(&world, &CREDIT_PODS).await?;
    let report = stage.cut().swap_remove(CREDIT);
    let saw = Seen {
        waited: Waited::all(&report),
        sent: report.sent,
        reached,
        unanswered: report.answered + report.failed - report.status(200) - report.status(503),
    };
    if !world.has_breaker(CREDIT, "open").await {
        // Without a breaker what hangs is waited for; with it, the next act of the play looks at it.
        behave(&world, &CREDIT_PODS, &Behavior::default()).await?;
        let settled = stage.time(SLOW) + MOST_LATE;
        stage.watch(settled).await;
    }
    Ok(saw)
}

/// The breaker is open: what a caller gets, and when it gets more than that again.
async fn heal(stage: &mut Stage) -> anyhow::Result<()> {
    let world = Rc::clone(&stage.world);
    let (patience, reset) = (stage.time(PATIENCE), stage.time(RESET));
    // A probe that is under way ends at the limit, and the breaker is open again.
    let took = stage
        .until(patience, async |world| {
            world.has_breaker(CREDIT, "open").await
        })
        .await;
    stage.check_time(
        "until the breaker is open",
        took,
        stage.time(TIMEOUT) + MOST_STEPS,
    );
    let (pod, to) = (world.mesh.pod(GATEWAY), world.addr(CREDIT));
    let (answers, longest) = stage.during(calls(&pod, to, "/credit/42", CALLS)).await?;
    let fallbacks = answers.iter().filter(|answer| {
        answer.status == 503
            && answer.text() == FALLBACK
            && answer.header("content-type") == Some("application/json")
    });
    let fallbacks = fallbacks.count() as u64;
    stage.check_count(
        "answered with the guide's JSON while open",
        (CALLS, "calls"),
        fallbacks,
        Expected::exactly(CALLS as f64),
    );
    stage.check(
        "the longest of these calls",
        millis(longest),
        Unit::Milliseconds,
        Expected::at_most(millis(MOST_LATE)),
    );
    behave(&world, &CREDIT_PODS, &Behavior::default()).await?;
    stage.cut();
    let took = stage
        .until(patience, async |world| {
            let serves = world.look(CREDIT, |report| report.status(200) > 0);
            serves && world.has_breaker(CREDIT, "closed").await
        })
        .await;
    stage.check_time(
        "from healed to serving, breaker closed",
        took,
        reset + MOST_STEPS,
    );
    Ok(())
}
