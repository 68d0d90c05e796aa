//! A Job's pod completes although it has a sidecar: natively because the kubelet ends that, in legacy mode
//! because the control plane tells it.

use std::time::Instant;

use anyhow::ensure;
use serde_json::{Value, json};
use weft_proto::names::PROXY_CONTAINER;
use weft_sandbox::kubelet::Event;
use weft_tests::counts::wait_for;

use crate::world::{self, APP, PATIENCE, SHOP, World, name_of};
use crate::{Cx, Suite};

/// Calls that the job makes.
const CALLS: u64 = 20;

pub(crate) fn register(suite: &mut Suite) {
    suite.add("jobs::completes_natively", completes_natively);
    suite.add("jobs::completes_in_legacy_mode", completes_in_legacy_mode);
}

async fn completes_natively(cx: Cx) -> anyhow::Result<()> {
    world::installed(&cx, async |world| {
        let job = complete(&cx, world).await?;
        let spec = &job["spec"];
        ensure!(
            spec["initContainers"][1]["name"] == PROXY_CONTAINER,
            "{spec:#}"
        );
        let at = |container: &str, event| world.moment((SHOP, &name_of(&job)), container, event);
        let order = [
            at(PROXY_CONTAINER, Event::Passed)?,
            at(APP, Event::Began)?,
            at(APP, Event::Ended(0))?,
            at(PROXY_CONTAINER, Event::Stopped)?,
            at(PROXY_CONTAINER, Event::Ended(0))?,
        ];
        ensure!(order.is_sorted());
        Ok(())
    })
    .await
}

async fn completes_in_legacy_mode(cx: Cx) -> anyhow::Result<()> {
    world::installed_legacy(&cx, async |world| {
        let job = complete(&cx, world).await?;
        let spec = &job["spec"];
        ensure!(spec["containers"][0]["name"] == PROXY_CONTAINER, "{spec:#}");
        let at = |container: &str, event| world.moment((SHOP, &name_of(&job)), container, event);
        let order = [
            at(PROXY_CONTAINER, Event::Passed)?,
            at(APP, Event::Began)?,
            at(APP, Event::Ended(0))?,
            at(PROXY_CONTAINER, Event::Ended(0))?,
        ];
        ensure!(order.is_sorted());
        let stopped = at(PROXY_CONTAINER, Event::Stopped);
        ensure!(
            stopped.is_err(),
            "it ended by itself, and not by the kubelet"
        );
        Ok(())
    })
    .await
}

/// Runs a job that calls a server, in a strict namespace, to its completion: its pod.
async fn complete(cx: &Cx, world: &World) -> anyhow::Result<Value> {
    world.namespace(SHOP, Some("enabled")).await?;
    world.install(&[world::strict(SHOP)]).await?;
    world
        .install(&[world::service(SHOP, "server"), world::pod(SHOP, "server")])
        .await?;
    world.ready(SHOP, "server").await?;
    let times = CALLS.to_string();
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "report", "namespace": SHOP},
        "spec": {"template": {
            "metadata": {"labels": {"app": "report"}},
            "spec": {
                "restartPolicy": "Never",
                "containers": [{
                    "name": APP, "image": "registry.example/shop/report:1",
                    "command": ["weft-caller", "server.shop:80", times],
                }],
            },
        }},
    });
    let begin = Instant::now();
    world.install(&[job]).await?;
    let path = format!("/apis/batch/v1/namespaces/{SHOP}/jobs/report");
    wait_for("the job is complete", PATIENCE, async || {
        let job = world.get(&path).await.unwrap_or_default();
        let condition = &job["status"]["conditions"][0]["type"];
        ensure!(*condition != "Failed", "{job:#}");
        Ok((*condition == "Complete").then_some(()))
    })
    .await?;
    cx.measured(format!("the job took {:.1?}", begin.elapsed()));
    let seen = world.stats(SHOP, "server").await?;
    ensure!(
        seen.routes.get("GET /call") == Some(&CALLS),
        "{:?}",
        seen.routes
    );
    ensure!(seen.ids.len() as u64 == CALLS && seen.repeated_ids() == 0);
    let pods = world.pods(SHOP, "report").await;
    let [pod] = &pods[..] else {
        anyhow::bail!("one pod did it: {pods:#?}");
    };
    ensure!(pod["status"]["phase"] == "Succeeded", "{pod:#}");
    Ok(pod.clone())
}
