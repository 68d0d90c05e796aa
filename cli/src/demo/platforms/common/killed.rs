//! A pod is killed under load with everything that it works on, application and sidecar at once.

use std::rc::Rc;
use std::time::Duration;

use weft_sandbox::app::Behavior;
use weft_sandbox::load::Report;

use super::{behave, serves_again};
use crate::demo::check::{Expected, Unit};
use crate::demo::compare::BeforeAfter;
use crate::demo::stage::Stage;

/// What an answer takes, so that some requests are always being worked on.
const BUSY: Duration = Duration::from_millis(200);
/// Requests of one time, and how many per second: a dozen are under way when the pod is killed.
pub(in crate::demo::platforms) const REQUESTS: u64 = 120;
const RATE: f64 = 60.0;
const CLIENTS: usize = 100;
/// When it is killed: a whole second has passed by then, of which a budget of retries counts its share.
const KILLED_AFTER: Duration = Duration::from_millis(1_200);

/// Whose end it is.
#[derive(Clone, Copy, Debug)]
pub(in crate::demo::platforms) struct Killed {
    /// The target whose service has the pods.
    pub(in crate::demo::platforms) target: usize,
    /// All of them. The last one is killed.
    pub(in crate::demo::platforms) pods: &'static [&'static str],
    /// What it is played without, and then with.
    pub(in crate::demo::platforms) policy: &'static str,
}

impl Killed {
    /// Kills it and starts it again, twice; what callers saw with the policy.
    pub(in crate::demo::platforms) async fn play(
        self,
        stage: &mut Stage,
    ) -> anyhow::Result<Report> {
        let world = Rc::clone(&stage.world);
        let caller = world.story.targets[self.target].caller;
        behave(&world, self.pods, &Behavior::latency(BUSY)).await?;
        let saw = stage
            .before_and_after(caller, &[self.policy], async |stage| self.kill(stage).await)
            .await?;
        stage.check_both(
            &format!("not answered with 200, of {REQUESTS} requests"),
            saw.map(|report| report.not_ok() as f64),
            Unit::Count,
            BeforeAfter {
                before: Expected::at_least(1),
                after: Expected::exactly(0),
            },
        );
        behave(&world, self.pods, &Behavior::default()).await?;
        serves_again(stage, self.target, self.pod()).await;
        Ok(saw.after)
    }

    /// What its callers saw.
    async fn kill(self, stage: &mut Stage) -> anyhow::Result<Report> {
        let world = Rc::clone(&stage.world);
        let target = &world.story.targets[self.target];
        let load = world
            .load(self.target, "killed")
            .requests(REQUESTS)
            .rate(RATE)
            .clients(CLIENTS)
            .on_demand()
            .start(&world.mesh.pod(target.caller));
        stage.watch(KILLED_AFTER).await;
        let pod = self.pod();
        world.mesh.kill_workload(pod).await?;
        // A cluster's controller takes it out of its services a moment later.
        let others = self.pods.iter().filter(|other| **other != pod);
        world.mesh.set_endpoints(target.service, others.copied())?;
        let report = stage.during(load.ended()).await;
        if report.not_ok() > 0 {
            let reasons = (&report.statuses, &report.outcomes, &report.failures);
            stage.say(&format!("How they ended: {reasons:?}"));
        }
        stage.during(world.mesh.start_workload(pod)).await?;
        behave(&world, &[pod], &Behavior::latency(BUSY)).await?;
        let all = self.pods.iter().copied();
        world.mesh.set_endpoints(target.service, all)?;
        Ok(report)
    }

    fn pod(self) -> &'static str {
        self.pods[self.pods.len() - 1]
    }
}
