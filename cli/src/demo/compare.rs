//! Before and after: the same failure twice in one story, first without policies and then with them.
//!
//! "Without" is what a mesh does that was told nothing: mutual TLS, and further tries of what was never
//! processed. Both numbers become checks, named after the same thing, so that they can be read side by
//! side: `before: …` says what callers suffer and is expected to be bad, `after: …` what the guide
//! promises.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use super::check::{Expected, Unit};
use super::stage::Stage;
use super::world::World;

/// How long a sidecar may take to hear of a policy that has changed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Nothing further has come by then.
const QUIET: Duration = Duration::from_millis(300);

/// What came of the two times.
#[derive(Clone, Copy, Debug)]
pub(super) struct BeforeAfter<T> {
    /// Without the policies.
    pub(super) before: T,
    /// With them.
    pub(super) after: T,
}

impl<T> BeforeAfter<T> {
    /// One number of each.
    pub(super) fn map<U>(&self, number: impl Fn(&T) -> U) -> BeforeAfter<U> {
        BeforeAfter {
            before: number(&self.before),
            after: number(&self.after),
        }
    }
}

impl Stage {
    /// Plays `act` without the story's policies of these names, then with them. Each time the sidecar of
    /// `caller` knows of the change before it plays. What the act did to the mesh it undoes itself.
    ///
    /// # Errors
    /// Those of the act; that the sidecar does not hear of the change in time; a name that is none of
    /// the story's.
    pub(super) async fn before_and_after<T>(
        &mut self,
        caller: &str,
        policies: &[&str],
        mut act: impl AsyncFnMut(&mut Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<BeforeAfter<T>> {
        self.say("Before: without its policy.");
        self.change_policies(caller, policies, false).await?;
        let before = act(self).await?;
        self.say("After: with it.");
        self.change_policies(caller, policies, true).await?;
        let after = act(self).await?;
        Ok(BeforeAfter { before, after })
    }

    /// Tells both numbers.
    pub(super) fn check_both(
        &mut self,
        what: &str,
        numbers: BeforeAfter<impl Into<Option<f64>>>,
        unit: Unit,
        expected: BeforeAfter<Expected>,
    ) {
        let before = format!("before: {what}");
        self.check(before, numbers.before, unit, expected.before);
        self.check(
            format!("after: {what}"),
            numbers.after,
            unit,
            expected.after,
        );
    }

    /// Puts policies of the story in force, or takes them away, and waits until the sidecar of `caller`
    /// has heard.
    pub(super) async fn change_policies(
        &mut self,
        caller: &str,
        policies: &[&str],
        there: bool,
    ) -> anyhow::Result<()> {
        let world = std::rc::Rc::clone(&self.world);
        let known = told(&world, caller).await?;
        for name in policies {
            let story = world.story.policies.iter();
            let policy = { story }
                .find(|policy| policy.name == *name)
                .with_context(|| format!("the story has no policy {name}"))?;
            if there {
                let yaml = world.pace.manifest(policy.yaml)?;
                world.mesh.apply_policy(name, &yaml)?;
            } else {
                world.mesh.remove_policy(name)?;
            }
        }
        let heard = async |world: &World| told(world, caller).await.is_ok_and(|now| now != known);
        self.until(PATIENCE, heard).await.with_context(|| {
            format!("the sidecar of {caller} hears of no change within {PATIENCE:?}")
        })?;
        self.watch(QUIET).await;
        Ok(())
    }
}

/// What a sidecar was told by the control plane.
async fn told(world: &World, workload: &str) -> anyhow::Result<Value> {
    let answer = world.mesh.admin_get(workload, "/config").await?;
    let mut config: Value =
        serde_json::from_slice(&answer.body).context("reading a sidecar's /config")?;
    Ok(config["discovery"].take())
}
