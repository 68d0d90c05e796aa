//! A pod is killed with everything that it works on, application and sidecar at once.

use super::super::common::Killed;
use super::{CREDIT, CREDIT_PODS, OTHERS, SERVICES};
use crate::demo::stage::Stage;

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "A pod is killed",
            "One of the two pods of credit-service: application and sidecar at once, under load.",
        )
        .await;
    let pod = Killed {
        target: CREDIT,
        pods: &CREDIT_PODS,
        policy: SERVICES,
    };
    pod.play(stage).await?;
    stage.check_no_failure_of("failed of what others were asked", &OTHERS);
    Ok(())
}
