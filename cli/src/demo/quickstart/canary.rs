//! A tenth of the traffic goes to a new version.

use std::time::Duration;

use super::{CHECKOUT, split_checkout};
use crate::demo::check::Expected;
use crate::demo::stage::{Stage, answers_of};

const TIME: Duration = Duration::from_secs(8);
const PATIENCE: Duration = Duration::from_secs(10);
/// From the file on disk to live traffic.
const MOST_DELAY: Duration = Duration::from_secs(1);
const WEIGHTS: [u32; 2] = [90, 10];

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "Canary 90/10",
            "A policy on disk sends every tenth request to checkout v2, while traffic flows.",
        )
        .await;
    split_checkout(&stage.world, WEIGHTS)?;
    stage.want_split(CHECKOUT, WEIGHTS);
    let took = stage
        .until(PATIENCE, async |world| {
            world.look(CHECKOUT, |report| answers_of(report, "v2") > 0)
        })
        .await;
    stage.check_time(
        "from the policy on disk to v2's first answer",
        took,
        MOST_DELAY,
    );
    // What was under way before the change would count for v1.
    stage.cut();
    stage.watch(TIME).await;
    let checkout = stage.cut().swap_remove(CHECKOUT);
    let [v1, v2] = ["v1", "v2"].map(|version| answers_of(&checkout, version));
    let answers = v1 + v2;
    stage.check_share(
        "v2's share",
        (answers, "answers"),
        (answers > 0).then(|| v2 as f64 * 100.0 / answers as f64),
        Expected::share(f64::from(WEIGHTS[1]), answers),
    );
    stage.check_no_failure();
    Ok(())
}
