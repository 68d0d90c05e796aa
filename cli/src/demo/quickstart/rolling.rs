//! A rolling update under load: every workload of the checkout is replaced, one after the other.

use std::rc::Rc;
use std::time::Duration;

use super::{CHECKOUT, checkout};
use crate::demo::check::Expected;
use crate::demo::stage::Stage;
use crate::demo::world::World;

/// Between two replacements, so that the new workload is seen to serve.
const PAUSE: Duration = Duration::from_millis(500);
/// The old workload, the new one, and its version.
const REPLACEMENTS: [(&str, &str, &str); 4] = [
    ("checkout-v1-1", "checkout-v1-3", "v1"),
    ("checkout-v2-1", "checkout-v2-3", "v2"),
    ("checkout-v1-2", "checkout-v1-4", "v1"),
    ("checkout-v2-2", "checkout-v2-4", "v2"),
];

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "Rolling update under load",
            "Each workload of checkout: marked draining, its app ends, its sidecar, a new one comes.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    for (index, (old, new, version)) in REPLACEMENTS.into_iter().enumerate() {
        stage
            .during(replace(&world, index, old, new, version))
            .await?;
        stage.watch(PAUSE).await;
    }
    let reports = stage.cut();
    let serving = REPLACEMENTS
        .iter()
        .filter(|(_, new, _)| reports[CHECKOUT].served_by.contains_key(*new))
        .count();
    stage.check_count(
        "replaced and serving",
        (REPLACEMENTS.len() as u64, "workloads"),
        serving as u64,
        Expected::exactly(REPLACEMENTS.len() as f64),
    );
    stage.check_no_failure();
    Ok(())
}

/// Takes one workload away and puts another in its place. `index` says how many are new already.
async fn replace(
    world: &World,
    index: usize,
    old: &str,
    new: &str,
    version: &str,
) -> anyhow::Result<()> {
    world.mesh.remove_workload(old).await?;
    world.mesh.add_workload(checkout(new, version)).await?;
    let (done, waiting) = REPLACEMENTS.split_at(index + 1);
    let of = |wanted: &str| -> Vec<&str> {
        let new = done.iter().filter(|(_, _, version)| *version == wanted);
        let old = waiting.iter().filter(|(_, _, version)| *version == wanted);
        let new = new.map(|(_, new, _)| *new);
        new.chain(old.map(|(old, _, _)| *old)).collect()
    };
    world.mesh.set_endpoints("checkout", of("v1"))?;
    world
        .mesh
        .set_endpoints(&format!("checkout-{version}"), of(version))
}
