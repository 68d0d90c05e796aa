//! Acts that every platform has, and what they are made of.

mod callers;
mod killed;
mod waited;

use std::rc::Rc;
use std::time::Duration;

use weft_proxy::outcome::Outcome;
use weft_sandbox::Pod;
use weft_sandbox::app::Behavior;
use weft_sandbox::client::Answer;

use crate::demo::check::{Expected, Unit};
use crate::demo::stage::Stage;
use crate::demo::world::World;

pub(super) use self::callers::{check_lines, check_refused};
pub(super) use self::killed::{Killed, REQUESTS};
pub(super) use self::waited::{Waited, check_waited};

/// What a machine with other things to do may take on top of a bound.
pub(super) const MOST_LATE: Duration = Duration::from_millis(250);
/// The same for what takes several steps.
pub(super) const MOST_STEPS: Duration = Duration::from_secs(2);
/// How long a sidecar may take to end, where the guide does not say.
pub(super) const DRAIN: Duration = Duration::from_secs(5);
/// Calls of which each is looked at.
pub(super) const CALLS: u64 = 10;
/// How long is waited for a pod that should serve at once.
const PATIENCE: Duration = Duration::from_secs(20);
/// The first requests find out who is where and make the connections.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long everything is well, and how long the control plane is away.
const TIME: Duration = Duration::from_secs(4);
/// Share of the wanted rate that must come about: a busy machine is late now and then.
const LEAST_RATE: f64 = 0.9;
/// From the control plane's return to sidecars that know it: they knock at longer and longer intervals.
const MOST_RETURN: Duration = Duration::from_secs(10);
/// What a probe asks.
const HEALTH: &str = "/health";

/// Nothing happens but traffic: no request fails, at the rate that is wanted, over mutual TLS.
pub(super) async fn all_well(stage: &mut Stage, words: &str) {
    steady(stage, words).await;
    let percent = stage.mtls_percent();
    stage.check(
        "over mutual TLS, as the callers' sidecars count",
        percent,
        Unit::Percent,
        Expected::exactly(100),
    );
}

/// The same where not all that is called is in the mesh.
pub(super) async fn steady(stage: &mut Stage, words: &str) {
    stage.begin("All is well", words).await;
    stage.watch(WARM_UP).await;
    stage.cut();
    stage.watch(TIME).await;
    stage.scrape().await;
    stage.remember_steady_state();
    stage.check_no_failure();
    let answered = stage.tally_of_all().answered as f64 / (WARM_UP + TIME).as_secs_f64();
    let rates = stage.world.story.targets.iter().map(|target| target.rate);
    let least = (rates.sum::<f64>() * LEAST_RATE).floor();
    stage.check(
        "answers per second",
        answered,
        Unit::Count,
        Expected::at_least(least),
    );
}

/// Probes without an identity are answered by these workloads' ports, and nothing else that comes
/// without one: part of an act.
pub(super) async fn check_probes(
    stage: &mut Stage,
    workloads: &[(&str, u16)],
) -> anyhow::Result<()> {
    let world = Rc::clone(&stage.world);
    let kubelet = world.mesh.stranger("kubelet")?;
    let (mut well, mut refused) = (0, 0);
    for (workload, port) in workloads {
        let to = (world.mesh.pod(workload).v4(), *port).into();
        let answer = stage.during(kubelet.get(to, HEALTH)).await?;
        well += u64::from(answer.status.is_success());
        let answer = stage.during(kubelet.get(to, "/anything")).await?;
        refused += u64::from(answer.outcome() == Some(Outcome::MtlsRequired.as_str()));
    }
    let all = workloads.len() as u64;
    let what = "probes of /health answered with 200";
    stage.check_count(
        what,
        (all, "workloads"),
        well,
        Expected::exactly(all as f64),
    );
    stage.check_count(
        "other calls of strangers refused",
        (all, "workloads"),
        refused,
        Expected::exactly(all as f64),
    );
    Ok(())
}

/// The control plane is killed and comes back; nobody sees it.
pub(super) async fn control_plane_gone(stage: &mut Stage, words: &str) -> anyhow::Result<()> {
    stage.begin("Control plane gone", words).await;
    let world = Rc::clone(&stage.world);
    world.mesh.kill_control_plane().await?;
    stage.watch(TIME).await;
    stage.scrape().await;
    let age = stage.metric(0, "weft_config_age_seconds", &[]);
    stage.check(
        "age of the configuration that sidecars go on with",
        age,
        Unit::Seconds,
        Expected::at_least((TIME / 2).as_secs_f64()),
    );
    stage.during(world.mesh.start_control_plane()).await?;
    let lead = world.story.lead();
    let took = stage
        .until(2 * MOST_RETURN, async |world| {
            let metrics = world.metrics(lead).await;
            let age = metrics.and_then(|it| it.value("weft_config_age_seconds", &[]));
            age == Some(0.0)
        })
        .await;
    stage.check_time(
        "from its return to a current configuration",
        took,
        MOST_RETURN,
    );
    stage.check_no_failure();
    Ok(())
}

/// The same as the last act: every alert has ended.
pub(super) async fn gone(stage: &mut Stage, words: &str) -> anyhow::Result<()> {
    control_plane_gone(stage, words).await?;
    stage.check_silence().await;
    Ok(())
}

/// A pod that was started again gets traffic of a target again: part of an act.
pub(super) async fn serves_again(stage: &mut Stage, target: usize, pod: &str) {
    stage.cut();
    let took = stage
        .until(PATIENCE, async |world| {
            world.look(target, |report| report.served_by.contains_key(pod))
        })
        .await;
    stage.check_time("from running again to serving", took, MOST_STEPS);
}

/// Tells applications what to do from now on.
pub(super) async fn behave(
    world: &World,
    workloads: &[&str],
    behavior: &Behavior,
) -> anyhow::Result<()> {
    for workload in workloads {
        world.mesh.app(workload).behave(behavior).await?;
    }
    Ok(())
}

/// Makes applications forget what they have seen.
pub(super) async fn forget(world: &World, workloads: &[&str]) -> anyhow::Result<()> {
    for workload in workloads {
        world.mesh.app(workload).reset_stats().await?;
    }
    Ok(())
}

/// Requests that applications have seen, as they count themselves.
pub(super) async fn seen(world: &World, workloads: &[&str]) -> anyhow::Result<u64> {
    let mut requests = 0;
    for workload in workloads {
        requests += world.mesh.app(workload).stats().await?.requests;
    }
    Ok(requests)
}

/// Those of one method and path.
pub(super) async fn seen_at(world: &World, workloads: &[&str], route: &str) -> anyhow::Result<u64> {
    let mut requests = 0;
    for workload in workloads {
        let stats = world.mesh.app(workload).stats().await?;
        requests += stats.routes.get(route).copied().unwrap_or(0);
    }
    Ok(requests)
}

/// Requests that came to the sidecars of these workloads, as they count themselves: also where there
/// is no application behind them.
pub(super) async fn knocked(world: &World, workloads: &[&str]) -> f64 {
    let mut requests = 0.0;
    for workload in workloads {
        if let Some(metrics) = world.metrics(workload).await {
            requests += metrics.sum("weft_requests_total", &[("direction", "inbound")]);
        }
    }
    requests
}

/// What single calls get, and the longest time that one took.
pub(super) async fn calls(
    pod: &Pod,
    to: std::net::SocketAddr,
    path: &str,
    count: u64,
) -> anyhow::Result<(Vec<Answer>, Duration)> {
    let mut answers = Vec::new();
    let mut longest = Duration::ZERO;
    for _ in 0..count {
        let begun = std::time::Instant::now();
        answers.push(pod.get(to, path).await?);
        longest = longest.max(begun.elapsed());
    }
    Ok((answers, longest))
}

/// Milliseconds, for a check.
pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
