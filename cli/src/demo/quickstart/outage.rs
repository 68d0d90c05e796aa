//! The control plane is killed, and comes back.

use std::rc::Rc;
use std::time::Duration;

use super::{CHECKOUT, split_checkout};
use crate::demo::check::{Expected, Unit};
use crate::demo::stage::Stage;

const TIME: Duration = Duration::from_secs(6);
/// The age that the sidecar must show by then; it learns of the end at once.
const LEAST_AGE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(20);
/// From the control plane's return to its news in live traffic: sidecars knock again and again, at
/// longer and longer intervals.
const MOST_DELAY: Duration = Duration::from_secs(10);
/// Answers in a row, all of them of v2, that prove the change.
const ANSWERS: usize = 50;
const WEIGHTS: [u32; 2] = [0, 100];

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "Control plane away",
            "It is killed. Meanwhile a policy on disk promotes v2, which nobody can hear of yet.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    world.mesh.kill_control_plane().await?;
    split_checkout(&world, WEIGHTS)?;
    stage.watch(TIME).await;
    stage.scrape().await;
    let age = stage.metric(CHECKOUT, "weft_config_age_seconds", &[]);
    stage.check(
        "age of the configuration that web's sidecar shows",
        age,
        Unit::Seconds,
        Expected::at_least(LEAST_AGE.as_secs_f64()),
    );

    stage.during(world.mesh.start_control_plane()).await?;
    stage.want_split(CHECKOUT, WEIGHTS);
    stage.cut();
    let took = stage
        .until(PATIENCE, async |world| {
            world.look(CHECKOUT, |report| {
                let last = report.records.iter().rev().take(ANSWERS);
                let of_v2 = last.filter(|record| {
                    let name = record.served_by.as_deref().unwrap_or_default();
                    name.starts_with("checkout-v2")
                });
                of_v2.count() == ANSWERS
            })
        })
        .await;
    stage.check_time(
        "from its return to v2 alone in live traffic",
        took,
        MOST_DELAY,
    );
    stage.scrape().await;
    let age = stage.metric(CHECKOUT, "weft_config_age_seconds", &[]);
    stage.check(
        "age of the configuration now",
        age,
        Unit::Seconds,
        Expected::exactly(0),
    );
    stage.check_no_failure();
    Ok(())
}
