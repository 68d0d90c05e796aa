//! What holds while parts of Weft are not there, or not there yet.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use http::Method;
use serde_json::{Value, json};
use weft_proto::names::cluster;
use weft_sandbox::load::Load;
use weft_tests::counts::wait_for;

use crate::world::{self, PATIENCE, SHOP, WEFT, World, has_sidecar};
use crate::{Cx, Suite};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/weft/deployments";

pub(crate) fn register(suite: &mut Suite) {
    suite.add("outages::without_the_injector", without_the_injector);
    suite.add("outages::at_the_first_start", at_the_first_start);
    suite.add("outages::the_injector_first", the_injector_first);
}

/// Pods of labelled namespaces are refused, with why; all others are not concerned, and what runs goes on.
async fn without_the_injector(cx: Cx) -> anyhow::Result<()> {
    world::installed(&cx, async |world| {
        world.namespace(SHOP, Some("enabled")).await?;
        world.namespace("plain", None).await?;
        world.install(&[world::service(SHOP, "server")]).await?;
        for name in ["server", "client"] {
            world.install(&[world::pod(SHOP, name)]).await?;
        }
        let client = world.ready(SHOP, "client").await?;
        world.ready(SHOP, "server").await?;
        let to = world.service(SHOP, "server").await?;
        world.reaches(&client, to).await?;
        scale_injector(world, 0).await?;

        let (code, answer) = create(world, SHOP, "refused").await;
        let why = answer["message"].as_str().unwrap_or_default().to_owned();
        println!("{}: {code}: {why}", cx.name);
        ensure!(code >= 400, "{answer:#}");
        ensure!(
            why.contains(cluster::WEBHOOK_BY_NAMESPACE),
            "which webhook: {why}"
        );
        ensure!(world.object(SHOP, "refused").await.is_none());
        let mut by_itself = world::pod("plain", "labelled");
        by_itself["metadata"]["labels"]["weft.dev/inject"] = json!("enabled");
        let (code, answer) = post(world, "plain", &by_itself).await;
        ensure!(
            code >= 400,
            "one that wants a sidecar, elsewhere: {answer:#}"
        );
        let (code, answer) = create(world, "plain", "other").await;
        ensure!(code == 201 && !has_sidecar(&answer), "{answer:#}");
        world.ready("plain", "other").await?;
        // The mesh's own pods come about without it: a replica of the control plane, and its own.
        let own = world.pods_of(WEFT).await;
        let mut own = own.iter();
        let own = own.find(|pod| pod["spec"]["serviceAccountName"] == "control-plane");
        let killed = own.map(world::name_of).context("the control plane runs")?;
        world
            .delete(&format!("/api/v1/namespaces/{WEFT}/pods/{killed}"))
            .await?;
        world.rolled_out(WEFT, "weft-control-plane").await?;
        let report = Load::new(to).requests(50).run(&client).await;
        ensure!(report.status(200) == 50, "what runs goes on: {report:?}");

        let begin = Instant::now();
        scale_injector(world, 2).await?;
        wait_for("pods get sidecars again", PATIENCE, async || {
            let (code, answer) = create(world, SHOP, "late").await;
            Ok((code == 201 && has_sidecar(&answer)).then_some(()))
        })
        .await?;
        cx.measured(format!(
            "pods again {:.1?} after its return",
            begin.elapsed()
        ));
        world.ready(SHOP, "late").await?;
        Ok(())
    })
    .await
}

/// Neither the certificate's Secret nor the authority's is there when everything is started at once.
async fn at_the_first_start(cx: Cx) -> anyhow::Result<()> {
    world::bare(&cx, async |world| {
        let begin = Instant::now();
        world.install(&world::manifest()?).await?;
        comes_up(&cx, world, begin).await
    })
    .await
}

/// The injector is there long before the control plane.
async fn the_injector_first(cx: Cx) -> anyhow::Result<()> {
    world::bare(&cx, async |world| {
        let mut manifest = world::manifest()?;
        let is_control_plane = |object: &Value| {
            object["kind"] == "Deployment" && object["metadata"]["name"] == "weft-control-plane"
        };
        let late: Vec<Value> = manifest
            .extract_if(.., |object| is_control_plane(object))
            .collect();
        ensure!(late.len() == 1);
        world.install(&manifest).await?;
        wait_for("the injectors run", PATIENCE, async || {
            let pods = world.pods_of(WEFT).await;
            let is_running = |pod: &Value| pod["status"]["phase"] == "Running";
            Ok((pods.len() == 2 && pods.iter().all(is_running)).then_some(()))
        })
        .await?;
        // They say what they wait for instead of failing.
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        for pod in world.pods_of(WEFT).await {
            let container = &pod["status"]["containerStatuses"][0];
            ensure!(
                container["restartCount"] == 0 && container["ready"] == false,
                "{pod:#}"
            );
        }
        world.namespace(SHOP, Some("enabled")).await?;
        let (code, answer) = create(world, SHOP, "early").await;
        ensure!(code >= 400, "nothing without a sidecar: {answer:#}");
        let begin = Instant::now();
        world.install(&late).await?;
        comes_up(&cx, world, begin).await
    })
    .await
}

/// By itself everything becomes ready, and a pod gets its sidecar.
async fn comes_up(cx: &Cx, world: &World, begin: Instant) -> anyhow::Result<()> {
    for secret in [cluster::AUTHORITY_SECRET, cluster::WEBHOOK_SECRET] {
        let there = world
            .get(&format!("/api/v1/namespaces/{WEFT}/secrets/{secret}"))
            .await;
        ensure!(there.is_none(), "{secret} is there already");
    }
    world.all_ready().await?;
    cx.measured(format!(
        "all of Weft was ready after {:.1?}",
        begin.elapsed()
    ));
    world.namespace(SHOP, Some("enabled")).await?;
    let (code, answer) = create(world, SHOP, "web").await;
    ensure!(code == 201 && has_sidecar(&answer), "{answer:#}");
    world.ready(SHOP, "web").await?;
    cx.measured(format!(
        "a pod with a sidecar was ready after {:.1?}",
        begin.elapsed()
    ));
    Ok(())
}

async fn scale_injector(world: &World, replicas: usize) -> anyhow::Result<()> {
    let path = format!("{DEPLOYMENTS}/weft-injector");
    world
        .patch(&path, &json!({"spec": {"replicas": replicas}}))
        .await?;
    if replicas > 0 {
        return world.rolled_out(WEFT, "weft-injector").await;
    }
    wait_for("the injectors are gone", PATIENCE, async || {
        let pods = world.pods_of(WEFT).await;
        let is_injector = |pod: &Value| pod["spec"]["serviceAccountName"] == "injector";
        Ok((!pods.iter().any(is_injector)).then_some(()))
    })
    .await
}

async fn create(world: &World, namespace: &str, name: &str) -> (u16, Value) {
    post(world, namespace, &world::pod(namespace, name)).await
}

async fn post(world: &World, namespace: &str, pod: &Value) -> (u16, Value) {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    world.server.ask(Method::POST, &path, Some(pod)).await
}
