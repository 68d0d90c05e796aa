//! People look at breakers and reset them, one and all, before their time: in all replicas at once.

use std::rc::Rc;
use std::time::{Duration, Instant};

use weft_sandbox::app::Behavior;

use super::super::common::{behave, calls, forget, seen};
use super::breaker::{is, made, not_closed, provider, reset};
use super::{BILLING, BILLING_POD, FAILURES, MOST_STEPS, RECOVERY, REPLICAS, SMS, SMS_POD};
use crate::demo::check::{Expected, Unit};
use crate::demo::stage::Stage;
use crate::demo::world::World;

/// Calls of each replica while the provider fails.
const CALLS: u64 = 8;
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "Breakers are reset by command",
            "Both providers fail. One is well again, and nobody waits for 60 s: weft breaker reset.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    let replicas = REPLICAS.len() as u64;
    let both = [BILLING_POD, SMS_POD];
    behave(&world, &both, &Behavior::status(500)).await?;
    forget(&world, &[BILLING_POD]).await?;
    let opened = Instant::now();
    let refused = stage.during(call_from_all(&world, CALLS)).await?.refused;
    let reached = seen(&world, &[BILLING_POD]).await?;
    let all = replicas * CALLS;
    stage.check_count(
        "requests that reached it, of three replicas",
        (all, "calls"),
        reached,
        Expected::exactly((replicas * FAILURES) as f64),
    );
    stage.check_count(
        "answered 503 by open breakers",
        (all, "calls"),
        refused,
        Expected::exactly((replicas * (CALLS - FAILURES)) as f64),
    );
    let caller = REPLICAS[0];
    stage
        .until(PATIENCE, async |world| is(world, caller, SMS, "open").await)
        .await;
    let listed = stage.during(not_closed(&world, BILLING)).await?;
    stage.check_count(
        "listed as open: weft breaker list",
        (replicas, "breakers"),
        listed,
        Expected::exactly(replicas as f64),
    );

    behave(&world, &[BILLING_POD], &Behavior::default()).await?;
    forget(&world, &[BILLING_POD]).await?;
    stage.during(reset(&world, Some(BILLING))).await?;
    let answered = stage.during(call_from_all(&world, 1)).await?.answered;
    let took = opened.elapsed();
    let reached = seen(&world, &[BILLING_POD]).await?;
    let of = (replicas, "calls");
    let every = Expected::exactly(replicas as f64);
    stage.check_count("answered 200 once it is reset", of, answered, every);
    stage.check_count("of these seen by the provider", of, reached, every);
    let recovery = stage.time(RECOVERY);
    stage.check(
        "from the first failure to these, before its time",
        took.as_secs_f64(),
        Unit::Seconds,
        Expected::at_most(recovery.as_secs_f64()),
    );
    let left = stage.during(not_closed(&world, SMS)).await?;
    let what = "of the other provider still not closed";
    stage.check_count(what, (1, "breaker"), left, Expected::exactly(1));

    behave(&world, &[SMS_POD], &Behavior::default()).await?;
    stage.during(reset(&world, None)).await?;
    let reset_at = Instant::now();
    let (pod, to) = (world.mesh.pod(caller), provider(&world, SMS));
    let (answers, _) = stage.during(calls(&pod, to, "/messages", 1)).await?;
    let serves = answers.iter().all(|answer| answer.status == 200);
    stage.check_time(
        "from a reset of all to an answer of the other",
        serves.then(|| reset_at.elapsed()),
        MOST_STEPS,
    );
    let mut left = 0;
    for service in [BILLING, SMS] {
        left += stage.during(not_closed(&world, service)).await?;
    }
    let of = (replicas + 1, "breakers");
    stage.check_count(
        "not closed after a reset of all",
        of,
        left,
        Expected::exactly(0),
    );
    stage.check_alerts(&["CircuitBreakerOpen"], &[]).await
}

/// What calls from all replicas got.
#[derive(Clone, Copy, Debug, Default)]
struct Got {
    answered: u64,
    refused: u64,
}

/// So many calls of the provider from each replica, one after the other.
async fn call_from_all(world: &World, count: u64) -> anyhow::Result<Got> {
    let to = provider(world, BILLING);
    let mut got = Got::default();
    for replica in REPLICAS {
        let (answers, _) = calls(&world.mesh.pod(replica), to, "/charge", count).await?;
        for answer in &answers {
            got.answered += u64::from(answer.status == 200);
            got.refused += u64::from(made(answer));
        }
    }
    Ok(got)
}
