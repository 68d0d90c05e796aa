//! Traces through whole chains of calls, to a collector of the tests' own; and what stays as it is where
//! nobody asked for any.

mod accounts;
mod collector;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use http::{Method, Request};
use http_body_util::Full;
use weft_sandbox::app::http::Seen;
use weft_sandbox::client::{Answer, Http1};
use weft_sandbox::load::{Load, Shot};
use weft_sandbox::{AppSpec, Mesh, Pod, Service, Workload};

use crate::Suite;
use crate::common::{
    APP_PORT, Cx, PORT, assert_all_served_once, assert_no_failure, client_and, http_app, mesh,
    metrics, policy, stats, wait_for,
};
use collector::{Collector, Span};

/// Where the collector listens.
const OTLP: u16 = 4317;
/// A caller's own trace and span.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
/// The workloads that a request passes, and those of their spans in order.
const HOPS: [&str; 6] = ["client", "a-1", "a-1", "b-1", "b-1", "c-1"];
/// Spans that a sidecar keeps for a collector that is away: its queue, and the batch in hand.
const KEPT: u64 = 2_048 + 512;
/// How soon what the control plane was told must hold.
const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) fn register(suite: &mut Suite) {
    suite.add("traces::three_hops_have_the_right_parents", three_hops);
    suite.add("traces::retries_and_refusals_are_told", retries);
    suite.add("traces::a_dead_collector_costs_spans_only", dead_collector);
    suite.add("traces::every_span_is_accounted_for", accounts::accounts);
    suite.add("traces::without_an_endpoint_headers_pass_as_they_are", off);
}

/// Adds workloads that export every trace to the collector, and waits until each of their services has
/// answered the client once, in a trace that nobody samples.
async fn traced(mesh: &Mesh, workloads: &[&str], log: &str) -> anyhow::Result<()> {
    let endpoint = format!("http://{}:{OTLP}", mesh.pod("collector").v4());
    for name in workloads {
        let workload = match *name {
            "client" => Workload::new("client").service_account("client"),
            app => http_app(app).service_account(app.trim_end_matches("-1")),
        };
        let exporting = workload
            .env("WEFT_TRACE_ENDPOINT", &endpoint)
            .env("WEFT_TRACE_SAMPLE", "1")
            .env("WEFT_LOG_LEVEL", log);
        mesh.add_workload(exporting).await?;
        if *name != "client" {
            mesh.set_endpoints(name.trim_end_matches("-1"), [*name])?;
        }
    }
    let client = mesh.pod("client");
    for app in workloads.iter().filter(|name| **name != "client") {
        let to = mesh.addr(app.trim_end_matches("-1"), PORT);
        wait_for("an answer", PATIENCE, async || {
            let answer = ask(&client, to, "/", &[("b3", "0")]).await?;
            Ok((answer.status == 200).then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// One request with these headers, over a connection of its own.
async fn ask(
    pod: &Pod,
    to: SocketAddr,
    target: &str,
    headers: &[(&str, &str)],
) -> anyhow::Result<Answer> {
    let mut request = Request::get(target).header(http::header::HOST, "a");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut connection = Http1::connect(pod, to).await?;
    connection.request(request.body(Full::default())?).await
}

/// Services `a`, `b` and `c`, a pod for the collector, and one workload that takes no part.
fn stage(name: &str) -> weft_sandbox::mesh::Builder {
    let none: [&str; 0] = [];
    let service = |name| Service::new(name).port(PORT, APP_PORT).endpoints(none);
    mesh(name)
        .workload(
            Workload::new("collector")
                .unmeshed()
                .port(OTLP, AppSpec::none()),
        )
        .workload(http_app("bystander"))
        .service(service("a"))
        .service(service("b"))
        .service(service("c"))
}

/// "An OTLP collector of the test receives a three-hop trace with right parents, both propagation
/// formats."
async fn three_hops(cx: Cx) -> anyhow::Result<()> {
    cx.on(stage("traces"), async |mesh| {
        let collector = Collector::start(&mesh.pod("collector"), OTLP)?;
        traced(mesh, &["client", "a-1", "b-1", "c-1"], "info").await?;

        // Nobody has begun: the client's sidecar does, and says so in W3C and B3.
        let seen = chain(mesh, "/nobody", &[]).await?;
        let traceparent = header(&seen, "traceparent").context("no traceparent")?;
        let (trace, last) = (&traceparent[3..35], &traceparent[36..52]);
        assert_eq!(&traceparent[53..], "01");
        let spans = linked(collector.trace(trace, HOPS.len()).await?, "", &seen)?;
        assert_eq!(spans[5].id(), last);
        let b3 = header(&seen, "b3").context("no b3")?;
        assert_eq!(b3, format!("{trace}-{last}-1-{}", spans[5].parent()));
        let made = header(&seen, "x-request-id").context("no x-request-id")?;
        assert_eq!(made.len(), 32, "{made}");

        // The caller has, in one format: what arrives is in that one alone.
        let traceparent = format!("00-{TRACE}-{SPAN}-01");
        let said = [
            ("traceparent", &*traceparent),
            ("tracestate", "vendor=1"),
            ("x-request-id", "mine"),
        ];
        let seen = chain(mesh, "/w3c", &said).await?;
        let spans = linked(collector.trace(TRACE, HOPS.len()).await?, SPAN, &seen)?;
        let expected = format!("00-{TRACE}-{}-01", spans[5].id());
        assert_eq!(header(&seen, "traceparent"), Some(&*expected));
        assert_eq!(header(&seen, "tracestate"), Some("vendor=1"));
        assert_eq!(header(&seen, "b3"), None);
        assert_eq!(header(&seen, "x-request-id"), Some("mine"));
        assert!(spans.iter().all(|span| span.told.trace_state == "vendor=1"));

        let trace = TRACE.replace('4', "5");
        let b3 = format!("{trace}-{SPAN}-1");
        let seen = chain(mesh, "/b3", &[("b3", &b3)]).await?;
        let spans = linked(collector.trace(&trace, HOPS.len()).await?, SPAN, &seen)?;
        let (last, parent) = (spans[5].id(), spans[5].parent());
        assert_eq!(
            header(&seen, "b3"),
            Some(&*format!("{trace}-{last}-1-{parent}"))
        );
        assert_eq!(header(&seen, "traceparent"), None);

        let trace = TRACE.replace('4', "6");
        let multi = [
            ("x-b3-traceid", &*trace),
            ("x-b3-spanid", SPAN),
            ("x-b3-sampled", "1"),
        ];
        let seen = chain(mesh, "/b3multi", &multi).await?;
        let spans = linked(collector.trace(&trace, HOPS.len()).await?, SPAN, &seen)?;
        assert_eq!(header(&seen, "x-b3-traceid"), Some(&*trace));
        assert_eq!(header(&seen, "x-b3-spanid"), Some(&*spans[5].id()));
        assert_eq!(
            header(&seen, "x-b3-parentspanid"),
            Some(&*spans[5].parent())
        );
        assert_eq!(header(&seen, "x-b3-sampled"), Some("1"));
        assert_eq!(header(&seen, "b3"), None);

        // The caller has decided against it, although every sidecar would sample all: nothing is told.
        let before = collector.spans().len();
        let unsampled = format!("00-{}-{SPAN}-00", TRACE.replace('4', "7"));
        let seen = chain(mesh, "/unsampled", &[("traceparent", &unsampled)]).await?;
        assert_eq!(header(&seen, "traceparent"), Some(&*unsampled));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(collector.spans().len(), before);
        Ok(())
    })
    .await
}

/// From the client to `a`, from there to `b`, from there to `c`: what `c` saw.
async fn chain(mesh: &Mesh, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Seen> {
    let [a, b, c] = ["a", "b", "c"].map(|service| mesh.addr(service, PORT));
    let target = format!("{path}?call={b}{path}?call={c}{path}");
    let answer = ask(&mesh.pod("client"), a, &target, headers).await?;
    anyhow::ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    let seen: Seen = serde_json::from_slice(&answer.body)?;
    assert_eq!((&*seen.name, &*seen.target), ("c-1", path));
    Ok(seen)
}

fn header<'s>(seen: &'s Seen, name: &str) -> Option<&'s str> {
    let mut found = seen.headers.iter().filter(|(one, _)| one == name);
    let (_, value) = found.next()?;
    assert!(found.next().is_none(), "{name} twice");
    Some(value)
}

/// Checks that the spans are a chain below `root`, from the client's sidecar to that of `c`, and tell
/// the truth. In that order.
fn linked(mut spans: Vec<Span>, root: &str, seen: &Seen) -> anyhow::Result<Vec<Span>> {
    anyhow::ensure!(spans.len() == HOPS.len(), "not six: {spans:#?}");
    let mut chain: Vec<Span> = Vec::new();
    let mut parent = root.to_owned();
    while let Some(at) = spans.iter().position(|span| span.parent() == parent) {
        let span = spans.swap_remove(at);
        parent = span.id();
        chain.push(span);
    }
    anyhow::ensure!(spans.is_empty(), "outside of the chain: {spans:#?}");

    let request_id = header(seen, "x-request-id").context("no request id")?;
    for (index, span) in chain.iter().enumerate() {
        let what = format!("span {index}: {span:#?}");
        let is_client = index % 2 == 0;
        let kind = if is_client { 3 } else { 2 };
        assert_eq!(span.told.kind, kind, "{what}");
        assert_eq!(span.told.name.split(' ').next(), Some("GET"), "{what}");
        assert_eq!(span.told.status, None, "{what}");
        let (service, peer) = [
            ("a", "a"),
            ("a", "client"),
            ("b", "b"),
            ("b", "a"),
            ("c", "c"),
            ("c", "b"),
        ][index];
        for (key, value) in [
            ("service.name", HOPS[index]),
            ("service.namespace", "default"),
            ("http.request.method", "GET"),
            ("http.response.status_code", "200"),
            ("url.path", &*seen.target),
            ("weft.outcome", "ok"),
            ("weft.service", &*format!("default/{service}:{PORT}")),
            ("weft.peer", &*format!("default/{peer}")),
            ("weft.tls", "mutual"),
            ("weft.request_id", request_id),
        ] {
            assert_eq!(span.get(key), value, "{key} of {what}");
        }
        assert_eq!(
            span.get("network.peer.address").is_empty(),
            !is_client,
            "{what}"
        );
        // A span lies within its parent, up to the clock's steps.
        if let Some(parent) = index.checked_sub(1).map(|index| &chain[index].told) {
            assert!(
                span.told.start_time_unix_nano >= parent.start_time_unix_nano,
                "{what}"
            );
        }
    }
    Ok(chain)
}

/// A try that another one followed is an event of its request's span; a caller that may not is an error
/// at both ends.
async fn retries(cx: Cx) -> anyhow::Result<()> {
    cx.on(stage("traced-retries"), async |mesh| {
        let collector = Collector::start(&mesh.pod("collector"), OTLP)?;
        traced(mesh, &["client", "a-1"], "debug").await?;
        let stanzas = "retries: {attempts: 2, statusCodes: [503]}";
        mesh.apply_policy("retry", &policy("retry", "a", stanzas))?;
        let a = mesh.addr("a", PORT);
        let client = mesh.pod("client");
        let in_trace = async |trace: &str| {
            let traceparent = format!("00-{trace}-{SPAN}-01");
            let said = [("traceparent", &*traceparent), ("x-request-id", trace)];
            ask(&client, a, "/?status=503", &said).await
        };
        let mut number = 0;
        let told = wait_for(
            "a request that is tried three times",
            PATIENCE,
            async || {
                number += 1;
                let trace = format!("{number:032x}");
                assert_eq!(in_trace(&trace).await?.status, 503);
                let spans = collector.trace(&trace, 2).await?;
                Ok((spans.len() == 4).then_some(spans))
            },
        )
        .await?;
        let (clients, servers): (Vec<_>, Vec<_>) =
            told.iter().partition(|span| span.told.kind == 3);
        let [request] = &clients[..] else {
            panic!("{told:#?}");
        };
        assert_eq!(request.told.events.len(), 2, "{request:#?}");
        assert_eq!(request.get("http.request.resend_count"), "2");
        assert_eq!(request.get("error.type"), "503");
        assert_eq!(
            request.told.status.as_ref().map(|status| status.code),
            Some(2)
        );
        // Each try was seen by the server's sidecar, below the request's one span.
        assert_eq!(servers.len(), 3);
        assert!(servers.iter().all(|span| span.parent() == request.id()));

        let stanzas = "authorization: {allow: []}";
        mesh.remove_policy("retry")?;
        mesh.apply_policy("deny", &policy("deny", "a", stanzas))?;
        let told = wait_for("a refusal", PATIENCE, async || {
            number += 1;
            let trace = format!("{number:032x}");
            if in_trace(&trace).await?.status != 403 {
                return Ok(None);
            }
            // One that met both policies was tried again.
            let spans = collector.trace(&trace, 2).await?;
            Ok((spans.len() == 2).then_some(spans))
        })
        .await?;
        for span in told {
            assert_eq!(span.get("error.type"), "unauthorized", "{span:#?}");
            assert_eq!(span.get("weft.outcome"), "unauthorized");
            // The log of whoever refused names the request too.
            let named = format!("\"requestId\":\"{}\"", span.get("weft.request_id"));
            let log = mesh.sidecar_log("a-1");
            assert!(log.contains(&named), "{named} is not in the log");
        }
        Ok(())
    })
    .await
}

/// Nobody listens where spans are to go: traffic does not notice, and every span is accounted for.
async fn dead_collector(cx: Cx) -> anyhow::Result<()> {
    cx.on(stage("dead-collector"), async |mesh| {
        traced(mesh, &["client", "a-1"], "info").await?;
        let requests = cx.pick(6_000, 60_000);
        let report = Load::new(mesh.addr("a", PORT))
            .clients(8)
            .requests(requests)
            .shot(Shot::get("/"))
            .run(&mesh.pod("client"))
            .await;
        assert_no_failure(&report);
        let mut seen = stats(mesh, ["a-1"]).await?;
        // The first answer was none of the load's.
        seen.requests -= 1;
        assert_all_served_once(&report, &seen);
        for workload in ["client", "a-1"] {
            let metrics = metrics(mesh, workload).await?;
            let count = |result| {
                let spans = "weft_trace_spans_total";
                metrics.sum(spans, &[("result", result)]) as u64
            };
            let [exported, dropped, refused] = ["exported", "dropped", "refused"].map(count);
            cx.measured(format!("{workload}: {dropped} of {requests} spans dropped"));
            assert_eq!((exported, refused), (0, 0), "{workload}");
            let kept = requests - dropped - count("unsent");
            assert!(kept <= KEPT, "{workload}: {kept} spans kept");
            assert!(dropped >= requests - 2 * KEPT, "{workload}");
        }
        Ok(())
    })
    .await
}

/// Without an endpoint no trace header is made, changed or dropped, well-formed or not.
async fn off(cx: Cx) -> anyhow::Result<()> {
    cx.on(client_and("untraced", ["api-1"]), async |mesh| {
        let said = [
            ("traceparent", format!("00-{TRACE}-{SPAN}-01")),
            ("traceparent", "nonsense".to_owned()),
            ("tracestate", "a=1,b=2".to_owned()),
            ("b3", format!("{TRACE}-{SPAN}-d")),
            ("x-b3-traceid", TRACE.to_uppercase()),
            ("x-b3-sampled", "maybe".to_owned()),
            ("x-b3-flags", "1".to_owned()),
        ];
        let mut request = Request::builder()
            .method(Method::GET)
            .uri("/")
            .header(http::header::HOST, "api");
        for (name, value) in &said {
            request = request.header(*name, value);
        }
        let mut connection = Http1::connect(&mesh.pod("client"), mesh.addr("api", PORT)).await?;
        let answer = connection.request(request.body(Full::default())?).await?;
        let seen: Seen = serde_json::from_slice(&answer.body)?;
        let arrived = |name: &str| {
            let of_name = seen.headers.iter().filter(|(one, _)| one == name);
            of_name.map(|(_, value)| value.clone()).collect::<Vec<_>>()
        };
        for (name, _) in &said {
            let sent: Vec<_> = said.iter().filter(|(one, _)| one == name).collect();
            let sent: Vec<_> = sent.iter().map(|(_, value)| value.clone()).collect();
            assert_eq!(arrived(name), sent, "{name}");
        }
        assert_eq!(arrived("x-request-id").len(), 1);

        let answer = mesh.pod("client").get(mesh.addr("api", PORT), "/").await?;
        let seen: Seen = serde_json::from_slice(&answer.body)?;
        let names: Vec<_> = seen.headers.iter().map(|(name, _)| name).collect();
        let is_trace = |name: &&&String| name.starts_with("trace") || name.contains("b3");
        assert!(names.iter().find(is_trace).is_none(), "{names:?}");
        let page = mesh.metrics("client").await?;
        assert!(
            !page.contains("weft_trace_spans_total{"),
            "spans without a collector"
        );
        Ok(())
    })
    .await
}
