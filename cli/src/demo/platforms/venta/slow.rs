//! The location service becomes slow, all of its pods: callers wait for it without end, and everything
//! that waits is on its pods; until a limit says when to stop.

use std::rc::Rc;
use std::time::Duration;

use super::super::common::{Waited, check_waited, millis};
use super::servers::Servers;
use super::{GATEWAY, LOCATION, MOST_LATE, MOST_STEPS, OTHERS, SERVICES, TIMEOUT};
use crate::demo::check::{Expected, Unit};
use crate::demo::compare::BeforeAfter;
use crate::demo::stage::Stage;

/// What each answer takes: twice what the policy allows.
const SLOW: Duration = Duration::from_secs(20);
/// How long it is so.
const TIME: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(60);
/// How many of those that waited before may wait at once under the policy.
const MOST_WAITING: f64 = 0.7;

/// What callers and the service saw.
#[derive(Clone, Copy, Debug)]
struct Seen {
    waited: Waited,
    /// The most requests that waited in its pods at once, as these count.
    waiting: f64,
    /// From answering as before to a caller's 200.
    back: Option<f64>,
}

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "A slow location service",
            "Each of its pods takes twice the 10 s that a caller has for it.",
        )
        .await;
    let mut is_limited = false;
    let saw = stage
        .before_and_after(GATEWAY, &[SERVICES], async |stage| {
            is_limited = !is_limited;
            slow(stage, !is_limited).await
        })
        .await?;
    let limit = millis(stage.time(TIMEOUT));
    let late = millis(MOST_LATE);
    check_waited(
        stage,
        saw.map(|it| it.waited),
        stage.time(SLOW),
        Expected::between(limit, limit + late),
        Expected::at_most(limit + late),
    );
    stage.check_both(
        "the most that waited in its pods at once",
        saw.map(|it| it.waiting),
        Unit::Count,
        BeforeAfter {
            before: Expected::at_least(1),
            after: Expected::between(1, saw.before.waiting * MOST_WAITING),
        },
    );
    stage.check(
        "after: from healed to serving",
        saw.after.back,
        Unit::Seconds,
        Expected::at_most(MOST_STEPS.as_secs_f64()),
    );
    stage.check_no_failure_of("failed of what others were asked", &OTHERS);
    let alerts = ["HighErrorRate", "HighLatency"];
    stage.check_alerts(&alerts, &[]).await
}

/// It is slow for a while; afterwards it answers as before, and what had hung is over.
async fn slow(stage: &mut Stage, is_limited: bool) -> anyhow::Result<Seen> {
    let world = Rc::clone(&stage.world);
    let Some(servers) = world.props::<Servers>() else {
        anyhow::bail!("the story has no servers");
    };
    stage.cut();
    servers.crowd.forget();
    for pod in &servers.locations {
        pod.set_latency(stage.time(SLOW));
    }
    let time = stage.time(TIME);
    stage.watch(time).await;
    for pod in &servers.locations {
        pod.set_latency(Duration::ZERO);
    }
    let waiting = servers.crowd.most() as f64;
    let served = |report: &weft_sandbox::load::Report| report.status(200);
    let before = world.look(LOCATION, served);
    let back = stage
        .until(PATIENCE, async |world| {
            world.look(LOCATION, served) > before
        })
        .await;
    // What was begun while it was slow hangs to its end.
    let hangs = if is_limited { TIMEOUT } else { SLOW };
    let settled = stage.time(hangs) + MOST_LATE;
    stage.watch(settled).await;
    let report = stage.cut().swap_remove(LOCATION);
    Ok(Seen {
        // Most were served at once, before and after.
        waited: Waited::longer_than(MOST_LATE, &report),
        waiting,
        back: back.map(|it| it.as_secs_f64()),
    })
}
