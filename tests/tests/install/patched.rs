//! A namespace is labelled, a pod is created: it comes back with a sidecar, starts in its order, and talks
//! in mutual TLS.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use http::Method;
use serde_json::{Value, json};
use weft_proto::names::{INIT_CONTAINER, PROXY_CONTAINER, PROXY_UID, cluster};
use weft_sandbox::Pod;
use weft_sandbox::kubelet::Event;
use weft_sandbox::load::{Load, Shot};
use weft_sandbox::metrics::Metrics;
use weft_tests::counts::{assert_all_served_once, wait_for};

use crate::processes::Kernel;
use crate::world::{self, APP, APP_PORT, PATIENCE, SHOP, WEFT, World, has_sidecar, name_of};
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
        world
            .install(&[world::account(SHOP, "shopper"), world::pod(SHOP, "server")])
            .await?;
        let mut client = world::pod(SHOP, "client");
        client["spec"]["serviceAccountName"] = "shopper".into();
        world
            .install(&[client, world::pod("plain", "stranger")])
            .await?;
        certified_by_the_control_plane(world).await?;
        refused_with_a_reason(world).await?;
        let made = world.object(SHOP, "server").await.unwrap_or_default();
        let names: Vec<_> = made["spec"]["initContainers"]
            .as_array()
            .into_iter()
            .flatten()
            .collect();
        let names: Vec<_> = names.iter().map(|container| &container["name"]).collect();
        ensure!(names == [INIT_CONTAINER, PROXY_CONTAINER], "{made:#}");
        let client = world.ready(SHOP, "client").await?;
        let server = world.ready(SHOP, "server").await?;
        runs_as_it_says(world, &made)?;
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
        by_mutual_tls(world, &server, "shopper").await?;

        // Under Strict nobody else gets in, neither through the service nor past it.
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
        let server = world.ready(SHOP, "server").await?;
        in_order(world, "client")?;
        let to = world.service(SHOP, "server").await?;
        world.reaches(&client, to).await?;
        let report = Load::new(to).requests(REQUESTS).run(&client).await;
        ensure!(report.status(200) == REQUESTS, "{report:?}");
        let seen = world.stats(SHOP, "server").await?;
        ensure!(seen.routes["GET /"] == REQUESTS, "{:?}", seen.routes);
        by_mutual_tls(world, &server, "default").await
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

/// All requests of this one came to the server in mutual TLS, from the client's identity.
async fn by_mutual_tls(world: &World, server: &Pod, client: &str) -> anyhow::Result<()> {
    let peer = format!("{SHOP}/{client}");
    let inbound = [("direction", "inbound"), ("outcome", "ok")];
    let of_client = [
        inbound[0],
        inbound[1],
        ("tls", "mutual"),
        ("peer", peer.as_str()),
    ];
    let mut last = Metrics::default();
    wait_for("requests are counted", PATIENCE, async || {
        last = world.metrics(server).await?;
        let counted = last.sum("weft_requests_total", &of_client);
        Ok((counted >= REQUESTS as f64).then_some(()))
    })
    .await?;
    // Nobody else's are there but the kubelet's, which asks in the clear.
    let clear = [inbound[0], inbound[1], ("tls", "none")];
    let others = last.sum("weft_requests_total", &inbound)
        - last.sum("weft_requests_total", &of_client)
        - last.sum("weft_requests_total", &clear);
    ensure!(others == 0.0, "{last:#?}");
    Ok(())
}

/// Every process runs with exactly what its container says: command, user, privileges.
fn runs_as_it_says(world: &World, pod: &Value) -> anyhow::Result<()> {
    let name = name_of(pod);
    let of = |container: &str| {
        let process = world.kubelet.process(SHOP, &name, container);
        let process = process.with_context(|| format!("{container} runs"))?;
        Kernel::of(&process)
    };
    let (sidecar, app) = (of(PROXY_CONTAINER)?, of(APP)?);
    // `internal proxy` stands for the image, in which the program is the sidecar itself.
    ensure!(
        sidecar.command == ["weft-proxy", "internal", "proxy"],
        "{sidecar:?}"
    );
    let port = format!("http:{APP_PORT}");
    let said = [
        "weft-app",
        "internal",
        "app",
        "--name",
        &name,
        "--app-version",
        "v1",
        "--serve",
        &port,
    ];
    ensure!(app.command == said, "{app:?}");
    for place in [
        "/",
        "/run/secrets/weft.dev/token",
        "/run/secrets/weft.dev/trust-bundle",
    ] {
        ensure!(sidecar.sees_read_only(place), "{place}: {sidecar:?}");
        ensure!(!app.sees_read_only(place), "{place}: {app:?}");
    }
    if !world.kubelet.has_users() {
        return Ok(());
    }
    ensure!(sidecar.user()? == PROXY_UID, "{sidecar:?}");
    ensure!(sidecar.capabilities()? == (0, 0), "{sidecar:?}");
    ensure!(sidecar.has_no_new_privileges(), "{sidecar:?}");
    ensure!(
        app.user()? == 1000 && !app.has_no_new_privileges(),
        "{app:?}"
    );
    Ok(())
}

/// The webhook's certificate is the control plane's, and so is what the API server believes it by.
async fn certified_by_the_control_plane(world: &World) -> anyhow::Result<()> {
    let secret = format!(
        "/api/v1/namespaces/{WEFT}/secrets/{}",
        cluster::WEBHOOK_SECRET
    );
    let secret = world
        .get(&secret)
        .await
        .context("the webhook's certificate")?;
    let made_by = &secret["metadata"]["labels"][cluster::MANAGED_BY_LABEL];
    ensure!(made_by == cluster::MANAGED_BY, "{made_by}");
    let webhooks = world
        .get("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/weft-injector")
        .await
        .context("the webhook's configuration")?;
    let webhooks = webhooks["webhooks"].as_array().cloned().unwrap_or_default();
    ensure!(webhooks.len() == 2);
    for webhook in webhooks {
        let bundle = &webhook["clientConfig"]["caBundle"];
        ensure!(
            bundle.is_string() && *bundle == secret["data"]["ca.crt"],
            "{webhook:#}"
        );
    }
    Ok(())
}

/// A pod that would get around its sidecar is not made, and who makes it is told why.
async fn refused_with_a_reason(world: &World) -> anyhow::Result<()> {
    let mut pod = world::pod(SHOP, "sly");
    pod["spec"]["securityContext"]["runAsUser"] = json!(PROXY_UID);
    let path = format!("/api/v1/namespaces/{SHOP}/pods");
    let (code, answer) = world.server.ask(Method::POST, &path, Some(&pod)).await;
    let why = answer["message"].as_str().unwrap_or_default();
    let is_explained = why.contains("uid 2140") && why.contains("runAsUser");
    ensure!((400..500).contains(&code) && is_explained, "{code}: {why}");
    Ok(())
}
