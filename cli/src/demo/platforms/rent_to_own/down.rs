//! A dependency is gone: its processes have ended, and nothing listens any more.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::super::common::{calls, knocked, millis};
use super::{
    CREDIT, CREDIT_PODS, FALLBACK, GATEWAY, MOST_LATE, MOST_STEPS, OTHERS, RESET, SERVICES,
    TIMEOUT, WINDOW,
};
use crate::demo::check::{Expected, Unit};
use crate::demo::compare::BeforeAfter;
use crate::demo::stage::Stage;
use crate::demo::world::World;

/// How long it is gone: less than the breaker waits before it tries again.
const TIME: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(60);
/// Calls whose whole answer is looked at.
const CALLS: u64 = 10;
/// Share of the tries without a policy that may come until half of the breaker's window has failed.
const MOST_TRIES: f64 = 0.6;

/// What callers and the service's sidecars saw.
#[derive(Clone, Copy, Debug)]
struct Seen {
    sent: u64,
    failed: u64,
    longest: f64,
    /// Tries that came to the service's sidecars.
    knocked: f64,
    /// When the breaker was seen open.
    opened: Option<Instant>,
    /// Of some calls in the end, those that got the guide's answer.
    fallbacks: f64,
    /// And the longest of them.
    longest_call: f64,
}

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "A dependency that is down",
            "The processes of credit-service are killed, all of them.",
        )
        .await;
    let saw = stage
        .before_and_after(GATEWAY, &[SERVICES], async |stage| down(stage).await)
        .await?;
    for (when, saw) in [("before", saw.before), ("after", saw.after)] {
        let what = format!("{when}: without any answer");
        stage.check_count(
            what,
            (saw.sent, "requests"),
            saw.failed,
            Expected::exactly(0),
        );
    }
    stage.check_both(
        "calls answered with the guide's JSON",
        saw.map(|it| it.fallbacks),
        Unit::Count,
        BeforeAfter {
            before: Expected::exactly(0),
            after: Expected::exactly(CALLS as f64),
        },
    );
    let limit = millis(stage.time(TIMEOUT) + MOST_LATE);
    stage.check(
        "after: the longest that a caller waited",
        saw.after.longest,
        Unit::Milliseconds,
        Expected::at_most(limit),
    );
    stage.check(
        "after: the longest call once the breaker is open",
        saw.after.longest_call,
        Unit::Milliseconds,
        Expected::at_most(millis(MOST_LATE)),
    );
    stage.check_both(
        "tries that came to its sidecars",
        saw.map(|it| it.knocked),
        Unit::Count,
        BeforeAfter {
            before: Expected::at_least(saw.before.sent as f64 * 0.9),
            after: Expected::between(1, saw.before.knocked * MOST_TRIES),
        },
    );
    // It runs again since the second time; its breaker has to find out.
    let (patience, reset) = (stage.time(PATIENCE), stage.time(RESET));
    stage.cut();
    let served = stage.until(patience, serves).await.map(|_| Instant::now());
    let took = served
        .zip(saw.after.opened)
        .map(|(served, opened)| (served - opened).as_secs_f64());
    // The first probe finds it running, or on a busy machine the second one does.
    let least = reset.saturating_sub(MOST_LATE).as_secs_f64();
    let most = (2 * reset + MOST_STEPS).as_secs_f64();
    stage.check(
        "from an open breaker to a closed one",
        took,
        Unit::Seconds,
        Expected::between(least, most),
    );
    stage.check_no_failure_of("failed of what others were asked", &OTHERS);
    let alerts = ["CircuitBreakerOpen", "HighErrorRate"];
    // The act before made it, at its end.
    stage.check_alerts(&alerts, &["SlowResponses"]).await?;
    // There are errors to ask for now.
    stage.check_queries().await?;
    Ok(())
}

async fn down(stage: &mut Stage) -> anyhow::Result<Seen> {
    let world = Rc::clone(&stage.world);
    // The breaker of a policy that has just come has counted nothing yet.
    let window = stage.time(WINDOW);
    stage.watch(window).await;
    let before = knocked(&world, &CREDIT_PODS).await;
    stage.cut();
    for pod in CREDIT_PODS {
        world.mesh.kill_app(pod).await?;
    }
    let (begun, time) = (Instant::now(), stage.time(TIME));
    let opened = stage
        .until(time, async |world| world.has_breaker(CREDIT, "open").await)
        .await
        .map(|_| Instant::now());
    stage.watch(time.saturating_sub(begun.elapsed())).await;
    let report = stage.cut().swap_remove(CREDIT);
    let (pod, to) = (world.mesh.pod(GATEWAY), world.addr(CREDIT));
    let (answers, longest_call) = stage.during(calls(&pod, to, "/credit/42", CALLS)).await?;
    let fallbacks = answers.iter().filter(|answer| {
        answer.status == 503
            && answer.text() == FALLBACK
            && answer.header("content-type") == Some("application/json")
    });
    let longest = report.records.iter().map(|record| record.took).max();
    let saw = Seen {
        sent: report.sent,
        failed: report.failed,
        longest: millis(longest.unwrap_or_default()),
        knocked: knocked(&world, &CREDIT_PODS).await - before,
        opened,
        fallbacks: fallbacks.count() as f64,
        longest_call: millis(longest_call),
    };
    for pod in CREDIT_PODS {
        stage.during(world.mesh.start_app(pod)).await?;
    }
    Ok(saw)
}

/// Whether it answers again and nobody is kept from it.
async fn serves(world: &World) -> bool {
    let serves = world.look(CREDIT, |report| report.status(200) > 0);
    serves && world.has_breaker(CREDIT, "closed").await
}
