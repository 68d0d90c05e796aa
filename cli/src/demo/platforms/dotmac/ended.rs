//! Replicas end under load: one as a rolling update ends it, with its time to finish; one killed.

use std::rc::Rc;
use std::time::{Duration, Instant};

use weft_sandbox::app::Behavior;
use weft_sandbox::load::Running;

use super::super::common::{Killed, behave, serves_again};
use super::{CALLERS, DRAIN, INGRESS, PLATFORM, REPLICAS, SERVICE};
use crate::demo::check::Expected;
use crate::demo::stage::Stage;

/// Whose end it is.
const ENDS: &str = REPLICAS[2];
const OTHERS: [&str; 2] = [REPLICAS[0], REPLICAS[1]];
/// What an answer takes where a replica is told to end: half of the time that it has.
const LONG: Duration = Duration::from_secs(15);
/// The deployment's `pre-stop-sleep`: from being taken out of the service to SIGTERM.
const PRE_STOP: Duration = Duration::from_secs(2);
/// Requests per second, beside the story's own.
const RATE: f64 = 30.0;
const CLIENTS: usize = 800;
/// How long they flow before anything happens, so that many are under way.
const BEGIN: Duration = Duration::from_secs(1);
/// And how long they flow on after SIGTERM, and how many of the first of these may have been there already.
const GO_ON: Duration = Duration::from_secs(1);
const ON_THEIR_WAY: u64 = 10;

/// The end that a rolling update or a smaller scale brings.
pub(super) async fn drained(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "A replica ends",
            "SIGTERM in the middle of requests that take 15 s: it has 30 s to finish them.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    let long = Behavior::latency(stage.time(LONG));
    behave(&world, &REPLICAS, &long).await?;
    let load = world
        .load(CALLERS, "drain")
        .rate(RATE)
        .clients(CLIENTS)
        .on_demand()
        .start(&world.mesh.pod(INGRESS));
    stage.watch(BEGIN).await;
    world.mesh.set_draining(ENDS, true)?;
    world.mesh.set_endpoints(SERVICE, OTHERS)?;
    let pre_stop = stage.time(PRE_STOP);
    stage.watch(pre_stop).await;
    let under_way = world.mesh.app(ENDS).stats().await?.in_flight;
    let answered_before = answered_by_it(stage, &load);
    let sent_before = load.look(|report| report.sent);
    let told = Instant::now();
    let end = async {
        world.mesh.stop_app(ENDS).await?;
        world.mesh.stop_sidecar(ENDS).await
    };
    stage.during(end).await?;
    let took = told.elapsed();
    let answered = answered_by_it(stage, &load) - answered_before;
    stage.watch(GO_ON).await;
    let report = stage.during(load.stop()).await;
    stage.check_count(
        "under way there at SIGTERM, answered by it since",
        (under_way, "requests"),
        answered,
        Expected::at_least(under_way.max(1) as f64),
    );
    let of = (report.sent, "requests");
    stage.check_count(
        "not answered with 200",
        of,
        report.not_ok(),
        Expected::exactly(0),
    );
    let new = report.records.iter();
    let new = new.filter(|record| record.number > sent_before + ON_THEIR_WAY);
    let there = new
        .clone()
        .filter(|it| it.served_by.as_deref() == Some(ENDS));
    let (new, there) = (new.count() as u64, there.count() as u64);
    let what = "new ones that went there all the same";
    stage.check_count(what, (new, "requests"), there, Expected::exactly(0));
    stage.check_time("from SIGTERM to its end", Some(took), stage.time(DRAIN));
    stage.during(world.mesh.start_workload(ENDS)).await?;
    world.mesh.set_draining(ENDS, false)?;
    world.mesh.set_endpoints(SERVICE, REPLICAS)?;
    behave(&world, &REPLICAS, &Behavior::default()).await?;
    serves_again(stage, CALLERS, ENDS).await;
    stage.check_no_failure_of("failed of all that the platform was asked", &[CALLERS]);
    // Requests of 15 s are slow, but they are not failures.
    stage
        .check_alerts(&[], &["HighLatency", "HighErrorRate", "CircuitBreakerOpen"])
        .await
}

/// Answers that the replica gave to the act's load and to the story's own traffic.
fn answered_by_it(stage: &Stage, load: &Running) -> u64 {
    let by = |report: &weft_sandbox::load::Report| report.served_by.get(ENDS).copied();
    let own = stage.world.look(CALLERS, by).unwrap_or(0);
    own + load.look(by).unwrap_or(0)
}

/// The end that a node's failure brings.
pub(super) async fn killed(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "A replica is killed",
            "One of three, under load: application and sidecar at once, with all they work on.",
        )
        .await;
    let replica = Killed {
        target: CALLERS,
        pods: &REPLICAS,
        policy: PLATFORM,
    };
    replica.play(stage).await?;
    Ok(())
}
