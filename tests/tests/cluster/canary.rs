//! Canaries as tools make them through the API of a cluster, to promotion and to rollback. Every step is
//! judged by what the servers saw.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use http::Method;
use serde_json::json;
use weft_sandbox::app::{Behavior, ID, Stats};
use weft_sandbox::client::{Answer, Http1};
use weft_sandbox::load::{Load, Report, Running, Shot};
use weft_sandbox::mesh::Builder;
use weft_sandbox::{Mesh, Workload};
use weft_tests::canary::Route;
use weft_tests::canary::argo::Rollout;
use weft_tests::canary::flagger::{Analysis, Flagger};
use weft_tests::counts::{assert_all_served_once, assert_no_failure, wait_for};
use weft_tests::gateway_crds;

use crate::common::{CHANGE, Cluster, Cx, PORT, http_app, mesh, service, stats};
use crate::{Needs, Suite, recipes};

/// Old and new version of the application, and the new one once it is promoted.
pub(crate) const OLD: &str = "app-1";
pub(crate) const NEW: &str = "app-2";
const PROMOTED: &str = "app-3";
/// Requests per second, and those that a step is judged by.
const RATE: f64 = 100.0;
const SAMPLE: u64 = 200;
/// Below this success rate, in percent, a canary has failed.
const ENOUGH: f64 = 99.0;

pub(crate) fn register(suite: &mut Suite) {
    let needs = Needs::default();
    suite.add("canary::flagger_promotes", needs, flagger_promotes);
    suite.add("canary::flagger_rolls_back", needs, flagger_rolls_back);
    suite.add("canary::flagger_by_header", needs, flagger_by_header);
    suite.add("canary::flagger_by_cookie", needs, flagger_by_cookie);
    suite.add("canary::flagger_by_copies", needs, flagger_by_copies);
    suite.add("canary::argo_promotes", needs, argo_promotes);
    suite.add("canary::argo_aborts", needs, argo_aborts);
}

/// A cluster with the Gateway API, and the mesh of a canary in it: the service `app` and two more, for the
/// old version and for the new one.
async fn on(
    cx: Cx,
    services: [&'static str; 2],
    test: impl AsyncFnOnce(&Cx, &Cluster, &Mesh) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    for definition in gateway_crds::all() {
        cluster.define(&definition).await?;
    }
    let [stable, canary] = services;
    let name = cx
        .name
        .rsplit(':')
        .next()
        .unwrap_or_default()
        .replace('_', "-");
    let builder: Builder = mesh(&name)
        .workload(Workload::new("client").service_account("client"))
        .workload(http_app(OLD))
        .workload(http_app(NEW).version("v2"))
        .workload(http_app(PROMOTED).version("v2"))
        .service(service("app", [OLD]))
        .service(service(stable, [OLD]))
        .service(service(canary, [NEW]));
    cx.on(&cluster, builder, async |mesh| {
        test(&cx, &cluster, mesh).await
    })
    .await
}

pub(crate) fn start_load(mesh: &Mesh) -> Running {
    let load = Load::new(mesh.addr("app", PORT)).clients(4).rate(RATE);
    load.id_prefix("user")
        .shot(Shot::get("/"))
        .shot(Shot::post("/orders", 100))
        .start(&mesh.pod("client"))
}

/// What happened at an application since the last look.
struct Since<'a> {
    mesh: &'a Mesh,
    app: &'static str,
    before: Stats,
}

impl<'a> Since<'a> {
    async fn now(mesh: &'a Mesh, app: &'static str) -> anyhow::Result<Self> {
        let before = mesh.app(app).stats().await?;
        Ok(Self { mesh, app, before })
    }

    /// Requests, and those of them that were answered without a fault of the server.
    async fn look(&self) -> anyhow::Result<(u64, u64)> {
        let now = self.mesh.app(self.app).stats().await?;
        let good = |stats: &Stats| {
            let good = stats
                .statuses
                .iter()
                .filter(|(code, _)| (200..500).contains(*code));
            good.map(|(_, count)| count).sum::<u64>()
        };
        Ok((
            now.requests - self.before.requests,
            good(&now) - good(&self.before),
        ))
    }
}

/// The canary's share and success rate among the next [`SAMPLE`] requests, in percent, counted at the
/// servers.
async fn sample(
    mesh: &Mesh,
    stable: &'static str,
    canary: &'static str,
) -> anyhow::Result<[f64; 2]> {
    let stable = Since::now(mesh, stable).await?;
    let canary = Since::now(mesh, canary).await?;
    wait_for("a sample", CHANGE, async || {
        let ((old, _), (new, good)) = (stable.look().await?, canary.look().await?);
        let percent = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        let sample = [percent(new, old + new), percent(good.min(new), new)];
        Ok((old + new >= SAMPLE).then_some(sample))
    })
    .await
}

/// Waits until the servers see about this share at the canary: the success rate there.
pub(crate) async fn until_share(
    mesh: &Mesh,
    [stable, canary]: [&'static str; 2],
    wanted: u64,
) -> anyhow::Result<f64> {
    let wanted = wanted as f64;
    // Five standard deviations; none at the ends.
    let most = 5.0 * (wanted * (100.0 - wanted) / SAMPLE as f64).sqrt();
    let begin = Instant::now();
    loop {
        let [share, success] = sample(mesh, stable, canary).await?;
        if (share - wanted).abs() <= most {
            return Ok(success);
        }
        anyhow::ensure!(
            begin.elapsed() < CHANGE,
            "{share:.1} % of requests at {canary} instead of {wanted} %"
        );
    }
}

/// One request of a client of its own.
pub(crate) async fn ask(mesh: &Mesh, headers: &[(&str, &str)], id: &str) -> anyhow::Result<Answer> {
    let mut request = http::Request::builder()
        .method(Method::GET)
        .uri("/")
        .header("host", "app")
        .header(ID, id);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(http_body_util::Full::default())?;
    let mut client = Http1::connect(&mesh.pod("client"), mesh.addr("app", PORT)).await?;
    client.request(request).await
}

/// A step, and how long its status was waited for.
async fn accepted(cx: &Cx, route: &Route, step: &str) -> anyhow::Result<()> {
    let took = route.accepted(CHANGE).await;
    let took = took.with_context(|| format!("{step}: never accepted"))?;
    cx.measured(format!("{step}: accepted after {took:.1?}"));
    Ok(())
}

fn flagger(cluster: &Cluster, mesh: &Mesh, analysis: Analysis) -> Flagger {
    let client = cluster.client.clone();
    Flagger::new(client, mesh.namespace(), ("app", PORT), analysis)
}

const FLAGGERS: [&str; 2] = ["app-primary", "app-canary"];

/// Begins a canary of Flagger's with everything at the primary.
async fn begin(cx: &Cx, mesh: &Mesh, flagger: &Flagger) -> anyhow::Result<()> {
    flagger.initialize().await?;
    accepted(cx, &flagger.route, "initialized").await?;
    assert_eq!(flagger.weights().await?, [100, 0]);
    until_share(mesh, [OLD, NEW], 0).await?;
    Ok(())
}

async fn flagger_promotes(cx: Cx) -> anyhow::Result<()> {
    on(cx, FLAGGERS, async |cx, cluster, mesh| {
        let flagger = flagger(cluster, mesh, Analysis::Weights);
        let load = start_load(mesh);
        begin(cx, mesh, &flagger).await?;
        let steps: &[u64] = if cx.soak {
            &[10, 20, 30, 40, 50]
        } else {
            &[10, 30, 50]
        };
        for weight in steps.iter().copied() {
            flagger.step([100 - weight, weight]).await?;
            accepted(cx, &flagger.route, &format!("{weight} %")).await?;
            assert_eq!(flagger.weights().await?, [100 - weight, weight]);
            let success = until_share(mesh, [OLD, NEW], weight).await?;
            assert!(success >= ENOUGH, "{success:.1} % at {weight} %");
        }
        let placeholders = [
            ("{{ namespace }}", mesh.namespace()),
            ("{{ target }}", "app"),
        ];
        recipes::assert_selected(mesh, "flagger/metrics.yaml", &placeholders).await?;
        // The new version becomes the primary; then the canary gets nothing any more.
        mesh.set_endpoints("app-primary", [PROMOTED])?;
        until_share(mesh, [PROMOTED, NEW], 50).await?;
        flagger.step([100, 0]).await?;
        accepted(cx, &flagger.route, "promoted").await?;
        until_share(mesh, [PROMOTED, NEW], 0).await?;
        let old = Since::now(mesh, OLD).await?;
        sample(mesh, PROMOTED, NEW).await?;
        assert_eq!(old.look().await?.0, 0, "the old version is out");
        let report = load.stop().await;
        let seen = stats(mesh, [OLD, NEW, PROMOTED]).await?;
        assert_all_served_once(&report, &seen);
        Ok(())
    })
    .await
}

/// Makes every second request at the new version fail.
async fn spoil(mesh: &Mesh) -> anyhow::Result<()> {
    let bad = Behavior {
        status: 503,
        status_percent: 50.0,
        ..Behavior::default()
    };
    mesh.app(NEW).behave(&bad).await
}

/// Failures came from the new version alone, and no other.
async fn assert_only_the_new_failed(mesh: &Mesh, report: &Report) -> anyhow::Result<()> {
    let failed = async |app: &str| {
        let statuses = mesh.app(app).stats().await?.statuses;
        let failed = statuses.iter().filter(|(code, _)| **code >= 500);
        anyhow::Ok(failed.map(|(_, count)| count).sum::<u64>())
    };
    assert!(failed(NEW).await? > 0, "the canary was bad");
    assert_eq!(failed(OLD).await?, 0, "and nothing else");
    let answered: u64 = report
        .statuses
        .iter()
        .filter(|(code, _)| **code >= 500)
        .map(|(_, n)| n)
        .sum();
    assert!(
        answered <= failed(NEW).await?,
        "{answered} failures at the clients"
    );
    Ok(())
}

async fn flagger_rolls_back(cx: Cx) -> anyhow::Result<()> {
    on(cx, FLAGGERS, async |cx, cluster, mesh| {
        let flagger = flagger(cluster, mesh, Analysis::Weights);
        let load = start_load(mesh);
        begin(cx, mesh, &flagger).await?;
        flagger.step([90, 10]).await?;
        accepted(cx, &flagger.route, "10 %").await?;
        let success = until_share(mesh, [OLD, NEW], 10).await?;
        assert!(success >= ENOUGH, "{success:.1} %");
        spoil(mesh).await?;
        flagger.step([70, 30]).await?;
        accepted(cx, &flagger.route, "30 %").await?;
        let success = until_share(mesh, [OLD, NEW], 30).await?;
        assert!(success < ENOUGH, "{success:.1} % is found out");
        flagger.step([100, 0]).await?;
        accepted(cx, &flagger.route, "rolled back").await?;
        until_share(mesh, [OLD, NEW], 0).await?;
        // And from now on all is well.
        let report = load.stop().await;
        assert_only_the_new_failed(mesh, &report).await?;
        let load = start_load(mesh);
        until_share(mesh, [OLD, NEW], 0).await?;
        assert_no_failure(&load.stop().await);
        Ok(())
    })
    .await
}

/// Requests with a header, exactly or by expression, are at the canary, and no others.
async fn flagger_by_header(cx: Cx) -> anyhow::Result<()> {
    on(cx, FLAGGERS, async |cx, cluster, mesh| {
        let headers = json!([
            {"type": "Exact", "name": "x-user", "value": "insider"},
            {"type": "RegularExpression", "name": "user-agent", "value": ".*Firefox.*"},
        ]);
        let flagger = flagger(cluster, mesh, Analysis::Headers(headers));
        let load = start_load(mesh);
        begin(cx, mesh, &flagger).await?;
        flagger.step([0, 100]).await?;
        accepted(cx, &flagger.route, "by header").await?;
        let insider = [("x-user", "insider"), ("user-agent", "A Firefox of 2026")];
        let cases = [
            (&insider[..], NEW),
            (&insider[..1], OLD),
            (&insider[1..], OLD),
        ];
        wait_for("the rule", CHANGE, async || {
            let answer = ask(mesh, &insider, "first").await?;
            Ok((answer.served_by() == Some(NEW)).then_some(()))
        })
        .await?;
        for (number, (headers, wanted)) in cases.into_iter().enumerate() {
            let id = format!("chosen-{number}");
            ask(mesh, headers, &id).await?;
            let seen = mesh.app(wanted).stats().await?;
            assert_eq!(seen.ids.get(&id), Some(&1), "{headers:?} at {wanted}");
        }
        until_share(mesh, [OLD, NEW], 0).await?;
        flagger.step([100, 0]).await?;
        accepted(cx, &flagger.route, "ended").await?;
        wait_for("no rule", CHANGE, async || {
            let answer = ask(mesh, &insider, "last").await?;
            Ok((answer.served_by() == Some(OLD)).then_some(()))
        })
        .await?;
        assert_no_failure(&load.stop().await);
        Ok(())
    })
    .await
}

/// Whoever was at the canary has a cookie from then on, and stays there.
async fn flagger_by_cookie(cx: Cx) -> anyhow::Result<()> {
    on(cx, FLAGGERS, async |cx, cluster, mesh| {
        let analysis = Analysis::Affinity("flagger".to_owned(), "token".to_owned());
        let flagger = flagger(cluster, mesh, analysis);
        let load = start_load(mesh);
        begin(cx, mesh, &flagger).await?;
        flagger.step([70, 30]).await?;
        accepted(cx, &flagger.route, "30 %").await?;
        until_share(mesh, [OLD, NEW], 30).await?;
        let mut at_canary = 0;
        for number in 0..40 {
            let answer = ask(mesh, &[], &format!("fresh-{number}")).await?;
            let cookie = answer.header("set-cookie");
            assert_eq!(
                cookie.is_some(),
                answer.served_by() == Some(NEW),
                "{answer:?}"
            );
            let Some(cookie) = cookie.and_then(|cookie| cookie.split(';').next()) else {
                continue;
            };
            at_canary += 1;
            for visit in 0..3 {
                let cookie = format!("a=b; {cookie}; c=d");
                let id = format!("known-{number}-{visit}");
                ask(mesh, &[("cookie", &cookie)], &id).await?;
                assert_eq!(mesh.app(NEW).stats().await?.ids.get(&id), Some(&1), "{id}");
            }
        }
        assert!(at_canary > 0, "of 40, 12 are expected there");
        flagger.step([100, 0]).await?;
        accepted(cx, &flagger.route, "ended").await?;
        until_share(mesh, [OLD, NEW], 0).await?;
        assert_no_failure(&load.stop().await);
        Ok(())
    })
    .await
}

/// The canary gets copies, and its answers reach nobody.
async fn flagger_by_copies(cx: Cx) -> anyhow::Result<()> {
    on(cx, FLAGGERS, async |cx, cluster, mesh| {
        let flagger = flagger(cluster, mesh, Analysis::Mirror);
        let load = start_load(mesh);
        begin(cx, mesh, &flagger).await?;
        spoil(mesh).await?;
        flagger.step([100, 100]).await?;
        accepted(cx, &flagger.route, "copies").await?;
        wait_for("copies", CHANGE, async || {
            let copies = mesh.app(NEW).stats().await?.copies;
            let copies: u64 = copies.values().sum();
            Ok((copies > 100).then_some(()))
        })
        .await?;
        flagger.step([100, 0]).await?;
        accepted(cx, &flagger.route, "ended").await?;
        wait_for("no copies", CHANGE, async || {
            let copies = Since::now(mesh, NEW).await?;
            sample(mesh, OLD, NEW).await?;
            Ok((copies.look().await?.0 == 0).then_some(()))
        })
        .await?;
        let report = load.stop().await;
        assert_all_served_once(&report, &stats(mesh, [OLD]).await?);
        Ok(())
    })
    .await
}

const ARGOS: [&str; 2] = ["app-stable", "app-new"];

/// A rollout whose route its owner wrote, everything being at the stable version.
async fn roll_out(cx: &Cx, cluster: &Cluster, mesh: &Mesh) -> anyhow::Result<Rollout> {
    let rollout = Rollout::new(cluster.client.clone(), mesh.namespace(), "app", ARGOS);
    let parent = json!({"group": "core", "kind": "Service", "name": "app", "port": PORT});
    rollout.create_route(&parent, PORT).await?;
    rollout.select(ARGOS[0], "old").await?;
    rollout.select(ARGOS[1], "new").await?;
    rollout.set_weight(0).await?;
    accepted(cx, &rollout.route, "0 %").await?;
    until_share(mesh, [OLD, NEW], 0).await?;
    Ok(rollout)
}

async fn argo_promotes(cx: Cx) -> anyhow::Result<()> {
    on(cx, ARGOS, async |cx, cluster, mesh| {
        let load = start_load(mesh);
        let rollout = roll_out(cx, cluster, mesh).await?;
        let chosen = json!([{"type": "Exact", "name": "x-canary", "value": "always"}]);
        rollout.set_header_route(&chosen).await?;
        accepted(cx, &rollout.route, "by header").await?;
        let header = [("x-canary", "always")];
        wait_for("the managed rule", CHANGE, async || {
            let answer = ask(mesh, &header, "first").await?;
            Ok((answer.served_by() == Some(NEW)).then_some(()))
        })
        .await?;
        for weight in [20, 50] {
            rollout.set_weight(weight).await?;
            accepted(cx, &rollout.route, &format!("{weight} %")).await?;
            assert_eq!(rollout.weights().await?, [100 - weight, weight]);
            let success = until_share(mesh, [OLD, NEW], weight).await?;
            assert!(success >= ENOUGH, "{success:.1} % at {weight} %");
            // The rule for the header is the tool's, whatever the weight.
            let id = format!("chosen-at-{weight}");
            ask(mesh, &header, &id).await?;
            assert_eq!(mesh.app(NEW).stats().await?.ids.get(&id), Some(&1), "{id}");
        }
        let placeholders = [
            ("{{args.namespace}}", mesh.namespace()),
            ("{{args.service}}", "app"),
            ("{{args.canary}}", ARGOS[1]),
        ];
        recipes::assert_selected(mesh, "argo-rollouts/analysis.yaml", &placeholders).await?;
        rollout.remove_managed_routes().await?;
        rollout.set_weight(100).await?;
        accepted(cx, &rollout.route, "100 %").await?;
        until_share(mesh, [OLD, NEW], 100).await?;
        // The stable service means the new pods, and its slices follow; then it gets everything again.
        rollout.select(ARGOS[0], "new").await?;
        mesh.set_endpoints(ARGOS[0], [PROMOTED])?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        rollout.set_weight(0).await?;
        accepted(cx, &rollout.route, "promoted").await?;
        until_share(mesh, [PROMOTED, NEW], 0).await?;
        let old = Since::now(mesh, OLD).await?;
        sample(mesh, PROMOTED, NEW).await?;
        assert_eq!(old.look().await?.0, 0, "the old version is out");
        let report = load.stop().await;
        assert_no_failure(&report);
        let seen = stats(mesh, [OLD, NEW, PROMOTED]).await?;
        assert_eq!(seen.repeated_ids(), 0, "requests that servers saw twice");
        Ok(())
    })
    .await
}

async fn argo_aborts(cx: Cx) -> anyhow::Result<()> {
    on(cx, ARGOS, async |cx, cluster, mesh| {
        let load = start_load(mesh);
        let rollout = roll_out(cx, cluster, mesh).await?;
        let chosen = json!([{"type": "RegularExpression", "name": "x-canary", "value": "al.*"}]);
        rollout.set_header_route(&chosen).await?;
        rollout.set_weight(20).await?;
        accepted(cx, &rollout.route, "20 %").await?;
        until_share(mesh, [OLD, NEW], 20).await?;
        spoil(mesh).await?;
        rollout.set_weight(40).await?;
        accepted(cx, &rollout.route, "40 %").await?;
        let success = until_share(mesh, [OLD, NEW], 40).await?;
        assert!(success < ENOUGH, "{success:.1} % is found out");
        rollout.remove_managed_routes().await?;
        rollout.set_weight(0).await?;
        accepted(cx, &rollout.route, "aborted").await?;
        assert_eq!(rollout.weights().await?, [100, 0]);
        until_share(mesh, [OLD, NEW], 0).await?;
        let report = load.stop().await;
        assert_only_the_new_failed(mesh, &report).await?;
        let canary = Since::now(mesh, NEW).await?;
        for number in 0..5 {
            let id = format!("aborted-{number}");
            let answer = ask(mesh, &[("x-canary", "always")], &id).await?;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.served_by(), Some(OLD), "{answer:?}");
        }
        assert_eq!(canary.look().await?.0, 0, "nobody is at the canary");
        Ok(())
    })
    .await
}
