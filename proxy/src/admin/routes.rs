//! What the admin endpoint answers.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ORIGIN};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt as _, Full, Limited};
use serde_json::{Value, json};

use super::{AdminState, BreakerAction, BreakerTarget, MAX_BODY};
use crate::policy::ServiceRef;

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";

/// Every path, for people who ask for another.
const PATHS: [&str; 12] = [
    "GET /live",
    "GET /ready",
    "GET /health",
    "GET /metrics",
    "GET /probe/PORT",
    "GET /config (loopback)",
    "GET /circuit-breakers (loopback)",
    "POST /circuit-breakers/reset?backend=NAMESPACE/NAME:PORT[&endpoint=IP:PORT] (loopback)",
    "POST /circuit-breakers/reset-all (loopback)",
    "POST /circuit-breakers/force?state=open|closed|auto&backend=NAMESPACE/NAME:PORT[&endpoint=IP:PORT] (loopback)",
    "GET, POST /log-level (loopback; the body is error, warn, info, debug or trace)",
    "POST /drain (loopback)",
];

type Answer = Response<Full<Bytes>>;

/// What a path means.
#[derive(Clone, Copy)]
enum Route<'a> {
    Breakers,
    BreakersForce,
    BreakersReset,
    BreakersResetAll,
    Config,
    Drain,
    Health,
    Live,
    LogLevel,
    Metrics,
    Probe(&'a str),
    Ready,
}

impl<'a> Route<'a> {
    fn of(path: &'a str) -> Option<Self> {
        Some(match path {
            "/live" => Self::Live,
            "/ready" => Self::Ready,
            "/health" => Self::Health,
            "/metrics" => Self::Metrics,
            "/config" => Self::Config,
            "/circuit-breakers" => Self::Breakers,
            "/circuit-breakers/reset" => Self::BreakersReset,
            "/circuit-breakers/reset-all" => Self::BreakersResetAll,
            "/circuit-breakers/force" => Self::BreakersForce,
            "/log-level" => Self::LogLevel,
            "/drain" => Self::Drain,
            _ => Self::Probe(path.strip_prefix("/probe/")?),
        })
    }

    fn is_for_everybody(self) -> bool {
        matches!(
            self,
            Self::Health | Self::Live | Self::Metrics | Self::Probe(_) | Self::Ready
        )
    }

    /// The value of `allow`.
    fn methods(self) -> &'static str {
        match self {
            Self::LogLevel => "GET, HEAD, POST",
            Self::BreakersForce | Self::BreakersReset | Self::BreakersResetAll | Self::Drain => {
                "POST"
            }
            _ => "GET, HEAD",
        }
    }

    fn allows(self, method: &Method) -> bool {
        self.methods()
            .split(", ")
            .any(|allowed| allowed == method.as_str())
    }
}

/// Answers one request of `peer`.
pub(super) async fn answer<B>(state: &dyn AdminState, peer: IpAddr, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let Some(route) = Route::of(head.uri.path()) else {
        let body = json!({"error": "there is no such path", "paths": PATHS});
        return json_answer(StatusCode::NOT_FOUND, &body);
    };
    // An IPv4 peer of a dual-stack listener comes as ::ffff:a.b.c.d.
    if !route.is_for_everybody() && !peer.to_canonical().is_loopback() {
        return error(
            StatusCode::FORBIDDEN,
            "this path answers only connections from the workload itself (loopback)",
        );
    }
    // A web page open on the same machine is no operator: browsers say so in `origin`.
    if !route.is_for_everybody() && head.headers.contains_key(ORIGIN) {
        return error(StatusCode::FORBIDDEN, "this path does not answer web pages");
    }
    if !route.allows(&head.method) {
        let sentence = format!("this path takes {}", route.methods());
        let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, &sentence);
        answer
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static(route.methods()));
        return answer;
    }
    let query = head.uri.query().unwrap_or_default();
    match route {
        Route::Live => text(StatusCode::OK, "live\n"),
        Route::Ready => ready(state),
        Route::Health => json_answer(StatusCode::OK, &state.health()),
        Route::Metrics => answer_of(StatusCode::OK, METRICS, state.render_metrics()),
        Route::Probe(port) => probe(state, port).await,
        Route::Config => json_answer(StatusCode::OK, &state.config()),
        Route::Breakers => json_answer(StatusCode::OK, &state.breakers()),
        Route::BreakersResetAll => act(state, Ok((BreakerTarget::All, BreakerAction::Reset))),
        Route::BreakersReset => act(state, reset_of(query)),
        Route::BreakersForce => act(state, force_of(query)),
        Route::LogLevel if head.method == Method::POST => set_log_level(state, body).await,
        Route::LogLevel => json_answer(StatusCode::OK, &json!({"level": state.log_level()})),
        Route::Drain => {
            state.drain();
            json_answer(StatusCode::ACCEPTED, &json!({"status": "draining"}))
        }
    }
}

/// The answer of a request that took too long.
pub(super) fn timed_out() -> Answer {
    error(StatusCode::GATEWAY_TIMEOUT, "the answer took too long")
}

fn ready(state: &dyn AdminState) -> Answer {
    let missing = state.missing();
    if missing.is_empty() {
        return json_answer(StatusCode::OK, &json!({"ready": true, "missing": []}));
    }
    json_answer(
        StatusCode::SERVICE_UNAVAILABLE,
        &json!({"ready": false, "missing": missing}),
    )
}

async fn probe(state: &dyn AdminState, port: &str) -> Answer {
    let port = match port.parse::<u16>() {
        Ok(port) if port > 0 => port,
        _ => {
            return error(
                StatusCode::BAD_REQUEST,
                "a port is a number from 1 to 65535",
            );
        }
    };
    match state.probe(port).await {
        Ok(()) => json_answer(StatusCode::OK, &json!({"port": port, "connected": true})),
        Err(sentence) => error(StatusCode::SERVICE_UNAVAILABLE, &sentence),
    }
}

async fn set_log_level<B>(state: &dyn AdminState, body: B) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        return error(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is cut short or longer than a level is",
        );
    };
    let body = body.to_bytes();
    let level = String::from_utf8_lossy(&body);
    match state.set_log_level(level.trim()) {
        Ok(previous) => json_answer(
            StatusCode::OK,
            &json!({"level": state.log_level(), "previous": previous}),
        ),
        Err(sentence) => error(StatusCode::BAD_REQUEST, &sentence),
    }
}

fn act(state: &dyn AdminState, asked: Result<(BreakerTarget, BreakerAction), String>) -> Answer {
    let (target, action) = match asked {
        Ok(asked) => asked,
        Err(sentence) => return error(StatusCode::BAD_REQUEST, &sentence),
    };
    match state.breaker_action(target, action) {
        Ok(count) => json_answer(StatusCode::OK, &json!({"breakers": count})),
        Err(sentence) => error(StatusCode::NOT_FOUND, &sentence),
    }
}

fn reset_of(query: &str) -> Result<(BreakerTarget, BreakerAction), String> {
    let parameters = Parameters::of(query, &["backend", "endpoint"])?;
    Ok((parameters.target()?, BreakerAction::Reset))
}

fn force_of(query: &str) -> Result<(BreakerTarget, BreakerAction), String> {
    let parameters = Parameters::of(query, &["backend", "endpoint", "state"])?;
    let action = match parameters.find("state") {
        Some("open") => BreakerAction::ForceOpen,
        Some("closed") => BreakerAction::ForceClosed,
        Some("auto") => BreakerAction::Auto,
        _ => return Err("state must be open, closed or auto".to_owned()),
    };
    Ok((parameters.target()?, action))
}

/// A query string, every name known and there once.
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn of(query: &str, known: &[&str]) -> Result<Self, String> {
        let mut parameters = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !known.contains(&name) {
                return Err(format!("unknown parameter; known are {}", known.join(", ")));
            }
            if parameters.iter().any(|(present, _)| present == name) {
                return Err(format!("{name} is there twice"));
            }
            parameters.push((name.to_owned(), percent_decode(value)?));
        }
        Ok(Self(parameters))
    }

    fn find(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(present, _)| present == name);
        found.map(|(_, value)| value.as_str())
    }

    fn target(&self) -> Result<BreakerTarget, String> {
        let backend = self
            .find("backend")
            .and_then(parse_backend)
            .ok_or("backend must be NAMESPACE/NAME:PORT")?;
        let Some(endpoint) = self.find("endpoint") else {
            return Ok(BreakerTarget::Backend(backend));
        };
        let endpoint = endpoint
            .parse()
            .map_err(|_| "endpoint must be IP:PORT, or [IP]:PORT for IPv6")?;
        Ok(BreakerTarget::Endpoint(backend, endpoint))
    }
}

fn parse_backend(text: &str) -> Option<ServiceRef> {
    let (namespace, rest) = text.split_once('/')?;
    let (name, port) = rest.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    if namespace.is_empty() || name.is_empty() {
        return None;
    }
    Some(ServiceRef {
        namespace: namespace.into(),
        name: name.into(),
        port,
    })
}

/// Undoes percent-encoding (RFC 3986 section 2.1); a plus stays a plus.
fn percent_decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digit = |index: usize| (*after.get(index)? as char).to_digit(16);
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err("a percent sign without two hexadecimal digits".to_owned());
        };
        bytes.push((high * 16 + low) as u8);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| "a parameter is not UTF-8".to_owned())
}

fn error(status: StatusCode, sentence: &str) -> Answer {
    json_answer(status, &json!({"error": sentence}))
}

fn json_answer(status: StatusCode, body: &Value) -> Answer {
    answer_of(status, JSON, format!("{body:#}\n"))
}

fn text(status: StatusCode, body: &'static str) -> Answer {
    answer_of(status, TEXT, body)
}

/// hyper adds content-length, and leaves the body out for HEAD.
fn answer_of(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
