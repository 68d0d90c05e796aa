//! A namespace is labelled, a pod is created: it comes back with a sidecar, starts in its order, and talks
//! in mutual TLS.

use std::net::SocketAddr;

use anyhow::ensure;
use serde_json::json;
use weft_proto::names::{INIT_CONTAINER, PROXY_CONTAINER};
use weft_sandbox::kubelet::Event;
use weft_sandbox::load::{Load, Shot};
use weft_tests::counts::{assert_all_served_once, wait_for};

use crate::world::{self, APP, APP_PORT, PATIENCE, SHOP, World, has_sidecar};
use crate::{Cx, Suite};

/// Requests of one test.
const REQUESTS: u64 = 200;

pub(crate) fn register(suite: &mut Suite) {
    suite.add("patched::a_labelled_namespace", a_labelled_namespace);
    suite.add("patched::a_labelled_pod", a_labelled_pod);
}

async fn a_labelled_namespace(cx: Cx) -> anyhow::Result<()> {
    world::installed(&cx, async |world| {
        world.namespace(SHOP, Some("enabled")).await?;
        world.namespace("plain", None).await?;
        world.install(&[world::strict(SHOP)]).await?;
        world.install(&[world::service(SHOP, "server")]).await?;
        for name in ["server", "client"] {
            world.install(&[world::pod(SHOP, name)]).await?;
        }
        world.install(&[world::pod("plain", "stranger")]).await?;
        let made = world.object(SHOP, "server").await.unwrap_or_default();
        let names: Vec<_> = made["spec"]["initContainers"]
            .as_array()
            .into_iter()
            .flatten()
            .collect();
        let names: Vec<_> = names.iter().map(|container| &container["name"]).collect();
        ensure!(names == [INIT_CONTAINER, PROXY_CONTAINER], "{made:#}");
        let client = world.ready(SHOP, "client").await?;
        world.ready(SHOP, "server").await?;
        let stranger = world.ready("plain", "stranger").await?;
        let plain = world.object("plain", "stranger").await.unwrap_or_default();
        ensure!(!has_sidecar(&plain), "{plain:#}");
        in_order(world, "server")?;

        let to = world.service(SHOP, "server").await?;
        world.reaches(&client, to).await?;
        let load = Load::new(to)
            .shot(Shot::get("/x"))
            .shot(Shot::post("/y", 900));
        let report = load.requests(REQUESTS).run(&client).await;
        let seen = world.stats(SHOP, "server").await?;
        assert_all_served_once(&report, &seen);
        by_mutual_tls(world, &client).await?;

        // Under Strict nobody else gets in, neither through the service nor past it.
        let server = world.kubelet.pod(SHOP, "server").expect("it is ready");
        let past = SocketAddr::new(server.v4().into(), APP_PORT);
        let refused = stranger.get(past, "/x").await?;
        ensure!(refused.outcome() == Some("mtls_required"), "{refused:?}");
        let after = world.stats(SHOP, "server").await?;
        ensure!(after.routes["GET /x"] == REQUESTS / 2, "{:?}", after.routes);
        Ok(())
    })
    .await
}

async fn a_labelled_pod(cx: Cx) -> anyhow::Result<()> {
    world::installed(&cx, async |world| {
        world.namespace(SHOP, None).await?;
        world.install(&[world::service(SHOP, "server")]).await?;
        for name in ["server", "client"] {
            let mut pod = world::pod(SHOP, name);
            pod["metadata"]["labels"]["weft.dev/inject"] = json!("enabled");
            world.install(&[pod]).await?;
        }
        world.install(&[world::pod(SHOP, "other")]).await?;
        let other = world.object(SHOP, "other").await.unwrap_or_default();
        ensure!(!has_sidecar(&other), "{other:#}");
        let client = world.ready(SHOP, "client").await?;
        world.ready(SHOP, "server").await?;
        in_order(world, "client")?;
        let to = world.service(SHOP, "server").await?;
        world.reaches(&client, to).await?;
        let report = Load::new(to).requests(REQUESTS).run(&client).await;
        ensure!(report.status(200) == REQUESTS, "{report:?}");
        let seen = world.stats(SHOP, "server").await?;
        ensure!(seen.routes["GET /"] == REQUESTS, "{:?}", seen.routes);
        by_mutual_tls(world, &client).await
    })
    .await
}

/// The redirect before the sidecar, and that one ready before the application.
pub(crate) fn in_order(world: &World, pod: &str) -> anyhow::Result<()> {
    let at = |container: &str, event| world.moment((SHOP, pod), container, event);
    let order = [
        at(INIT_CONTAINER, Event::Began)?,
        at(INIT_CONTAINER, Event::Ended(0))?,
        at(PROXY_CONTAINER, Event::Began)?,
        at(PROXY_CONTAINER, Event::Passed)?,
        at(APP, Event::Began)?,
    ];
    ensure!(order.is_sorted(), "{:#?}", world.kubelet.moments(SHOP, pod));
    let said = world.kubelet.log(SHOP, pod, INIT_CONTAINER);
    ensure!(
        said.contains("interception applied (IPv4 and IPv6)"),
        "{said}"
    );
    Ok(())
}

/// All that a client's sidecar has sent to the server was in mutual TLS, to the server's identity.
async fn by_mutual_tls(world: &World, client: &weft_sandbox::Pod) -> anyhow::Result<()> {
    let sent = "weft_requests_total";
    let name = client.name().to_owned();
    wait_for("requests are counted", PATIENCE, async || {
        let metrics = world.metrics(client).await?;
        let all = metrics.sum(sent, &[("direction", "outbound")]);
        let tls = metrics.sum(sent, &[("direction", "outbound"), ("tls", "mutual")]);
        ensure!(all <= tls || tls == 0.0, "{name}: {tls} of {all}");
        Ok((tls >= REQUESTS as f64).then_some(()))
    })
    .await
}
