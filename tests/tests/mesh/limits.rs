//! How many requests a service's sidecars let through, counted at the server.

use std::time::{Duration, Instant};

use http::Method;
use weft_sandbox::Workload;
use weft_sandbox::load::{Load, Report, Shot};

use crate::Suite;
use crate::common::{
    Cx, PORT, assert_accounted, assert_no_failure, client_and, http_app, mesh, metrics, policy,
    request, send, service, stats,
};

const RATE: f64 = 20.0;
const BURST: f64 = 40.0;

pub(crate) fn register(suite: &mut Suite) {
    suite.add("limits::each_caller_has_its_rate", each_caller);
    suite.add("limits::a_rule_has_its_own_count", by_rule);
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

/// The first rule that matches decides what counts a request, at the server: each rule has its burst and
/// nothing more, over an edit of something else too, and what no rule limits passes.
async fn by_rule(cx: Cx) -> anyhow::Result<()> {
    // Rates far below the bursts, so that what passes is nearly the burst.
    let limit = "requestsPerSecond: 1, burst";
    let rules = format!(
        "rules: [\
         {{name: free, matches: [{{path: {{value: /orders/free}}}}], rateLimit: {{requestsPerSecond: 100000}}}}, \
         {{name: export, matches: [{{path: {{value: /orders/export}}, method: POST}}], \
          rateLimit: {{{limit}: 20}}}}, \
         {{name: slow, matches: [{{path: {{value: /other}}}}], timeouts: {{request: 10s}}}}]"
    );
    let stanzas = format!("rateLimit: {{{limit}: 50}}, retries: {{attempts: 0}}, {rules}");
    let builder = client_and("ruled", ["api-1"]).policy(&policy("ruled", "api", &stanzas));
    cx.on(builder, async |mesh| {
        let (client, to) = (mesh.pod("client"), mesh.addr("api", PORT));
        let began = Instant::now();
        let flood = async |shot: Shot| Load::new(to).requests(150).shot(shot).run(&client).await;
        let free = flood(Shot::get("/orders/free")).await;
        let export = flood(Shot::post("/orders/export", 10)).await;
        let other = flood(Shot::get("/other")).await;
        // The inherited count is one, and used up.
        let get_export = flood(Shot::get("/orders/export")).await;
        assert_no_failure(&free);
        // The rule's count survives an edit of the rest of the policy.
        let edited = format!("{stanzas}, mtls: {{mode: Strict}}");
        mesh.apply_policy("ruled", &policy("ruled", "api", &edited))?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let again = flood(Shot::post("/orders/export", 10)).await;
        // What has come back meanwhile.
        let refilled = began.elapsed().as_secs() + 1;

        let seen = stats(mesh, ["api-1"]).await?;
        let of = |route: &str| seen.routes.get(route).copied().unwrap_or_default();
        assert_eq!(of("GET /orders/free"), 150);
        let export_seen = of("POST /orders/export");
        assert_eq!(export_seen, export.status(200) + again.status(200));
        assert!((20..=20 + refilled).contains(&export_seen), "{export_seen}");
        let rest = of("GET /other") + of("GET /orders/export");
        assert_eq!(rest, other.status(200) + get_export.status(200));
        assert!((50..=50 + refilled).contains(&rest), "{rest}");
        cx.measured(format!(
            "{export_seen} of 20 and {rest} of 50 in {refilled} s"
        ));
        for report in [&export, &other, &get_export, &again] {
            assert_accounted(report);
            assert_eq!(report.status(200) + report.status(429), report.sent);
        }
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
