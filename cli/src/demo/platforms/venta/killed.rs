//! One of the gateway's two pods is killed with everything that it works on.

use super::super::common::Killed;
use super::{BEHIND, FRONT, GATEWAY_PODS, SERVICES};
use crate::demo::stage::Stage;

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "A gateway pod is killed",
            "One of the two that the guide has: application and sidecar at once, under load.",
        )
        .await;
    // The other one is the caller of most of the traffic.
    let pod = Killed {
        target: FRONT,
        pods: &GATEWAY_PODS,
        policy: SERVICES,
    };
    pod.play(stage).await?;
    stage.check_no_failure_of("failed of what others were asked", &BEHIND);
    Ok(())
}
