//! A bad version of vendor management: it gets a tenth of the requests, whatever its pods' share is, and
//! what the guide's rollback script waits for is a weight.

use std::rc::Rc;
use std::time::Duration;

use weft_sandbox::app::Behavior;
use weft_sandbox::load::Report;

use super::super::common::{behave, forget, seen};
use super::{CANARY_POD, GATEWAY, OTHERS_THAN_VENDOR, VENDOR, VENDOR_POLICY};
use crate::demo::check::Expected;
use crate::demo::stage::Stage;

/// Its policy.
const SPLIT: &str = "vendor-management";
/// Requests while it is well, and as many while it is bad, and how many per second.
const REQUESTS: u64 = 250;
const RATE: f64 = 100.0;
const CLIENTS: usize = 20;
/// The share that the policy gives a new version, in percent.
const SHARE: f64 = 10.0;
/// From the policy on disk to the last request of the old way.
const MOST_DELAY: Duration = Duration::from_secs(1);
/// How long it is looked at then.
const WELL: Duration = Duration::from_secs(1);

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "A bad version, and back",
            "A new version of vendor-management comes, and answers everything with 500; then the rollback.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    let fine = load(stage).await;
    stage.check_share(
        "callers that the new version gets while it is well",
        (fine.answered, "answers"),
        Some(fine.share_percent(CANARY_POD)),
        Expected::share(SHARE, fine.answered),
    );
    behave(&world, &[CANARY_POD], &Behavior::status(500)).await?;
    let bad = load(stage).await;
    let failed = bad.not_ok() as f64 * 100.0 / bad.sent.max(1) as f64;
    stage.check_share(
        "callers that fail while it is bad",
        (bad.sent, "requests"),
        Some(failed),
        Expected::share(SHARE, bad.sent),
    );
    let back = world.pace.manifest(&rolled_back())?;
    world.mesh.apply_policy(SPLIT, &back)?;
    stage.watch(MOST_DELAY).await;
    forget(&world, &[CANARY_POD]).await?;
    stage.cut();
    stage.watch(WELL).await;
    let vendor = stage.cut().swap_remove(VENDOR);
    let reached = seen(&world, &[CANARY_POD]).await?;
    stage.check_count(
        "failed, a second after the rollback",
        (vendor.sent, "requests"),
        vendor.not_ok(),
        Expected::exactly(0),
    );
    stage.check_count(
        "of these seen by the bad version",
        (vendor.sent, "requests"),
        reached,
        Expected::exactly(0),
    );
    stage.check_no_failure_of("failed of what others were asked", &OTHERS_THAN_VENDOR);
    stage.check_alerts(&["VersionFails"], &ECHOES).await?;
    // There are errors to ask for now.
    stage.check_queries().await?;
    behave(&world, &[CANARY_POD], &Behavior::default()).await?;
    stage.change_policies(GATEWAY, &[SPLIT], true).await
}

/// Those of the acts before it may still be heard; and a tenth of the requests fails.
const ECHOES: [&str; 3] = [
    "HighErrorRate",
    "NatsConnectionFailures",
    "RedisConnectionFailures",
];

/// Requests of the gateway, beside its others.
async fn load(stage: &mut Stage) -> Report {
    let world = Rc::clone(&stage.world);
    let load = world
        .load(VENDOR, "version")
        .requests(REQUESTS)
        .rate(RATE)
        .clients(CLIENTS)
        .start(&world.mesh.pod(GATEWAY));
    stage.during(load.ended()).await
}

/// The policy, as `weft canary abort` leaves it.
fn rolled_back() -> String {
    VENDOR_POLICY
        .replace("stable, weight: 90", "stable, weight: 100")
        .replace("canary, weight: 10", "canary, weight: 0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollback_is_a_weight() {
        let policy = rolled_back();
        assert!(policy.contains("{name: vendor-management-stable, weight: 100}"));
        assert!(policy.contains("{name: vendor-management-canary, weight: 0}"));
        let weight = format!("canary, weight: {SHARE}");
        assert!(VENDOR_POLICY.contains(&weight), "{weight}");
    }
}
