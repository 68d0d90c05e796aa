//! Which exchanges become spans, and that they say how these ended.

use std::time::Duration;

use http::Method;
use weft_proto::otlp;
use weft_proto::otlp::any_value::Value;

use super::*;
use crate::policy::MirrorPolicy;
use crate::telemetry::trace::context::Formats;
use crate::telemetry::trace::sampler::Sampler;
use crate::telemetry::trace::{Endpoint, TraceSettings, Tracer};
use crate::testing::clients::request;
use crate::testing::collector::Collector;
use crate::testing::policies::{endpoint, target};
use crate::testing::servers::{Act, Refusing};
use crate::testing::soon;

/// Exports every trace of a sidecar.
async fn traced(sidecar: &Sidecar) -> Collector {
    let collector = Collector::start().await;
    let settings = TraceSettings {
        endpoint: Endpoint::parse(&format!("http://{}", collector.address)).unwrap(),
        sampler: Sampler::new(1.0),
        formats: Formats {
            w3c: true,
            b3: false,
            b3_multi: false,
        },
        service: None,
    };
    let (tracer, exporter) = Tracer::new(settings, &sidecar.telemetry, Dialer::default());
    sidecar.telemetry.set_tracer(tracer);
    tokio::spawn(exporter.run());
    collector
}

/// The only span.
async fn span(sidecar: &Sidecar, collector: &Collector) -> otlp::Span {
    soon(sidecar.telemetry.tracer().unwrap().flush()).await;
    let mut spans = collector.spans();
    assert_eq!(spans.len(), 1, "{spans:#?}");
    spans.remove(0)
}

fn text(span: &otlp::Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|one| one.key == key)?;
    match found.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{key}: {other:?}"),
    }
}

#[tokio::test]
async fn what_was_sent_on_names_the_span_and_has_its_request_id() {
    let server = Server::plain(|_, _| Act::ok("fine")).await;
    let sidecar = Sidecar::knowing(target("api", &["api"]), at(&[&server]));
    let collector = traced(&sidecar).await;
    let mut client = sidecar.http1().await;
    // Neither id nor context survive being called a matter of this connection only.
    let listed = [("connection", "x-request-id"), ("x-request-id", "mine")];
    let get = request(Method::GET, "/a?b=c", &listed, "");
    client.send(get).await.assert_ok("fine");
    client.leave().await;
    let span = span(&sidecar, &collector).await;
    let seen = &server.seen()[0];
    let traceparent = seen.headers["traceparent"].to_str().unwrap();
    let id = u64::from_be_bytes(span.span_id.clone().try_into().unwrap());
    assert_eq!(traceparent[36..52], format!("{id:016x}"));
    assert_eq!(seen.headers["x-request-id"], "mine");
    assert_eq!(text(&span, "weft.request_id").as_deref(), Some("mine"));
    assert_eq!(text(&span, "url.path").as_deref(), Some("/a"));
    let port = server.address.port().to_string();
    assert_eq!(text(&span, "network.peer.port"), Some(port));
}

#[tokio::test]
async fn a_request_that_reached_nobody_is_a_span() {
    let refusing = Refusing::new();
    let endpoints = vec![endpoint(refusing.address, None)];
    let sidecar = Sidecar::knowing(target("api", &["api"]), endpoints);
    let collector = traced(&sidecar).await;
    let mut client = sidecar.http1().await;
    assert_eq!(client.get("/").await.status, 503);
    client.leave().await;
    let span = span(&sidecar, &collector).await;
    assert_eq!(
        text(&span, "weft.outcome").as_deref(),
        Some("connect_refused")
    );
    assert_eq!(
        text(&span, "error.type").as_deref(),
        Some("connect_refused")
    );
    let status = text(&span, "http.response.status_code");
    assert_eq!(status.as_deref(), Some("503"));
    assert!(text(&span, "weft.request_id").is_some());
}

#[tokio::test]
async fn a_client_that_left_ends_its_span() {
    let server = Server::plain(|_, _| Act::Hang).await;
    let sidecar = Sidecar::knowing(target("api", &["api"]), at(&[&server]));
    let collector = traced(&sidecar).await;
    let mut client = sidecar.http2().await;
    let call = request(Method::GET, "http://api/", &[], "");
    let hanging = tokio::time::timeout(Duration::from_millis(200), client.try_send(call));
    assert!(hanging.await.is_err());
    client.leave().await;
    let span = span(&sidecar, &collector).await;
    assert_eq!(text(&span, "weft.outcome").as_deref(), Some("client_gone"));
    assert_eq!(text(&span, "http.response.status_code"), None);
    let took = span.end_time_unix_nano - span.start_time_unix_nano;
    assert!(took >= 150_000_000, "{took}");
}

#[tokio::test]
async fn a_call_that_fails_in_its_trailers_is_an_error() {
    let server = Server::plain(|_, _| Act::grpc(14)).await;
    let sidecar = Sidecar::knowing(target("api", &["api"]), at(&[&server]));
    let collector = traced(&sidecar).await;
    let mut client = sidecar.http2().await;
    client.grpc("/shop.Cart/Get").await;
    client.leave().await;
    let span = span(&sidecar, &collector).await;
    assert_eq!(span.name, "shop.Cart/Get");
    assert_eq!(text(&span, "rpc.grpc.status_code").as_deref(), Some("14"));
    assert_eq!(text(&span, "error.type").as_deref(), Some("14"));
    assert_eq!(
        text(&span, "network.protocol.version").as_deref(),
        Some("2")
    );
}

#[tokio::test]
async fn a_copy_is_below_the_request_that_it_is_of() {
    let server = Server::plain(|_, _| Act::ok("api")).await;
    let shadow = Server::plain(|_, _| Act::ok("shadow")).await;
    let mut policy = target("api", &["api", "shadow"]);
    policy.routes[0].split.backends.truncate(1);
    policy.routes[0].split.mirror = Some(MirrorPolicy {
        backend: 1,
        share: 100,
        out_of: 100,
        calls: false,
        body_limit_bytes: 1024,
        max_in_flight: 1,
        timeout: Duration::from_secs(5),
    });
    let sidecar = Sidecar::knowing(policy, at(&[&server]));
    sidecar.tell_endpoints("shadow", at(&[&shadow]));
    let collector = traced(&sidecar).await;
    let mut client = sidecar.http1().await;
    client.get("/").await.assert_ok("api");
    client.leave().await;
    soon(async {
        while shadow.requests() == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    // The copy is none of the caller's requests: one span.
    span(&sidecar, &collector).await;
    let said = |server: &Server| server.seen()[0].headers["traceparent"].clone();
    assert_eq!(said(&server), said(&shadow));
}

#[tokio::test]
async fn nothing_is_touched_where_there_are_no_traces() {
    let server = Server::plain(|_, _| Act::ok("fine")).await;
    let sidecar = Sidecar::knowing(target("api", &["api"]), at(&[&server]));
    let mut client = sidecar.http1().await;
    let said = [
        ("traceparent", "nonsense"),
        ("b3", "1"),
        ("tracestate", "a=1"),
    ];
    client.send(request(Method::GET, "/", &said, "")).await;
    client.get("/").await.assert_ok("fine");
    let seen = server.seen();
    for (name, value) in said {
        assert_eq!(seen[0].headers[name], value);
        assert!(!seen[1].headers.contains_key(name));
    }
}
