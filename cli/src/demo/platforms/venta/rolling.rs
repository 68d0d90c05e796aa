//! A rolling update, one pod at a time as the guide has it; and one of a service whose streams last.

use std::rc::Rc;
use std::time::{Duration, Instant};

use weft_sandbox::{AppSpec, Workload};

use super::servers::Servers;
use super::sockets::Server;
use super::{DRAIN, MOST_STEPS, PORT, REAL_TIME_DRAIN, REAL_TIME_PODS, USER_PODS, USERS};
use crate::demo::check::{Expected, Unit};
use crate::demo::stage::Stage;
use crate::demo::world::World;

/// The guide's `delay` between two pods.
const DELAY: Duration = Duration::from_secs(10);
const NEW_USER_PODS: [&str; 2] = ["user-management-3", "user-management-4"];
/// The pod of real-time that goes, and the one that comes.
const OLD: &str = REAL_TIME_PODS[1];
const NEW: &str = "real-time-3";
const PATIENCE: Duration = Duration::from_secs(20);
/// Share of its time to leave that a stream of a pod that goes has at least: the sidecar ends what is left
/// a moment before its own end.
const LEAST_LIFE: f64 = 0.8;

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "Rolling update",
            "user-management pod by pod, 10 s apart; and a pod of real-time, which has WebSockets open.",
        )
        .await;
    let world = Rc::clone(&stage.world);
    let Some(servers) = world.props::<Servers>() else {
        anyhow::bail!("the story has no servers");
    };
    let of = |pod: &str| -> Vec<usize> {
        let sockets = servers.sockets.iter().enumerate();
        let its = sockets.filter(|(_, it)| it.now().as_deref() == Some(pod));
        its.map(|(index, _)| index).collect()
    };
    let (moving, staying) = (of(OLD), of(REAL_TIME_PODS[0]));
    let connections = |index: &usize| servers.sockets[*index].seen().len();
    let before: Vec<usize> = moving.iter().chain(&staying).map(connections).collect();
    let delay = stage.time(DELAY);
    let drain = stage.time(REAL_TIME_DRAIN);
    let updates =
        async { tokio::try_join!(users(&world, delay), real_time(&world, servers, drain)) };
    let ((), begun) = stage.during(Box::pin(updates)).await?;

    let reports = stage.cut();
    let serving = NEW_USER_PODS.iter();
    let serving = serving.filter(|pod| reports[USERS].served_by.contains_key(**pod));
    stage.check_count(
        "replaced and serving",
        (2, "pods"),
        serving.count() as u64,
        Expected::exactly(2),
    );
    stage.check_no_failure();
    stage.check_count(
        "WebSockets of the pod that goes",
        (servers.sockets.len() as u64, "WebSockets"),
        moving.len() as u64,
        Expected::at_least(1),
    );
    let lives: Vec<Duration> = (moving.iter().zip(&before))
        .filter_map(|(index, connections)| {
            let seen = servers.sockets[*index].seen();
            Some(seen.get(*connections - 1)?.last - begun)
        })
        .collect();
    let least = drain.as_secs_f64() * LEAST_LIFE;
    let most = (drain + MOST_STEPS).as_secs_f64();
    stage.check(
        "the least that they had to leave",
        lives.iter().min().map(Duration::as_secs_f64),
        Unit::Seconds,
        Expected::between(least, most),
    );
    let moved = async |_: &World| {
        let now = moving.iter().map(|index| servers.sockets[*index].now());
        { now }.all(|pod| pod.is_some_and(|pod| pod != OLD))
    };
    let took = stage.until(PATIENCE, moved).await;
    stage.check_time("until they are at another pod", took, MOST_STEPS);
    let mut cut = 0;
    for (index, before) in staying.iter().zip(&before[moving.len()..]) {
        cut += connections(index) - before;
    }
    stage.check_count(
        "cut of those of the other pod",
        (staying.len() as u64, "WebSockets"),
        cut as u64,
        Expected::exactly(0),
    );
    Ok(())
}

/// A new pod comes, an old one goes; then the next.
async fn users(world: &World, delay: Duration) -> anyhow::Result<()> {
    let mut there = USER_PODS.to_vec();
    for (old, new) in USER_PODS.into_iter().zip(NEW_USER_PODS) {
        let workload = Workload::new(new)
            .service_account("user-management")
            .drain_timeout(DRAIN)
            .port(PORT, AppSpec::http())
            .probe(PORT, "/health");
        world.mesh.add_workload(workload).await?;
        there.push(new);
        world.mesh.set_endpoints("user-management", there.clone())?;
        world.mesh.remove_workload(old).await?;
        there.retain(|pod| *pod != old);
        tokio::time::sleep(delay).await;
    }
    Ok(())
}

/// When the pod that goes was told to.
async fn real_time(world: &World, servers: &Servers, drain: Duration) -> anyhow::Result<Instant> {
    world.mesh.add_workload(real_time_pod(NEW, drain)).await?;
    let server = Server::start(&world.mesh.pod(NEW))?;
    servers.real_time.lock().push(server);
    let [stays, goes] = REAL_TIME_PODS;
    world.mesh.set_endpoints("real-time", [stays, goes, NEW])?;
    let begun = Instant::now();
    world.mesh.remove_workload(goes).await?;
    Ok(begun)
}

/// A pod of real-time: its application is one of the story's own.
pub(super) fn real_time_pod(name: &str, drain: Duration) -> Workload {
    Workload::new(name)
        .service_account("real-time")
        .drain_timeout(drain)
        .port(PORT, AppSpec::none())
        .probe(PORT, "/health")
}
