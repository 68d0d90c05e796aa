//! How many requests a service's sidecars let through, counted at the server.

use std::time::{Duration, Instant};

use http::Method;
use weft_sandbox::Workload;
use weft_sandbox::load::{Load, Report};

use crate::Suite;
use crate::common::{
    Cx, PORT, assert_accounted, assert_no_failure, http_app, mesh, metrics, policy, request, send,
    service, stats,
};

const RATE: f64 = 20.0;
const BURST: f64 = 40.0;

pub(crate) fn register(suite: &mut Suite) {
    suite.add("limits::each_caller_has_its_rate", each_caller);
}

/// A caller that floods a service gets its burst and its rate, also over an edit of something else in
/// the policy; the rest is answered 429 and never seen by the application, and is not tried again. A
/// caller that keeps to the rate notices nothing of it.
async fn each_caller(cx: Cx) -> anyhow::Result<()> {
    let limit = format!(
        "rateLimit: {{requestsPerSecond: {RATE}, burst: {BURST}, key: ClientIdentity}}, \
         retries: {{statusCodes: [502, 503, 504]}}"
    );
    let caller = |name: &str| Workload::new(name).service_account(name);
    let builder = mesh("limits")
        .workload(caller("eager"))
        .workload(caller("polite"))
        .workload(http_app("api-1"))
        .service(service("api", ["api-1"]))
        .named_policy("api", &policy("api", "api", &limit));
    cx.on(builder, async |mesh| {
        let lasting = cx.pick(Duration::from_secs(3), Duration::from_secs(30));
        let to = mesh.addr("api", PORT);
        let load = |prefix: &str| Load::new(to).duration(lasting).id_prefix(prefix);
        let (eager, polite) = (mesh.pod("eager"), mesh.pod("polite"));
        let edited = policy("api", "api", &format!("{limit}, mtls: {{mode: Strict}}"));
        let edit = async {
            tokio::time::sleep(lasting / 2).await;
            mesh.apply_policy("api", &edited)
        };

        let began = Instant::now();
        let flood = load("eager").clients(4).rate(200.0);
        let (flood, kept, edited) = tokio::join!(
            flood.run(&eager),
            load("polite").rate(RATE / 2.0).run(&polite),
            edit,
        );
        let took = began.elapsed().as_secs_f64();
        edited?;

        assert_no_failure(&kept);
        let seen = stats(mesh, ["api-1"]).await?;
        check_flood(&cx, &flood, took, lasting.as_secs_f64());
        assert_eq!(seen.repeated_ids(), 0);
        let let_through = seen.ids.keys().filter(|id| id.starts_with("eager"));
        assert_eq!(let_through.count() as u64, flood.status(200));
        assert_eq!(seen.requests, flood.status(200) + kept.sent);
        // Each refusal was one request at the server's sidecar too.
        let counted = metrics(mesh, "api-1").await?;
        let labels = [
            ("direction", "inbound"),
            ("outcome", "rate_limited"),
            ("peer", "default/eager"),
        ];
        let refused = counted.sum("weft_requests_total", &labels);
        assert_eq!(refused as u64, flood.status(429));

        // What a caller is told, and that waiting for it helps.
        let answer = loop {
            let answer = send(&eager, to, request(Method::POST, "/", "probe", "x")).await?;
            if answer.status != 200 {
                break answer;
            }
        };
        assert_eq!(answer.status, 429, "{}", answer.text());
        assert_eq!(answer.outcome(), Some("rate_limited"));
        assert_eq!(answer.headers["x-weft-origin"], "inbound");
        assert_eq!(answer.headers["retry-after"], "1");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let answer = send(&eager, to, request(Method::POST, "/", "later", "x")).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        Ok(())
    })
    .await
}

/// Burst and rate, no more and not much less; everything else is told so.
fn check_flood(cx: &Cx, flood: &Report, took: f64, lasting: f64) {
    assert_accounted(flood);
    assert_eq!(flood.failed, 0, "{:?}", flood.failures);
    let passed = flood.status(200) as f64;
    let (most, least) = (BURST + RATE * took, BURST + RATE * lasting * 0.8);
    cx.measured(format!(
        "{passed} of {} passed in {took:.2} s, at most {most:.1}",
        flood.sent
    ));
    assert!(passed <= most + 1.0, "{passed} passed, {most:.1} may");
    assert!(passed >= least, "{passed} passed, {least:.1} should");
    assert_eq!(flood.not_ok(), flood.status(429));
    assert_eq!(flood.outcomes.len(), 1);
    assert_eq!(flood.outcomes["rate_limited"], flood.status(429));
}
