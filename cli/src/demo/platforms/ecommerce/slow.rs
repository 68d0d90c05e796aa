//! A dependency becomes slow: callers hang with it, until the guide's 10 s end that.

use std::rc::Rc;
use std::time::Duration;

use weft_sandbox::app::Behavior;

use super::super::common::{Waited, behave, check_waited, millis};
use super::{
    CARTS, GATEWAY, MOST_LATE, MOST_STEPS, ORDER, ORDERS, PRODUCTS, SERVICES, SHOP, TIMEOUT, USERS,
};
use crate::demo::check::Expected;
use crate::demo::stage::Stage;

/// What each answer takes: twice what the guide allows for its statement.
const SLOW: Duration = Duration::from_secs(20);
/// How long it is so.
const TIME: Duration = Duration::from_secs(25);
const PATIENCE: Duration = Duration::from_secs(30);

/// What callers saw.
#[derive(Clone, Copy, Debug)]
struct Seen {
    waited: Waited,
    /// Without any answer, not even the mesh's.
    failed: u64,
    sent: u64,
}

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "A slow dependency",
            "order-service takes twice the 10 s that the guide gives a statement.",
        )
        .await;
    let saw = stage
        .before_and_after(GATEWAY, &[SERVICES], async |stage| slow(stage).await)
        .await?;
    let limit = millis(stage.time(TIMEOUT));
    let bound = Expected::between(limit, limit + millis(MOST_LATE));
    let waited = saw.map(|it| it.waited);
    check_waited(stage, waited, stage.time(SLOW), bound, bound);
    stage.check_count(
        "after: without any answer",
        (saw.after.sent, "requests"),
        saw.after.failed,
        Expected::exactly(0),
    );
    let patience = stage.time(PATIENCE);
    let took = stage
        .until(patience, async |world| {
            world.look(ORDERS, |report| report.status(200) > 0)
        })
        .await;
    stage.check_time("from healed to serving", took, MOST_STEPS);
    stage.check_no_failure_of(
        "failed of what others were asked",
        &[USERS, PRODUCTS, CARTS, SHOP],
    );
    // What is cut off is an error to its caller, and none of the pod's.
    let fire = ["HighLatency", "CallersWait", "CallersSeeErrors"];
    stage.check_alerts(&fire, &[]).await
}

/// It is slow for a while; afterwards it answers as before, and what had hung is over.
async fn slow(stage: &mut Stage) -> anyhow::Result<Seen> {
    let world = Rc::clone(&stage.world);
    stage.cut();
    let behavior = Behavior::latency(stage.time(SLOW));
    behave(&world, &[ORDER], &behavior).await?;
    let time = stage.time(TIME);
    stage.watch(time).await;
    behave(&world, &[ORDER], &Behavior::default()).await?;
    let report = stage.cut().swap_remove(ORDERS);
    let settled = stage.time(SLOW) + MOST_LATE;
    stage.watch(settled).await;
    stage.cut();
    Ok(Seen {
        waited: Waited::all(&report),
        failed: report.failed,
        sent: report.sent,
    })
}
