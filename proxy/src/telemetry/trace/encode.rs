//! Spans as OTLP has them, named by OpenTelemetry's semantic conventions for HTTP and RPC, beside what
//! only a mesh knows: `weft.*`.
//!
//! Queries of URLs are never told: they carry secrets too often.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::http::uri::Authority;
use ::http::{Method, Version};
use weft_proto::otlp;
use weft_proto::otlp::any_value::Value;
use weft_proto::otlp::span::SpanKind;
use weft_proto::otlp::status::StatusCode;

use super::span::{End, Ended, Kind, Span, Try, cut};
use crate::outcome::Outcome;

/// The bit of `traceparent` that says "sampled".
const SAMPLED: u32 = 1;
/// A method that nobody knows, in the conventions' words.
const OTHER_METHOD: &str = "_OTHER";
/// And in names of spans.
const OTHER_NAME: &str = "HTTP";
/// gRPC statuses that are the server's fault (semantic conventions for gRPC): UNKNOWN,
/// DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
const GRPC_SERVER_FAULTS: [u8; 6] = [2, 4, 12, 13, 14, 15];

/// One span.
pub(super) fn span(ended: &Ended) -> otlp::Span {
    let Ended { span, end } = ended;
    let failed = error(span, end);
    otlp::Span {
        trace_id: span.context.trace.to_bytes().into(),
        span_id: span.context.span.to_bytes().into(),
        trace_state: span.trace_state.to_string(),
        parent_span_id: span
            .context
            .parent
            .map_or_else(Vec::new, |parent| parent.to_bytes().into()),
        name: name(span, end),
        kind: match span.kind {
            Kind::Client => SpanKind::Client,
            Kind::Server => SpanKind::Server,
        }
        .into(),
        start_time_unix_nano: nanos(span.began),
        end_time_unix_nano: nanos(span.began + end.elapsed),
        attributes: attributes(span, end, failed.as_deref()),
        events: span.tries.iter().map(event).collect(),
        dropped_events_count: span.untold_tries,
        status: failed.map(|why| otlp::Status {
            message: why,
            code: StatusCode::Error.into(),
        }),
        flags: SAMPLED,
    }
}

/// An attribute that is text.
pub(super) fn text(key: &str, value: impl Into<String>) -> otlp::KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn attribute(key: &str, value: Value) -> otlp::KeyValue {
    otlp::KeyValue {
        key: key.to_owned(),
        value: Some(otlp::AnyValue { value: Some(value) }),
    }
}

fn number(key: &str, value: impl Into<i64>) -> otlp::KeyValue {
    attribute(key, Value::IntValue(value.into()))
}

/// Of few values: no path is in it, but for gRPC, whose paths are names.
fn name(span: &Span, end: &End) -> String {
    if span.is_grpc {
        return span.path.trim_start_matches('/').to_owned();
    }
    let method = known(&span.method).unwrap_or(OTHER_NAME);
    if end.route.is_empty() {
        method.to_owned()
    } else {
        format!("{method} {}", end.route)
    }
}

fn attributes(span: &Span, end: &End, failed: Option<&str>) -> Vec<otlp::KeyValue> {
    let mut all = vec![
        text("url.path", &*span.path),
        text("url.scheme", "http"),
        text("network.protocol.name", "http"),
        text("network.protocol.version", version(span.version)),
        text("weft.outcome", end.outcome.as_str()),
        text("weft.service", &*end.service),
        text("weft.backend", &*end.backend),
        text("weft.peer", &*end.peer),
        text("weft.tls", end.tls.as_str()),
    ];
    if let Some(method) = known(&span.method) {
        all.push(text("http.request.method", method));
    } else {
        all.push(text("http.request.method", OTHER_METHOD));
        let original = cut(span.method.as_str());
        all.push(text("http.request.method_original", original));
    }
    if let Ok(authority) = span.authority.parse::<Authority>() {
        all.push(text("server.address", authority.host()));
        if let Some(port) = authority.port_u16() {
            all.push(number("server.port", port));
        }
        if span.kind == Kind::Client {
            let url = format!("http://{}{}", authority.as_str(), span.path);
            all.push(text("url.full", url));
        }
    }
    if !end.route.is_empty() {
        all.push(text("weft.route", &*end.route));
    }
    // What was only noted down is no status that anybody got.
    if end.outcome != Outcome::ClientGone {
        all.push(number("http.response.status_code", end.status));
    }
    if span.is_grpc {
        all.push(text("rpc.system", "grpc"));
        if let Some((service, method)) = span.path.trim_start_matches('/').rsplit_once('/') {
            all.push(text("rpc.service", service));
            all.push(text("rpc.method", method));
        }
    }
    if let Some(code) = end.grpc_status {
        all.push(number("rpc.grpc.status_code", code));
    }
    if let Some(address) = span.address {
        all.push(text("network.peer.address", address.ip().to_string()));
        all.push(number("network.peer.port", address.port()));
    }
    let resent = span.tries.len() + span.untold_tries as usize;
    if resent > 0 {
        all.push(number("http.request.resend_count", resent as u32));
    }
    let id = end.request_id.as_ref().and_then(|id| id.to_str().ok());
    if let Some(id) = id {
        all.push(text("weft.request_id", cut(id)));
    }
    if end.is_copy {
        all.push(attribute("weft.mirror", Value::BoolValue(true)));
    }
    if let Some(why) = failed {
        all.push(text("error.type", why));
    }
    all
}

/// A try that was not the last.
fn event(one: &Try) -> otlp::span::Event {
    let mut attributes = vec![text("weft.outcome", one.outcome.as_str())];
    if let Some(status) = one.status {
        attributes.push(number("http.response.status_code", status));
    }
    if let Some(address) = one.address {
        attributes.push(text("network.peer.address", address.ip().to_string()));
        attributes.push(number("network.peer.port", address.port()));
    }
    otlp::span::Event {
        time_unix_nano: nanos(one.at),
        name: "weft.retry".to_owned(),
        attributes,
    }
}

/// Why the span is one of an error, in a word; `None` where it is not. What is the caller's own fault is
/// none of the server's.
fn error(span: &Span, end: &End) -> Option<String> {
    if end.outcome != Outcome::Ok {
        return Some(end.outcome.as_str().to_owned());
    }
    let from = match span.kind {
        Kind::Client => 400,
        Kind::Server => 500,
    };
    if end.status >= from {
        return Some(end.status.to_string());
    }
    let code = end.grpc_status.filter(|code| match span.kind {
        Kind::Client => *code != 0,
        Kind::Server => GRPC_SERVER_FAULTS.contains(code),
    });
    code.map(|code| code.to_string())
}

/// The methods that the conventions know: RFC 9110 and PATCH.
fn known(method: &Method) -> Option<&str> {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::CONNECT,
        Method::OPTIONS,
        Method::TRACE,
        Method::PATCH,
    ];
    known.contains(method).then(|| method.as_str())
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

/// Since 1970; what is out of range is its nearer end.
fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
