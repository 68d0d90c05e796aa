//! What is tried again and what never is, counted at the server.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use weft_sandbox::app::Behavior;
use weft_sandbox::load::{Load, Report, Shot};
use weft_sandbox::mesh::Endpoint;
use weft_sandbox::{Mesh, Pod};

use crate::Suite;
use crate::common::{
    APP_PORT, Cx, PORT, assert_accounted, assert_all_served_once, client_and, metrics, policy,
    request, send, stats,
};

const APPS: [&str; 2] = ["api-1", "api-2"];
/// The policy's, and the resource's defaults.
const ATTEMPTS: u64 = 2;
const BUDGET_PERCENT: f64 = 20.0;
const BUDGET_FLOOR: f64 = 10.0;

pub(crate) fn register(suite: &mut Suite) {
    suite.add(
        "retries::a_post_is_not_repeated_once_it_may_have_been_processed",
        post,
    );
    suite.add("retries::an_idempotency_key_allows_it", idempotency_key);
    suite.add(
        "retries::a_request_never_written_goes_elsewhere",
        never_written,
    );
    suite.add(
        "retries::a_request_refused_by_the_app_goes_elsewhere",
        refused_by_app,
    );
    suite.add(
        "retries::a_dead_service_that_answers_503_is_not_flooded",
        dead_503,
    );
    suite.add(
        "retries::a_dead_service_that_closes_is_not_flooded",
        dead_closing,
    );
    suite.add(
        "retries::a_dead_service_that_refuses_is_not_flooded",
        dead_refusing,
    );
}

/// "POST with a body is not repeated after it may have been processed (the server counts)": the
/// server reads the request and then closes, resets, answers 503, or says nothing until the try's
/// time is over. A GET in the same place is tried again, with the same policy.
async fn post(cx: Cx) -> anyhow::Result<()> {
    cx.on(retrying("post", APPS), async |mesh| {
        let once = |change: fn(&mut Behavior)| {
            let mut behavior = Behavior::default();
            change(&mut behavior);
            behavior
        };
        let cases = [
            ("closes", once(|b| b.close_next = 1), 502, Some("reset")),
            ("resets", once(|b| b.reset_next = 1), 502, Some("reset")),
            ("hangs", once(|b| b.hang_next = 1), 504, Some("try_timeout")),
            ("answers-503", once(|b| b.fail_next = 1), 503, None),
        ];
        let (client, to) = (mesh.pod("client"), mesh.addr("api", PORT));
        warm_up(mesh).await;
        for (name, behavior, status, outcome) in cases {
            behave(mesh, &behavior).await?;
            let id = format!("post-{name}");
            let answer = send(
                &client,
                to,
                request(Method::POST, "/orders", &id, "an order"),
            )
            .await?;
            assert_eq!(answer.status, status, "{name}: {}", answer.text());
            assert_eq!(answer.outcome(), outcome, "{name}");
            assert_eq!(
                stats(mesh, APPS).await?.ids[&id],
                1,
                "{name}: a POST was repeated"
            );

            behave(mesh, &behavior).await?;
            let id = format!("get-{name}");
            let answer = send(&client, to, request(Method::GET, "/orders", &id, "")).await?;
            assert_eq!(answer.status, 200, "{name}: {}", answer.text());
            assert_eq!(answer.outcome(), None, "{name}");
            let tries = stats(mesh, APPS).await?.ids[&id];
            assert!((2..=3).contains(&tries), "{name}: {tries} tries of a GET");
        }
        Ok(())
    })
    .await
}

/// "Everything else needs a method in `methods`, an `Idempotency-Key` header, or an explicit
/// policy": with the header the same POST is repeated, body and all.
async fn idempotency_key(cx: Cx) -> anyhow::Result<()> {
    cx.on(retrying("key", APPS), async |mesh| {
        let behavior = Behavior {
            close_next: 1,
            ..Behavior::default()
        };
        warm_up(mesh).await;
        for app in APPS {
            mesh.app(app).reset_stats().await?;
        }
        behave(mesh, &behavior).await?;
        let mut order = request(Method::POST, "/orders", "keyed", "an order");
        let key = http::HeaderValue::from_static("order-1");
        order.headers_mut().insert("idempotency-key", key);
        let answer = send(&mesh.pod("client"), mesh.addr("api", PORT), order).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let seen = stats(mesh, APPS).await?;
        assert!((2..=3).contains(&seen.ids["keyed"]), "{:?}", seen.ids);
        // Each try brought the whole body.
        assert_eq!(seen.bodies.values().sum::<u64>(), seen.ids["keyed"]);
        assert_eq!(seen.bodies.len(), 1);
        Ok(())
    })
    .await
}

/// "A request never written is retried for any method": half of the endpoints are addresses where
/// nobody listens, and no policy asks for retries; no POST fails, and the server sees each once.
async fn never_written(cx: Cx) -> anyhow::Result<()> {
    cx.on(client_and("unwritten", ["api-1"]), async |mesh| {
        warm_up(mesh).await;
        mesh.app("api-1").reset_stats().await?;
        let nobody = mesh.stranger("nobody")?;
        let dead = Endpoint::Address(IpAddr::V4(nobody.v4()));
        mesh.set_endpoints("api", [Endpoint::from("api-1"), dead])?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let report = posts(mesh, 500).await;
        let retried = retries(mesh, "sent").await?;
        assert!(retried > 0.0, "the dead endpoint was never tried");
        assert_all_served_once(&report, &stats(mesh, ["api-1"]).await?);
        cx.measured(format!(
            "{} POSTs, {retried} retries, none failed",
            report.sent
        ));
        Ok(())
    })
    .await
}

/// "Or refused by the app behind its sidecar": an application is gone while its sidecar lives and
/// still is an endpoint; that sidecar says so, and every POST goes to the other endpoint.
async fn refused_by_app(cx: Cx) -> anyhow::Result<()> {
    cx.on(client_and("refused", APPS), async |mesh| {
        warm_up(mesh).await;
        mesh.app("api-2").reset_stats().await?;
        mesh.kill_app("api-1").await?;
        let report = posts(mesh, 500).await;
        let retried = retries(mesh, "sent").await?;
        assert!(
            retried > 0.0,
            "the endpoint without an application was never tried"
        );
        assert_all_served_once(&report, &stats(mesh, ["api-2"]).await?);
        cx.measured(format!(
            "{} POSTs, {retried} retries, none failed",
            report.sent
        ));

        // With no other endpoint left, the client is told who could not, and why.
        mesh.set_endpoints("api", ["api-1"])?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let order = request(Method::POST, "/orders", "last", "an order");
        let answer = send(&mesh.pod("client"), mesh.addr("api", PORT), order).await?;
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert_eq!(answer.outcome(), Some("connect_refused"));
        Ok(())
    })
    .await
}

/// "Against a dead service upstream tries per sidecar ≤ (1 + percent/100) × requests + floor ×
/// seconds + attempts": here the service answers every request with 503, and counts.
async fn dead_503(cx: Cx) -> anyhow::Result<()> {
    cx.on(retrying("dead503", APPS), async |mesh| {
        behave(mesh, &Behavior::status(503)).await?;
        let dead = Dead::attack(mesh, &cx).await;
        let tries = stats(mesh, APPS).await?.requests;
        dead.check(&cx, mesh, tries).await
    })
    .await
}

/// The same where it accepts every connection and closes it: connections are counted, each of which
/// is one try.
async fn dead_closing(cx: Cx) -> anyhow::Result<()> {
    cx.on(retrying("closing", ["api-1"]), async |mesh| {
        let strangers = [mesh.stranger("closing-1")?, mesh.stranger("closing-2")?];
        let accepted = Arc::new(AtomicU64::new(0));
        for stranger in &strangers {
            close_everything(stranger, Arc::clone(&accepted))?;
        }
        set_addresses(mesh, &strangers)?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let dead = Dead::attack(mesh, &cx).await;
        dead.check(&cx, mesh, accepted.load(Ordering::Relaxed))
            .await
    })
    .await
}

/// The same where nobody listens. The kernel refuses, so that nobody can count but the sidecar.
async fn dead_refusing(cx: Cx) -> anyhow::Result<()> {
    cx.on(retrying("refusing", ["api-1"]), async |mesh| {
        let strangers = [mesh.stranger("nobody-1")?, mesh.stranger("nobody-2")?];
        set_addresses(mesh, &strangers)?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let dead = Dead::attack(mesh, &cx).await;
        let tries = dead.report.sent + retries(mesh, "sent").await? as u64;
        dead.check(&cx, mesh, tries).await
    })
    .await
}

/// A mesh whose policy retries as much as one can ask for.
fn retrying<const N: usize>(name: &str, apps: [&str; N]) -> weft_sandbox::mesh::Builder {
    let stanzas = format!(
        "timeouts: {{perTry: 1s}}, \
         retries: {{attempts: {ATTEMPTS}, \
         conditions: [ConnectFailure, RefusedStream, Reset, PerTryTimeout], \
         statusCodes: [502, 503, 504], methods: [GET, HEAD], backoff: {{base: 1ms, max: 5ms}}}}"
    );
    client_and(name, apps).policy(&policy("retries", "api", &stanzas))
}

async fn behave(mesh: &Mesh, behavior: &Behavior) -> anyhow::Result<()> {
    for app in APPS {
        mesh.app(app).behave(behavior).await?;
    }
    Ok(())
}

/// Half a second of traffic: a retry budget has nothing to spend before there was any.
pub(crate) async fn warm_up(mesh: &Mesh) {
    let report = Load::new(mesh.addr("api", PORT))
        .rate(200.0)
        .requests(100)
        .id_prefix("warm")
        .run(&mesh.pod("client"))
        .await;
    assert_eq!(report.status(200), 100, "{:?}", report.outcomes);
}

async fn posts(mesh: &Mesh, requests: u64) -> Report {
    Load::new(mesh.addr("api", PORT))
        .clients(4)
        .requests(requests)
        .shot(Shot::post("/orders", 200))
        .run(&mesh.pod("client"))
        .await
}

/// Further tries of the client's sidecar, by what became of them.
async fn retries(mesh: &Mesh, result: &str) -> anyhow::Result<f64> {
    let metrics = metrics(mesh, "client").await?;
    Ok(metrics.sum("weft_retries_total", &[("result", result)]))
}

fn set_addresses(mesh: &Mesh, pods: &[Pod]) -> anyhow::Result<()> {
    let addresses = pods.iter().map(|pod| IpAddr::V4(pod.v4()));
    mesh.set_endpoints("api", addresses)
}

/// Accepts and closes, before anything was read, and counts.
fn close_everything(pod: &Pod, accepted: Arc<AtomicU64>) -> anyhow::Result<()> {
    let listener = pod.listen(SocketAddr::new(pod.v4().into(), APP_PORT))?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            accepted.fetch_add(1, Ordering::Relaxed);
            drop(stream);
        }
    });
    Ok(())
}

/// What came of a load on a dead service.
struct Dead {
    report: Report,
    took: Duration,
}

impl Dead {
    async fn attack(mesh: &Mesh, cx: &Cx) -> Self {
        let begin = Instant::now();
        let report = Load::new(mesh.addr("api", PORT))
            .clients(8)
            .requests(cx.pick(2_000, 20_000))
            .run(&mesh.pod("client"))
            .await;
        Self {
            report,
            took: begin.elapsed(),
        }
    }

    /// `tries` as the servers counted them.
    async fn check(&self, cx: &Cx, mesh: &Mesh, tries: u64) -> anyhow::Result<()> {
        let report = &self.report;
        assert_accounted(report);
        assert_eq!(report.failed, 0, "{:?}", report.failures);
        assert_eq!(report.status(200), 0);
        let bound = (1.0 + BUDGET_PERCENT / 100.0) * report.sent as f64
            + BUDGET_FLOOR * self.took.as_secs_f64()
            + ATTEMPTS as f64;
        let (sent, exhausted) = (
            retries(mesh, "sent").await?,
            retries(mesh, "budget_exhausted").await?,
        );
        cx.measured(format!(
            "{tries} tries of {} requests in {:.1?}, at most {bound:.0} allowed; {exhausted} gave up",
            report.sent, self.took
        ));
        assert!(tries as f64 <= bound, "{tries} tries, {bound:.0} allowed");
        assert!(tries > report.sent, "nothing was tried again");
        assert!(exhausted > 0.0, "the budget was never spent");
        assert_eq!(
            tries as f64,
            report.sent as f64 + sent,
            "the sidecar counts otherwise"
        );
        Ok(())
    }
}
