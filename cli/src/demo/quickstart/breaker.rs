//! One endpoint of three fails, is left alone, and comes back.

use std::time::Duration;

use weft_sandbox::app::Behavior;

use super::{APP_PORT, FAILING, INVENTORY, OPEN_DURATION, TARGETS};
use crate::demo::check::{Expected, Unit};
use crate::demo::stage::{BREAKER_STATE, Stage};
use crate::demo::world::World;
use weft_sandbox::metrics::Metrics;

/// No multiple of the open period: what is counted at its end does not race with a probe.
const SICK_TIME: Duration = Duration::from_millis(3_500);
const PATIENCE: Duration = Duration::from_secs(10);
/// At fifty requests per second and endpoint, five failures come in a tenth of this.
const MOST_DELAY: Duration = Duration::from_secs(1);
/// Five failures trip the breaker. What is in flight then, and a probe for each open period, come
/// on top; without a breaker, [`SICK_TIME`] would bring two hundred.
const MOST_FAILURES: u32 = 20;

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "A failing endpoint",
            "inventory-2 answers everything with 500 now. Its breaker opens; clients see nothing.",
        )
        .await;
    let app = stage.world.mesh.app(FAILING);
    app.reset_stats().await?;
    app.behave(&Behavior::status(500)).await?;
    let took = stage
        .until(PATIENCE, async |world| state(world, "open").await)
        .await;
    stage.check_time("from turned bad to an open breaker", took, MOST_DELAY);
    stage.watch(SICK_TIME).await;
    let failures = app.stats().await?.statuses.get(&500).copied().unwrap_or(0);
    stage.check(
        "answers with 500 that it gave until it was healed",
        failures as f64,
        Unit::Count,
        Expected::between(1, MOST_FAILURES),
    );
    stage.scrape().await;
    let retries = stage.retries(INVENTORY);
    stage.check_count(
        "hidden by a second try",
        (failures, "answers with 500"),
        retries as u64,
        Expected::exactly(failures as f64),
    );

    app.behave(&Behavior::default()).await?;
    stage.cut();
    let took = stage
        .until(PATIENCE, async |world| {
            let serves = world.look(INVENTORY, |report| report.served_by.contains_key(FAILING));
            serves && state(world, "closed").await
        })
        .await;
    stage.check_time(
        "from healed to serving again, breaker closed",
        took,
        2 * OPEN_DURATION,
    );
    stage.check_no_failure();
    Ok(())
}

/// Whether the failing endpoint's breaker is in this state, as the caller's sidecar says.
async fn state(world: &World, state: &str) -> bool {
    let Ok(page) = world.mesh.metrics(TARGETS[INVENTORY].caller).await else {
        return false;
    };
    let backend = world.label(INVENTORY);
    let addresses = world.mesh.pod(FAILING).addresses();
    let metrics = Metrics::parse(&page);
    addresses.into_iter().any(|address| {
        let endpoint = std::net::SocketAddr::new(address, APP_PORT).to_string();
        let labels = [
            ("backend", backend.as_str()),
            ("endpoint", endpoint.as_str()),
            ("state", state),
        ];
        metrics.sum(BREAKER_STATE, &labels) > 0.0
    })
}
