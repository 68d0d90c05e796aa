//! Pods come and go under load: not one request fails, and what is counted at the servers is what was
//! sent.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;
use weft_proto::names::PROXY_CONTAINER;
use weft_sandbox::Pod;
use weft_sandbox::kubelet::Event;
use weft_sandbox::load::{Load, Running, Shot};
use weft_tests::counts::{assert_all_served_once, wait_for};

use crate::world::{self, APP, PATIENCE, SHOP, World, name_of};
use crate::{Cx, Suite};

/// Requests per second, over all clients of a load.
const RATE: f64 = 120.0;
/// Many more than are busy, so that each request is sent when it is due.
const CLIENTS: usize = 32;
/// Every second request takes so long that some are under way whenever a pod is told to end.
const SLOW: &str = "/?delay_ms=150";
/// What no request may take: two seconds are what a sidecar waits for a connection, which it makes again.
const SLOWEST: Duration = Duration::from_secs(5);
/// How long the load runs before and after what is looked at.
const AROUND: Duration = Duration::from_millis(700);

pub(crate) fn register(suite: &mut Suite) {
    suite.add("life::a_pod_is_deleted", a_pod_is_deleted);
    suite.add("life::a_legacy_pod_is_deleted", a_legacy_pod_is_deleted);
    suite.add("life::a_rolling_update", a_rolling_update);
    suite.add("life::a_sidecar_crashes", a_sidecar_crashes);
}

async fn a_pod_is_deleted(cx: Cx) -> anyhow::Result<()> {
    world::installed(&cx, async |world| {
        let victim = delete_one(&cx, world).await?;
        ends_in_order(world, &victim)
    })
    .await
}

/// With a sidecar that is told to end together with its application.
async fn a_legacy_pod_is_deleted(cx: Cx) -> anyhow::Result<()> {
    world::installed_legacy(&cx, async |world| {
        let victim = delete_one(&cx, world).await?;
        let at = |container: &str, event| world.moment((SHOP, &victim), container, event);
        let told = [
            at(APP, Event::Stopped)?,
            at(PROXY_CONTAINER, Event::Stopped)?,
        ];
        let ended = [
            at(APP, Event::Ended(0))?,
            at(PROXY_CONTAINER, Event::Ended(0))?,
        ];
        ensure!(told.iter().max() < ended.iter().min(), "{told:?} {ended:?}");
        ensure!(ended.is_sorted(), "the sidecar serves to the end");
        Ok(())
    })
    .await
}

/// Deletes one of two pods under load: its name.
async fn delete_one(cx: &Cx, world: &World) -> anyhow::Result<String> {
    let client = open_shop(world).await?;
    let before = world.names(SHOP, "web").await;
    let load = start(world, &client, "deletion").await?;
    tokio::time::sleep(AROUND).await;
    let victim = before[0].clone();
    let begin = Instant::now();
    world
        .delete(&format!("/api/v1/namespaces/{SHOP}/pods/{victim}"))
        .await?;
    wait_for("the pod is gone", PATIENCE, async || {
        Ok(world.object(SHOP, &victim).await.is_none().then_some(()))
    })
    .await?;
    cx.measured(format!("the pod took {:.1?} to end", begin.elapsed()));
    world.rolled_out(SHOP, "web").await?;
    tokio::time::sleep(AROUND).await;
    let after = world.names(SHOP, "web").await;
    settle(world, load, before.iter().chain(&after)).await?;
    Ok(victim)
}

async fn a_rolling_update(cx: Cx) -> anyhow::Result<()> {
    world::installed(&cx, async |world| {
        let client = open_shop(world).await?;
        let before = world.names(SHOP, "web").await;
        let load = start(world, &client, "rolling").await?;
        tokio::time::sleep(AROUND).await;
        let begin = Instant::now();
        let patch = json!({"spec": {"template": world::template("web", "v2")}});
        let path = format!("/apis/apps/v1/namespaces/{SHOP}/deployments/web");
        world.patch(&path, &patch).await?;
        world.rolled_out(SHOP, "web").await?;
        wait_for("the old pods are gone", PATIENCE, async || {
            let pods = world.pods(SHOP, "web").await;
            let is_old = |pod| before.contains(&name_of(pod));
            Ok((!pods.iter().any(is_old)).then_some(()))
        })
        .await?;
        cx.measured(format!("the update took {:.1?}", begin.elapsed()));
        tokio::time::sleep(AROUND).await;
        let after = world.names(SHOP, "web").await;
        ensure!(!after.iter().any(|name| before.contains(name)), "{after:?}");
        for name in &before {
            ends_in_order(world, name)?;
        }
        let versions = load.look(|report| report.versions.clone());
        ensure!(versions.len() == 2, "{versions:?}");
        settle(world, load, before.iter().chain(&after)).await
    })
    .await
}

/// A sidecar that is killed comes back under the same pod, while its application goes on; and while it is
/// away, another pod serves.
async fn a_sidecar_crashes(cx: Cx) -> anyhow::Result<()> {
    world::installed(&cx, async |world| {
        let client = open_shop(world).await?;
        let names = world.names(SHOP, "web").await;
        let victim = names[0].as_str();
        let to = world.service(SHOP, "web").await?;
        let process = world.kubelet.process(SHOP, victim, PROXY_CONTAINER);
        let process = process.expect("it has a sidecar");
        let app = world.kubelet.process(SHOP, victim, APP).expect("it runs");
        let begin = Instant::now();
        process.kill()?;
        wait_for("the sidecar is back", PATIENCE, async || {
            let pod = world.object(SHOP, victim).await.unwrap_or_default();
            let sidecar = &pod["status"]["initContainerStatuses"][1];
            let is_back = sidecar["restartCount"] == 1 && sidecar["ready"] == true;
            Ok(is_back.then_some(()))
        })
        .await?;
        cx.measured(format!(
            "the sidecar was back after {:.1?}",
            begin.elapsed()
        ));
        ensure!(app.ended()?.is_none(), "its application went on");
        let restarted = world.kubelet.process(SHOP, victim, PROXY_CONTAINER);
        ensure!(restarted.is_some_and(|it| it.id() != process.id()));
        // Everything as before, at this pod too.
        world.ready(SHOP, victim).await?;
        let before = world
            .stats(SHOP, victim)
            .await?
            .routes
            .get("GET /")
            .copied();
        wait_for("the pod serves", PATIENCE, async || {
            let report = Load::new(to).requests(20).run(&client).await;
            let after = world
                .stats(SHOP, victim)
                .await?
                .routes
                .get("GET /")
                .copied();
            Ok((report.status(200) == 20 && after > before).then_some(()))
        })
        .await
    })
    .await
}

/// A deployment `web` of two replicas with its service in a strict namespace, and a client that reaches it.
async fn open_shop(world: &World) -> anyhow::Result<Pod> {
    world.namespace(SHOP, Some("enabled")).await?;
    world.install(&[world::strict(SHOP)]).await?;
    let client = world::pod(SHOP, "client");
    let web = world::deployment("web", 2, "v1");
    world
        .install(&[world::service(SHOP, "web"), web, client])
        .await?;
    world.rolled_out(SHOP, "web").await?;
    let client = world.ready(SHOP, "client").await?;
    world
        .reaches(&client, world.service(SHOP, "web").await?)
        .await?;
    Ok(client)
}

async fn start(world: &World, client: &Pod, name: &str) -> anyhow::Result<Running> {
    let load = Load::new(world.service(SHOP, "web").await?);
    let load = load.clients(CLIENTS).rate(RATE).id_prefix(name);
    let load = load.shot(Shot::get("/")).shot(Shot::get(SLOW));
    Ok(load.start(client))
}

/// Ends a load, and compares it with what these pods have seen.
async fn settle<'a>(
    world: &World,
    load: Running,
    pods: impl Iterator<Item = &'a String>,
) -> anyhow::Result<()> {
    let report = load.stop().await;
    let mut pods: Vec<String> = pods.cloned().collect();
    pods.sort();
    pods.dedup();
    let seen = world.seen(SHOP, &pods).await?;
    ensure!(report.sent as f64 > RATE, "{}", report.sent);
    let slowest = report.records.iter().map(|record| record.took).max();
    let slowest = slowest.unwrap_or_default();
    ensure!(slowest < SLOWEST, "a request took {slowest:?}");
    assert_all_served_once(&report, &seen);
    ensure!(report.served_by.len() >= 2, "{:?}", report.served_by);
    Ok(())
}

/// The application was asked to end, and its sidecar when that had happened; nobody had to be killed.
fn ends_in_order(world: &World, pod: &str) -> anyhow::Result<()> {
    let at = |container: &str, event| world.moment((SHOP, pod), container, event);
    let order = [
        at(APP, Event::Stopped)?,
        at(APP, Event::Ended(0))?,
        at(PROXY_CONTAINER, Event::Stopped)?,
        at(PROXY_CONTAINER, Event::Ended(0))?,
    ];
    ensure!(order.is_sorted(), "{:#?}", world.kubelet.moments(SHOP, pod));
    Ok(())
}
