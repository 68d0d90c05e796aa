//! The story, act by act. Each act does one thing to the mesh while traffic flows, and tells what it
//! measured.

mod breaker;
mod canary;
mod deadline;
mod outage;
mod plaintext;
mod rolling;
mod steady;

use super::check::{Expected, Unit};
use super::stage::Stage;

/// Plays everything.
///
/// # Errors
/// When an act cannot do what it wants to do. What turns out otherwise than expected is no error.
pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    steady::play(stage).await?;
    canary::play(stage).await?;
    breaker::play(stage).await?;
    deadline::play(stage).await?;
    plaintext::play(stage).await?;
    rolling::play(stage).await?;
    outage::play(stage).await
}

/// The time that something took, which must be short.
fn check_time(
    stage: &mut Stage,
    what: &'static str,
    took: Option<std::time::Duration>,
    most: std::time::Duration,
) {
    let seconds = took.map(|took| took.as_secs_f64());
    let expected = Expected::at_most(most.as_secs_f64());
    stage.check(what, seconds, Unit::Seconds, expected);
}
