//! What becomes a span, and what is told of it.

use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderValue;
use weft_proto::otlp;
use weft_proto::otlp::any_value::Value;

use super::super::encode;
use super::super::span::{End, Ended, Kind, MAX_TEXT, MAX_TRIES, Span};
use super::{Endpoint, head, tracer};
use crate::outcome::{Outcome, Processed};
use crate::resilience::attempt::{Answer, TryResult};
use crate::telemetry::Tls;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const NOBODY: &str = "127.0.0.1:9";

fn end() -> End {
    End {
        elapsed: Duration::from_millis(3),
        status: 200,
        grpc_status: None,
        outcome: Outcome::Ok,
        is_copy: false,
        request_id: Some(HeaderValue::from_static("id-1")),
        service: "shop/cart:80".into(),
        route: "report".into(),
        backend: "shop/cart-v2:80".into(),
        peer: "shop/cart".into(),
        tls: Tls::Mutual,
    }
}

fn encoded(span: Span, end: End) -> otlp::Span {
    let span = Box::new(span);
    encode::span(&Ended { span, end })
}

fn begun(kind: Kind, path: &str, pairs: &[(&'static str, &str)]) -> Span {
    let (tracer, _, _) = tracer(NOBODY, 1.0);
    *tracer.begin(kind, &mut head(path, pairs)).unwrap()
}

fn attribute(attributes: &[otlp::KeyValue], key: &str) -> Option<String> {
    let mut found = attributes.iter().filter(|one| one.key == key);
    let value = found.next()?.value.clone()?.value?;
    assert!(found.next().is_none(), "{key} twice");
    Some(match value {
        Value::StringValue(text) => text,
        Value::BoolValue(word) => word.to_string(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
    })
}

#[test]
fn a_sampled_caller_is_the_parent_and_what_follows_has_this_span_as_its_own() {
    let (tracer, _, _) = tracer(NOBODY, 0.0);
    let mut head = head("/", &[("traceparent", PARENT), ("tracestate", "a=1")]);
    let span = tracer.begin(Kind::Server, &mut head).unwrap();
    let told = encoded(*span, end());
    assert_eq!(told.trace_id[..2], [0x4b, 0xf9]);
    assert_eq!(told.parent_span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
    assert_eq!(told.trace_state, "a=1");
    let passed_on = head.headers["traceparent"].to_str().unwrap();
    let span_id = u64::from_be_bytes(told.span_id.try_into().unwrap());
    let expected = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{span_id:016x}-01");
    assert_eq!(passed_on, expected);
}

#[test]
fn who_said_no_is_not_asked_again_and_keeps_its_headers() {
    let (tracer, _, _) = tracer(NOBODY, 1.0);
    let unsampled = PARENT.replace("-01", "-00");
    for pair in [
        ("traceparent", &*unsampled),
        ("b3", "0"),
        ("x-b3-sampled", "0"),
    ] {
        let mut head = head("/", &[pair]);
        let before = head.headers.clone();
        assert!(tracer.begin(Kind::Client, &mut head).is_none());
        assert_eq!(head.headers, before);
    }
}

#[test]
fn where_nobody_has_decided_the_decision_is_told() {
    let (never, _, _) = tracer(NOBODY, 0.0);
    let mut fresh = head("/", &[]);
    assert!(never.begin(Kind::Client, &mut fresh).is_none());
    assert!(
        fresh.headers["traceparent"]
            .to_str()
            .unwrap()
            .ends_with("-00")
    );
    assert!(fresh.headers["b3"].to_str().unwrap().ends_with("-0"));
    assert_eq!(fresh.headers["x-b3-sampled"], "0");
    // And whoever is next keeps to it.
    let (always, _, _) = tracer(NOBODY, 1.0);
    assert!(always.begin(Kind::Server, &mut fresh).is_none());

    // Its own ids stay who asked.
    let ids = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";
    let mut undecided = head("/", &[("b3", ids)]);
    assert!(never.begin(Kind::Server, &mut undecided).is_none());
    assert_eq!(undecided.headers["b3"], format!("{ids}-0"));
    assert!(!undecided.headers.contains_key("traceparent"));
}

#[test]
fn what_is_told_follows_the_conventions() {
    let pairs = [("host", "cart:80"), ("x-request-id", "id-1")];
    let mut span = begun(Kind::Client, "/report/7?token=secret", &pairs);
    let one: SocketAddr = "10.0.0.1:8080".parse().unwrap();
    let other: SocketAddr = "10.0.0.2:8080".parse().unwrap();
    span.goes_to(one);
    span.tried(&TryResult::Failed {
        outcome: Outcome::Reset,
        processed: Processed::Maybe,
    });
    span.goes_to(other);
    let told = encoded(span, end());
    let get = |key: &str| attribute(&told.attributes, key).unwrap_or_else(|| panic!("no {key}"));
    assert_eq!(told.name, "GET report");
    assert_eq!(told.kind, otlp::span::SpanKind::Client as i32);
    assert_eq!(told.parent_span_id, [0_u8; 0]);
    assert_eq!(told.status, None);
    assert_eq!(
        told.end_time_unix_nano - told.start_time_unix_nano,
        3_000_000
    );
    for (key, value) in [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("http.request.resend_count", "1"),
        ("url.full", "http://cart:80/report/7"),
        ("url.path", "/report/7"),
        ("url.scheme", "http"),
        ("server.address", "cart"),
        ("server.port", "80"),
        ("network.peer.address", "10.0.0.2"),
        ("network.peer.port", "8080"),
        ("network.protocol.version", "1.1"),
        ("weft.outcome", "ok"),
        ("weft.service", "shop/cart:80"),
        ("weft.route", "report"),
        ("weft.backend", "shop/cart-v2:80"),
        ("weft.peer", "shop/cart"),
        ("weft.tls", "mutual"),
        ("weft.request_id", "id-1"),
    ] {
        assert_eq!(get(key), value, "{key}");
    }
    assert_eq!(attribute(&told.attributes, "error.type"), None);
    let [event] = &told.events[..] else {
        panic!("{:?}", told.events);
    };
    assert_eq!(event.name, "weft.retry");
    let of_event = |key| attribute(&event.attributes, key);
    assert_eq!(of_event("weft.outcome").as_deref(), Some("reset"));
    assert_eq!(
        of_event("network.peer.address").as_deref(),
        Some("10.0.0.1")
    );
    assert!(!format!("{told:?}").contains("secret"));
}

#[test]
fn whose_fault_it_is() {
    let grpc = [("content-type", "application/grpc+proto")];
    let error = |kind, pairs: &[(&'static str, &str)], end: End| {
        let told = encoded(begun(kind, "/shop.Cart/Add", pairs), end);
        let status = told.status.map(|status| (status.code, status.message));
        let named = attribute(&told.attributes, "error.type");
        assert_eq!(status.as_ref().map(|(_, why)| why), named.as_ref());
        named
    };
    let with = |status, grpc_status, outcome| End {
        status,
        grpc_status,
        outcome,
        ..end()
    };
    let http = |status| with(status, None, Outcome::Ok);
    assert_eq!(error(Kind::Client, &[], http(404)).as_deref(), Some("404"));
    assert_eq!(error(Kind::Server, &[], http(404)), None);
    assert_eq!(error(Kind::Server, &[], http(500)).as_deref(), Some("500"));
    let code = |code| with(200, Some(code), Outcome::Ok);
    assert_eq!(error(Kind::Client, &grpc, code(5)).as_deref(), Some("5"));
    assert_eq!(error(Kind::Server, &grpc, code(5)), None);
    assert_eq!(error(Kind::Server, &grpc, code(14)).as_deref(), Some("14"));
    assert_eq!(error(Kind::Client, &grpc, code(0)), None);
    let refused = with(403, None, Outcome::Unauthorized);
    let why = error(Kind::Server, &[], refused);
    assert_eq!(why.as_deref(), Some("unauthorized"));

    let gone = with(499, None, Outcome::ClientGone);
    let told = encoded(begun(Kind::Server, "/", &[]), gone);
    assert_eq!(
        attribute(&told.attributes, "http.response.status_code"),
        None
    );
    let told = encoded(begun(Kind::Server, "/shop.Cart/Add", &grpc), code(0));
    assert_eq!(told.name, "shop.Cart/Add");
    let rpc = attribute(&told.attributes, "rpc.service");
    assert_eq!(rpc.as_deref(), Some("shop.Cart"));
}

#[test]
fn what_clients_choose_is_bounded() {
    let path = format!("/{}", "\u{fc}".repeat(4 * MAX_TEXT));
    let path = path.replace('\u{fc}', "%C3%BC");
    let id = "i".repeat(4 * MAX_TEXT);
    let mut span = begun(Kind::Client, &path, &[("host", &id)]);
    for _ in 0..3 * MAX_TRIES {
        span.tried(&TryResult::Answered(Answer::plain(http::StatusCode::OK)));
    }
    let request_id = HeaderValue::from_str(&id).unwrap();
    let told = encoded(
        span,
        End {
            request_id: Some(request_id),
            ..end()
        },
    );
    assert_eq!(told.events.len(), MAX_TRIES);
    assert_eq!(told.dropped_events_count as usize, 2 * MAX_TRIES);
    let resent = attribute(&told.attributes, "http.request.resend_count");
    assert_eq!(resent, Some((3 * MAX_TRIES).to_string()));
    let longest = told.attributes.iter().filter_map(|one| {
        let value = one.value.clone()?.value?;
        match value {
            Value::StringValue(text) => Some(text.len()),
            _ => None,
        }
    });
    // The URL has an authority and a path.
    assert!(longest.max().unwrap() <= 2 * MAX_TEXT + "http://".len());
}

#[test]
fn endpoints_are_hosts_with_ports() {
    for (text, host, port) in [
        (
            "http://collector.observability:4317",
            "collector.observability",
            4317,
        ),
        ("http://collector", "collector", 4317),
        ("http://10.0.0.7:55/", "10.0.0.7", 55),
        ("http://[fd00::7]:4317", "fd00::7", 4317),
    ] {
        let endpoint = Endpoint::parse(text).unwrap();
        assert_eq!((&*endpoint.host, endpoint.port), (host, port), "{text}");
    }
    for bad in [
        "",
        "collector:4317",
        "https://collector:4317",
        "grpc://collector:4317",
        "http://collector:0",
        "http://collector:65536",
        "http://collector:",
        "http://collector:4317/v1/traces",
        "http://collector:4317?a=b",
        "http://user@collector:4317",
        "http://:4317",
        "http://",
    ] {
        assert!(Endpoint::parse(bad).is_none(), "{bad}");
    }
}
