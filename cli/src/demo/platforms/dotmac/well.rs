//! All is well: what is let in and what is not, and whose requests are counted as whose.

use std::rc::Rc;

use http::Method;
use weft_proxy::outcome::Outcome;
use weft_sandbox::load::{Load, Shot};

use super::super::common;
use super::{CALLERS, INGRESS, MOST_STEPS, PORT, REPLICAS, of_tenant, servers};
use crate::demo::check::{Expected, Unit};
use crate::demo::stage::Stage;

/// What the guide's probes and its Prometheus ask for, in plaintext.
const OPEN: [&str; 4] = ["/health", "/ready", "/live", "/metrics"];
/// Of a tenant that nobody else sends requests of.
const ONE_TENANT: &str = "umbrella";
const ITS_REQUESTS: u64 = 50;
const ITS_ROUTE: &str = "/api/v1/umbrella";

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    let words = "The ingress calls three replicas for three tenants; a replica calls a provider.";
    common::steady(stage, words).await;
    check_mutual(stage);
    check_open_paths(stage).await?;
    common::check_refused(stage, servers::CACHE, CALLERS, &REPLICAS, "the platform").await?;
    check_tenants(stage).await?;
    stage.check_alerts(&[], &[]).await
}

/// Providers are outside of the mesh; what comes to the platform is inside.
fn check_mutual(stage: &mut Stage) {
    let service = stage.world.label(CALLERS);
    let of = |tls: &[(&'static str, &'static str)]| {
        let labels = [
            &[("direction", "outbound"), ("service", service.as_str())],
            tls,
        ]
        .concat();
        stage.metric(CALLERS, "weft_requests_total", &labels)
    };
    let percent = of(&[("tls", "mutual")])
        .zip(of(&[]))
        .map(|(mutual, all)| mutual * 100.0 / all);
    stage.check(
        "requests to the platform over mutual TLS",
        percent,
        Unit::Percent,
        Expected::exactly(100),
    );
}

/// Who has no identity gets to what is declared for everybody, by GET, and to nothing else.
async fn check_open_paths(stage: &mut Stage) -> anyhow::Result<()> {
    let world = Rc::clone(&stage.world);
    let stranger = world.mesh.stranger("kubelet")?;
    let (mut asked, mut well, mut tried, mut refused) = (0, 0, 0, 0);
    for replica in REPLICAS {
        let to = (world.mesh.pod(replica).v4(), PORT).into();
        for path in OPEN {
            let answer = stage.during(stranger.get(to, path)).await?;
            asked += 1;
            well += u64::from(answer.status.is_success());
        }
        for (method, path) in [
            (Method::GET, "/api/v1/customers"),
            (Method::GET, "/health/"),
            (Method::POST, "/ready"),
        ] {
            let answer = stranger.send(to, method, path, "".into());
            let answer = stage.during(answer).await?;
            tried += 1;
            refused += u64::from(answer.outcome() == Some(Outcome::MtlsRequired.as_str()));
        }
    }
    stage.check_count(
        "/health, /ready, /live, /metrics in plaintext",
        (asked, "requests"),
        well,
        Expected::exactly(asked as f64),
    );
    stage.check_count(
        "anything else in plaintext refused",
        (tried, "requests"),
        refused,
        Expected::exactly(tried as f64),
    );
    Ok(())
}

/// Requests of a tenant stand under its name, as many as the replicas have seen.
async fn check_tenants(stage: &mut Stage) -> anyhow::Result<()> {
    let world = Rc::clone(&stage.world);
    let load = Load::new(world.addr(CALLERS))
        .id_prefix("tenant")
        .shot(of_tenant(Shot::get(ITS_ROUTE), ONE_TENANT))
        .requests(ITS_REQUESTS);
    stage.during(load.run(&world.mesh.pod(INGRESS))).await;
    let seen = common::seen_at(&world, &REPLICAS, &format!("GET {ITS_ROUTE}")).await?;
    let of = (ITS_REQUESTS, "requests");
    let all = Expected::exactly(ITS_REQUESTS as f64);
    stage.check_count("of one tenant, seen by the replicas", of, seen, all);
    let labels = [("direction", "inbound"), ("tenant", ONE_TENANT)];
    let mut counted = 0.0;
    stage
        .until(MOST_STEPS, async |world| {
            counted = 0.0;
            for replica in REPLICAS {
                let metrics = world.metrics(replica).await.unwrap_or_default();
                counted += metrics.sum("weft_requests_total", &labels);
            }
            counted >= ITS_REQUESTS as f64
        })
        .await;
    let what = "under its name in their sidecars' metrics";
    stage.check_count(what, of, counted as u64, all);
    Ok(())
}
