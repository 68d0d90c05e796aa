//! `fallback`: what clients get while their service cannot answer, and what servers see of it.

use std::time::Duration;

use http::Method;
use weft_sandbox::app::Behavior;
use weft_sandbox::load::Load;

use crate::Suite;
use crate::common::{
    Cx, PORT, assert_accounted, client_and, http_app, metrics, policy, request, send, service,
    stats, wait_for,
};

const THRESHOLD: u64 = 3;
/// What the server would take.
const SLOW: Duration = Duration::from_millis(400);

pub(crate) fn register(suite: &mut Suite) {
    suite.add("fallback::an_open_breaker_is_answered_for", response);
    suite.add("fallback::an_answer_costs_next_to_nothing", quick);
    suite.add("fallback::another_backend_serves", backend);
}

/// While the breaker is open, clients get the configured JSON and the server sees nothing.
async fn response(cx: Cx) -> anyhow::Result<()> {
    let stanzas = format!(
        "retries: {{attempts: 0}}, circuitBreaker: {{scope: Backend, openDuration: 60s, \
         consecutiveFailures: {{threshold: {THRESHOLD}}}}}, fallback: {{triggers: [CircuitOpen], \
         response: {{status: 503, contentType: application/json, body: '{{\"success\":false}}', \
         headers: [{{name: retry-after, value: '5'}}]}}}}"
    );
    let builder = client_and("fallback", ["api-1"]).policy(&policy("fallback", "api", &stanzas));
    cx.on(builder, async |mesh| {
        mesh.app("api-1").behave(&Behavior::status(500)).await?;
        let client = mesh.pod("client");
        let all = cx.pick(50, 500);
        let mut fallbacks = 0;
        for number in 0..all {
            let get = request(Method::GET, "/", &format!("get-{number}"), "");
            let answer = send(&client, mesh.addr("api", PORT), get).await?;
            if answer.status == 500 {
                continue;
            }
            assert_eq!(answer.status, 503, "{}", answer.text());
            assert_eq!(answer.text(), "{\"success\":false}");
            let header = |name: &str| answer.headers.get(name).map(http::HeaderValue::as_bytes);
            assert_eq!(header("content-type"), Some(&b"application/json"[..]));
            assert_eq!(header("retry-after"), Some(&b"5"[..]));
            assert_eq!(header("x-weft-fallback"), Some(&b"true"[..]));
            assert_eq!(header("x-weft-outcome"), Some(&b"circuit_open"[..]));
            fallbacks += 1;
        }
        assert_eq!(fallbacks, all - THRESHOLD);
        let seen = stats(mesh, ["api-1"]).await?;
        assert_eq!(seen.requests, THRESHOLD, "seen by the server");
        let metrics = metrics(mesh, "client").await?;
        let labels = [("direction", "outbound"), ("outcome", "circuit_open")];
        assert_eq!(
            metrics.sum("weft_requests_total", &labels),
            fallbacks as f64
        );
        cx.measured(format!("{fallbacks} of {all} answered by the fallback"));
        Ok(())
    })
    .await
}

/// "A fallback JSON 503 answered in under 1 ms of proxy time while open": the proxy's own time is
/// asserted beside its code; here a client sees it through real sockets on a busy machine, while its
/// server would take much longer, and is not asked.
async fn quick(cx: Cx) -> anyhow::Result<()> {
    let stanzas = "retries: {attempts: 0}, circuitBreaker: {scope: Backend, openDuration: 60s, \
         consecutiveFailures: {threshold: 1}}, fallback: {triggers: [CircuitOpen], \
         response: {status: 503, contentType: application/json, body: '{\"success\":false}'}}";
    let builder = client_and("quick", ["api-1"]).policy(&policy("fallback", "api", stanzas));
    cx.on(builder, async |mesh| {
        let behavior = Behavior {
            latency_ms: SLOW.as_millis() as u64,
            ..Behavior::status(500)
        };
        mesh.app("api-1").behave(&behavior).await?;
        let all = cx.pick(1_000, 20_000);
        let load = Load::new(mesh.addr("api", PORT)).requests(all + 1);
        let report = load.run(&mesh.pod("client")).await;
        assert_accounted(&report);
        assert_eq!((report.status(500), report.status(503)), (1, all));
        assert_eq!(report.outcomes["circuit_open"], all);
        assert_eq!(
            stats(mesh, ["api-1"]).await?.requests,
            1,
            "seen by the server"
        );
        let (median, p99) = (report.latency(0.5), report.latency(0.99));
        cx.measured(format!("median {median:.0?}, p99 {p99:.0?} of {all}"));
        assert!(median < Duration::from_millis(5), "{median:?}");
        assert!(p99 < SLOW / 4, "{p99:?}");
        Ok(())
    })
    .await
}

/// While a service has no endpoint, another one serves its requests; afterwards it does so itself.
async fn backend(cx: Cx) -> anyhow::Result<()> {
    let builder = client_and("spare", ["api-1"])
        .workload(http_app("spare-1"))
        .service(service("spare", ["spare-1"]))
        .policy(&policy(
            "fallback",
            "api",
            "fallback: {triggers: [NoEndpoints], backend: {name: spare}}",
        ));
    cx.on(builder, async |mesh| {
        let client = mesh.pod("client");
        let post = async |id: &str| {
            let post = request(Method::POST, "/orders", id, "one book");
            send(&client, mesh.addr("api", PORT), post).await
        };
        assert_eq!(post("before").await?.served_by(), Some("api-1"));
        mesh.set_endpoints::<&str>("api", [])?;
        let mut number = 0;
        wait_for("the fallback", Duration::from_secs(10), async || {
            number += 1;
            let answer = post(&format!("wait-{number}")).await?;
            assert_eq!(answer.status, 200, "{}", answer.text());
            Ok((answer.served_by() == Some("spare-1")).then_some(()))
        })
        .await?;
        mesh.app("spare-1").reset_stats().await?;
        mesh.app("api-1").reset_stats().await?;
        for number in 0..20 {
            let answer = post(&format!("during-{number}")).await?;
            assert_eq!(answer.served_by(), Some("spare-1"), "{}", answer.text());
            assert!(answer.headers.contains_key("x-weft-fallback"));
        }
        let spare = stats(mesh, ["spare-1"]).await?;
        assert_eq!((spare.requests, spare.repeated_ids()), (20, 0));
        assert_eq!(stats(mesh, ["api-1"]).await?.requests, 0);
        Ok(())
    })
    .await
}
