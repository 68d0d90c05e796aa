//! Nothing happens but traffic.

use std::time::Duration;

use super::TARGETS;
use crate::demo::check::{Expected, Unit};
use crate::demo::stage::Stage;

/// The first requests find out who is where and make the connections; they count for everything but
/// latency.
const WARM_UP: Duration = Duration::from_secs(1);
const TIME: Duration = Duration::from_secs(5);
/// Share of the wanted rate that must come about: a busy machine is late now and then.
const LEAST_RATE: f64 = 0.9;

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "Steady state",
            "The shop's web calls checkout (HTTP/1.1) and inventory (HTTP/2), inventory calls web.",
        )
        .await;
    stage.watch(WARM_UP).await;
    stage.cut();
    stage.watch(TIME).await;
    stage.scrape().await;
    stage.remember_steady_state();
    stage.check_no_failure();
    let answered = stage.tally_of_all().answered as f64 / (WARM_UP + TIME).as_secs_f64();
    let wanted: f64 = TARGETS.iter().map(|target| target.rate).sum();
    stage.check(
        "answers per second",
        answered,
        Unit::Count,
        Expected::at_least((wanted * LEAST_RATE).floor()),
    );
    let percent = stage.mtls_percent();
    stage.check(
        "over mutual TLS, as the callers' sidecars count",
        percent,
        Unit::Percent,
        Expected::exactly(100),
    );
    Ok(())
}
