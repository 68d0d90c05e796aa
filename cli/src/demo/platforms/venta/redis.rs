//! Redis is killed and comes back. The mesh does not repeat its commands; the service's client does, three
//! times, and finds out at once that there is nothing to connect to.

use std::rc::Rc;
use std::time::Duration;

use weft_sandbox::programs::missing;
use weft_sandbox::programs::redis::NEEDS;

use super::super::common::millis;
use super::locations::Locations;
use super::servers::{Servers, say_missing};
use super::{LOCATION, MAX_RETRY_TIME, MOST_STEPS, OTHERS};
use crate::demo::check::{Expected, Unit};
use crate::demo::stage::Stage;

/// How long it is gone.
const GONE: Duration = Duration::from_secs(10);
/// Afterwards nobody fails any more.
const WELL: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "Redis is restarted",
            "A real Redis, where the location service has all it knows. It is killed and comes back.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    let Some((servers, redis)) = world
        .props::<Servers>()
        .and_then(|servers| Some((servers, servers.redis.as_ref()?)))
    else {
        say_missing(stage, &missing(&NEEDS));
        return Ok(());
    };
    stage.cut();
    for pod in &servers.locations {
        pod.forget();
    }
    redis.kill().await?;
    let gone = stage.time(GONE);
    stage.watch(gone).await;
    stage.during(redis.start_again()).await?;
    let away = stage.cut().swap_remove(LOCATION);
    let took = stage
        .until(PATIENCE, async |world| {
            world.look(LOCATION, |report| report.status(200) > 0)
        })
        .await;
    stage.check_time("from running again to an answer", took, MOST_STEPS);
    let settled = stage.time(MAX_RETRY_TIME);
    stage.watch(settled).await;
    let after = stage.cut().swap_remove(LOCATION);
    let records = || away.records.iter().chain(&after.records);
    stage.check_count(
        "requests without any answer",
        (away.sent + after.sent, "requests"),
        away.failed + after.failed,
        Expected::exactly(0),
    );
    let longest = records().map(|record| record.took).max();
    stage.check(
        "the longest that a caller waited for its answer",
        longest.map(millis),
        Unit::Milliseconds,
        Expected::at_most(millis(stage.time(MAX_RETRY_TIME))),
    );
    let told = away.status(503);
    stage.check_count(
        "told 503 while it was away",
        (away.sent, "requests"),
        told,
        Expected::at_least(1),
    );
    let tries: u64 = servers.locations.iter().map(Locations::requests).sum();
    stage.say(&format!(
        "{} requests of callers, {tries} at the service's pods: sidecars try again within their budget.",
        away.sent + after.sent
    ));
    stage.watch(WELL).await;
    stage.check_count(
        "kept what it knew",
        (1, "key"),
        u64::from(!redis.ask(&["get", "location:42"]).await?.is_empty()),
        Expected::exactly(1),
    );
    let well = stage.cut().swap_remove(LOCATION);
    stage.check_count(
        "not answered with 200 when it is back",
        (well.sent, "requests"),
        well.not_ok(),
        Expected::exactly(0),
    );
    stage.check_no_failure_of("failed of what others were asked", &OTHERS);
    let may = ["HighErrorRate", "HighLatency"];
    stage.check_alerts(&["RedisConnectionFailures"], &may).await
}
