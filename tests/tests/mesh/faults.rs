//! `faultInjection`: failures that policy asks for, as clients see them and servers do not.

use std::time::{Duration, Instant};

use http::{HeaderValue, Method};
use weft_sandbox::app::echo::EchoRequest;
use weft_sandbox::load::Load;

use crate::Suite;
use crate::common::{
    Cx, PORT, assert_accounted, assert_untouched, client_and, metrics, percent, policy, request,
    send, stats,
};

const DELAY: Duration = Duration::from_millis(300);

pub(crate) fn register(suite: &mut Suite) {
    suite.add("faults::aborted_requests_never_reach_the_server", aborts);
    suite.add("faults::only_requests_with_the_headers_are_meant", headers);
    suite.add("faults::grpc_callers_get_their_status", grpc);
}

/// A share of the requests is answered by the client's sidecar, the server sees all others once, and
/// what is delayed arrives later.
async fn aborts(cx: Cx) -> anyhow::Result<()> {
    let stanzas = format!(
        "retries: {{attempts: 2}}, faultInjection: {{abort: {{httpStatus: 503, percent: 30}}}}, \
         rules: [{{name: slow, matches: [{{headers: [{{name: x-chaos, value: slow}}]}}], \
         faultInjection: {{delay: {{duration: {}ms}}}}}}]",
        DELAY.as_millis()
    );
    let builder = client_and("faults", ["api-1"]).policy(&policy("faults", "api", &stanzas));
    cx.on(builder, async |mesh| {
        let client = mesh.pod("client");
        let wanted = cx.pick(1_000, 20_000);
        let load = Load::new(mesh.addr("api", PORT))
            .clients(4)
            .requests(wanted);
        let report = load.run(&client).await;
        assert_accounted(&report);
        let injected = report.outcomes.get("fault_injected").copied().unwrap_or(0);
        let share = percent(injected, report.sent);
        assert!((24.0..36.0).contains(&share), "{share} % of 30 %");
        assert_eq!(report.status(503), injected);
        assert_eq!(report.not_ok(), injected, "{:?}", report.outcomes);
        let seen = stats(mesh, ["api-1"]).await?;
        assert_eq!(seen.requests, report.sent - injected, "seen by the server");
        assert_eq!(seen.repeated_ids(), 0, "a fault is not retried");
        let metrics = metrics(mesh, "client").await?;
        let labels = [("direction", "outbound"), ("outcome", "fault_injected")];
        assert_eq!(metrics.sum("weft_requests_total", &labels), injected as f64);

        let mut slow = request(Method::GET, "/", "slow", "");
        slow.headers_mut()
            .insert("x-chaos", HeaderValue::from_static("slow"));
        let begun = Instant::now();
        let answer = send(&client, mesh.addr("api", PORT), slow).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(begun.elapsed() >= DELAY, "only {:?}", begun.elapsed());
        cx.measured(format!(
            "{injected} of {} requests aborted, {} seen by the server",
            report.sent, seen.requests
        ));
        Ok(())
    })
    .await
}

/// Fault headers are a condition by all of them; what is delayed reaches the server, once.
async fn headers(cx: Cx) -> anyhow::Result<()> {
    // No request takes so long by itself.
    const LONG: Duration = Duration::from_secs(1);
    let stanzas = format!(
        "faultInjection: {{headers: [{{name: x-chaos, value: '1'}}, {{name: x-team, type: Prefix, value: a}}], \
         delay: {{duration: {}ms}}, abort: {{httpStatus: 429, percent: 0}}}}",
        LONG.as_millis()
    );
    let builder = client_and("conditions", ["api-1"]).policy(&policy("faults", "api", &stanzas));
    cx.on(builder, async |mesh| {
        let client = mesh.pod("client");
        for (number, (chaos, team, slow)) in [
            ("1", "ab", true),
            ("1", "b", false),
            ("2", "ab", false),
            ("", "", false),
        ]
        .into_iter()
        .enumerate()
        {
            let id = format!("call-{number}");
            let mut get = request(Method::GET, "/", &id, "");
            for (name, value) in [("x-chaos", chaos), ("x-team", team)] {
                let value = HeaderValue::from_static(value);
                get.headers_mut().insert(name, value);
            }
            let begun = Instant::now();
            let answer = send(&client, mesh.addr("api", PORT), get).await?;
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(begun.elapsed() >= LONG, slow, "{id}: {:?}", begun.elapsed());
            assert_eq!(stats(mesh, ["api-1"]).await?.ids[&id], 1);
        }
        Ok(())
    })
    .await
}

/// `grpcCode` for gRPC callers, 503 for others; the server sees neither.
async fn grpc(cx: Cx) -> anyhow::Result<()> {
    let stanzas = "faultInjection: {abort: {grpcCode: RESOURCE_EXHAUSTED}}";
    let builder = client_and("grpc-fault", ["api-1"]).policy(&policy("faults", "api", stanzas));
    cx.on(builder, async |mesh| {
        let (client, to) = (mesh.pod("client"), mesh.addr("api", PORT));
        let mut echo = client.echo_client(to, "api").await?;
        let status = echo.unary(EchoRequest::default()).await;
        let status = status.expect_err("every call is aborted");
        assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status:?}");
        let answer = send(&client, to, request(Method::GET, "/", "plain", "")).await?;
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert_eq!(answer.outcome(), Some("fault_injected"));
        assert_untouched(&stats(mesh, ["api-1"]).await?);
        Ok(())
    })
    .await
}
