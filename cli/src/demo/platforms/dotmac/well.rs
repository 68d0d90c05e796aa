//! All is well: what is let in and what is not, and whose requests are counted as whose.

use std::rc::Rc;
use std::time::Duration;

use http::Method;
use weft_proxy::outcome::Outcome;
use weft_sandbox::load::{Load, Shot};

use super::super::common::calls;
use super::{CALLERS, INGRESS, MOST_STEPS, PORT, REPLICAS, of_tenant, servers};
use crate::demo::check::{Expected, Unit};
use crate::demo::stage::Stage;

/// The first requests find out who is where and make the connections.
const WARM_UP: Duration = Duration::from_secs(1);
const TIME: Duration = Duration::from_secs(3);
/// Share of the wanted rate that must come about: a busy machine is late now and then.
const LEAST_RATE: f64 = 0.9;
/// What the guide's probes and its Prometheus ask for, in plaintext.
const OPEN: [&str; 4] = ["/health", "/ready", "/live", "/metrics"];
/// Calls of which each is looked at.
const CALLS: u64 = 10;
/// Of a tenant that nobody else sends requests of.
const ONE_TENANT: &str = "umbrella";
const ITS_REQUESTS: u64 = 50;
const ITS_ROUTE: &str = "/api/v1/umbrella";

pub(super) async fn play(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .begin(
            "All is well",
            "The ingress calls three replicas for three tenants; a replica calls a provider.",
        )
        .await;
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
    check_mutual(stage);
    check_open_paths(stage).await?;
    check_callers(stage).await?;
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

/// A caller that the policy does not name is refused, and does not get to the application.
async fn check_callers(stage: &mut Stage) -> anyhow::Result<()> {
    const PATH: &str = "/not-allowed";
    let world = Rc::clone(&stage.world);
    let (pod, to) = (world.mesh.pod(servers::CACHE), world.addr(CALLERS));
    let (answers, _) = stage.during(calls(&pod, to, PATH, CALLS)).await?;
    let denied = answers.iter().filter(|answer| answer.status == 403).count();
    let of = (CALLS, "calls");
    stage.check_count(
        "calls of a workload that is not named refused",
        of,
        denied as u64,
        Expected::exactly(CALLS as f64),
    );
    let seen = route(stage, &format!("GET {PATH}")).await?;
    stage.check_count(
        "of these seen by the platform",
        of,
        seen,
        Expected::exactly(0),
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
    let seen = route(stage, &format!("GET {ITS_ROUTE}")).await?;
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

/// How often the replicas have seen a method and path.
async fn route(stage: &mut Stage, route: &str) -> anyhow::Result<u64> {
    let mut seen = 0;
    for replica in REPLICAS {
        let stats = stage.world.mesh.app(replica).stats().await?;
        seen += stats.routes.get(route).copied().unwrap_or(0);
    }
    Ok(seen)
}
