//! A provider fails: five requests find out, and no more reach it until its time is over.

use std::rc::Rc;
use std::time::{Duration, Instant};

use weft_sandbox::app::Behavior;

use super::super::common::{behave, calls, forget, millis, seen};
use super::breaker::{is, made, provider};
use super::{
    BILLING, BILLING_POD, EXTERNAL, FAILURES, MESSAGES, MOST_JITTER, MOST_LATE, MOST_STEPS,
    RECOVERY, REPLICAS, SUCCESSES,
};
use crate::demo::check::{Expected, Unit};
use crate::demo::compare::BeforeAfter;
use crate::demo::stage::Stage;

/// Which of the replicas calls it.
const CALLER: &str = REPLICAS[0];
/// Calls, one after the other, while it fails.
const CALLS: u64 = 40;
/// Between two calls of those that wait for it.
const PAUSE: Duration = Duration::from_millis(50);

/// What its caller and the provider saw.
#[derive(Clone, Copy, Debug)]
struct Seen {
    reached: u64,
    refused: u64,
    /// When the last call had come back.
    ended: Instant,
    /// The longest call once the breaker was open.
    longest: Option<Duration>,
}

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "A provider fails",
            "The billing provider answers 500; five failures open the breaker for 60 s.",
        )
        .await;
    let saw = stage
        .before_and_after(CALLER, &[EXTERNAL], async |stage| fail(stage).await)
        .await?;
    stage.check_both(
        "requests that reached it, of 40 calls",
        saw.map(|it| it.reached as f64),
        Unit::Count,
        BeforeAfter {
            before: Expected::exactly(CALLS as f64),
            after: Expected::exactly(FAILURES as f64),
        },
    );
    stage.check_count(
        "after: answered 503 by the open breaker",
        (CALLS, "calls"),
        saw.after.refused,
        Expected::exactly((CALLS - FAILURES) as f64),
    );
    stage.check(
        "after: the longest of these",
        saw.after.longest.map(millis),
        Unit::Milliseconds,
        Expected::at_most(millis(MOST_LATE)),
    );
    recover(stage, saw.after.ended).await?;
    stage.check_no_failure_of("failed of what another provider was asked", &[MESSAGES]);
    stage.check_alerts(&["CircuitBreakerOpen"], &[]).await
}

async fn fail(stage: &mut Stage) -> anyhow::Result<Seen> {
    let world = Rc::clone(&stage.world);
    forget(&world, &[BILLING_POD]).await?;
    behave(&world, &[BILLING_POD], &Behavior::status(500)).await?;
    let (pod, to) = (world.mesh.pod(CALLER), provider(&world, BILLING));
    let (first, _) = stage.during(calls(&pod, to, "/charge", FAILURES)).await?;
    let ended = Instant::now();
    let rest = calls(&pod, to, "/charge", CALLS - FAILURES);
    let (rest, longest) = stage.during(rest).await?;
    let refused = first.iter().chain(&rest).filter(|it| made(it)).count() as u64;
    let reached = seen(&world, &[BILLING_POD]).await?;
    behave(&world, &[BILLING_POD], &Behavior::default()).await?;
    Ok(Seen {
        reached,
        refused,
        ended,
        longest: (refused > 0).then_some(longest),
    })
}

/// It is well again; its caller finds out when the time is over, and takes three answers to believe it.
async fn recover(stage: &mut Stage, opened: Instant) -> anyhow::Result<()> {
    let world = Rc::clone(&stage.world);
    let recovery = stage.time(RECOVERY);
    forget(&world, &[BILLING_POD]).await?;
    let (pod, to) = (world.mesh.pod(CALLER), provider(&world, BILLING));
    let (mut probed, mut half_open, mut reached) = (None, 0, None);
    let closes = stage.until(2 * recovery + MOST_STEPS, async |world| {
        let answer = pod.get(to, "/charge").await;
        if answer.is_ok_and(|answer| answer.status == 200) {
            probed.get_or_insert_with(|| opened.elapsed());
            if is(world, CALLER, BILLING, "closed").await {
                reached = seen(world, &[BILLING_POD]).await.ok();
                return true;
            }
            half_open += u64::from(is(world, CALLER, BILLING, "half_open").await);
        }
        tokio::time::sleep(PAUSE).await;
        false
    });
    closes.await;
    let most = recovery.mul_f64(MOST_JITTER) + MOST_LATE;
    stage.check(
        "from the breaker's opening to the first probe",
        probed.map(|it| it.as_secs_f64()),
        Unit::Seconds,
        Expected::between(recovery.as_secs_f64(), most.as_secs_f64()),
    );
    stage.check(
        "requests that reached it until it closed",
        reached.map(|it| it as f64),
        Unit::Count,
        Expected::exactly(SUCCESSES as f64),
    );
    let what = "of these after which it was half open";
    let of = (SUCCESSES, "successes");
    stage.check_count(
        what,
        of,
        half_open,
        Expected::exactly((SUCCESSES - 1) as f64),
    );
    Ok(())
}
