//! Commands to sidecars, as they are posted here, and what became of them; in plain values.

mod tap;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt as _, Limited};
use prost::Message as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;
use weft_proto::discovery::command::Kind;
use weft_proto::discovery::{
    BreakerAction, BreakerCommand, BreakerList, Command, ConfigDump, MetricsDump, ServiceRef,
    SocketAddress, TrafficDirection, TrafficQuery,
};
use weft_proto::replica::{OrderRequest, OrderResponse};

use super::Request;
use super::access::Verb;
use crate::index::Model;
use crate::serve::replicas::{Asked, Orders};

/// Where commands are posted.
pub(super) const PATH: &str = "/command";
/// Longest command, in bytes.
const MAX_BODY: usize = 8 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest name, in bytes: that of a DNS subdomain.
const MAX_NAME: usize = 253;
/// Longest word for a log level, in bytes.
const MAX_LEVEL: usize = 16;
/// Seconds that traffic may be summed over.
const WINDOWS: std::ops::RangeInclusive<u32> = 10..=60;
/// Workloads that are named as not connected.
const MAX_NOT_CONNECTED: usize = 100;

/// What is posted.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Posted {
    /// Sidecars of this namespace only.
    #[serde(default)]
    namespace: String,
    /// This workload's only, which wants its namespace.
    #[serde(default)]
    workload: String,
    command: What,
}

/// What sidecars are to do.
#[derive(Debug, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
enum What {
    /// Tell every breaker.
    Breakers {},
    /// Change breakers.
    Breaker {
        action: Action,
        /// `NAMESPACE/NAME:PORT`; all where it is absent.
        backend: Option<String>,
        /// One of the backend's.
        endpoint: Option<SocketAddr>,
    },
    /// Tell what the sidecar knows.
    Config {},
    /// Change the log level, or tell it where it is empty.
    LogLevel { level: String },
    /// Tell the sidecar's metrics.
    Metrics {},
    /// Tell the exchanges that ended since the last poll.
    Tap(tap::Posted),
    /// Tell sums of traffic.
    Traffic {
        direction: Option<Direction>,
        /// Services of this namespace only.
        #[serde(default)]
        of_namespace: String,
        /// `NAMESPACE/NAME` or `NAMESPACE/NAME:PORT`; all where it is absent.
        #[serde(default)]
        service: String,
        /// Of the last so many seconds; since the sidecars' starts where it is absent.
        window_seconds: Option<u32>,
    },
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Direction {
    Inbound,
    Outbound,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Action {
    Reset,
    Open,
    Close,
}

/// The order that a request asks for, or the code and the words of a refusal.
pub(super) async fn read(request: Request) -> Result<OrderRequest, (StatusCode, String)> {
    if request.method() != http::Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "POST only".to_owned()));
    }
    // A web page can post without asking first, but not as this.
    let kind = request.headers().get(CONTENT_TYPE);
    if kind.is_none_or(|kind| kind != "application/json") {
        let why = "application/json only".to_owned();
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    let body = Limited::new(request.into_body(), MAX_BODY).collect();
    let body = match timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return Err((StatusCode::BAD_REQUEST, format!("the body: {error}"))),
        Err(_) => return Err((StatusCode::REQUEST_TIMEOUT, "the body is late".to_owned())),
    };
    parse(&body).map_err(|why| (StatusCode::BAD_REQUEST, why))
}

/// What it takes to have this done, and what it is, for the log.
pub(super) fn verb(order: &OrderRequest) -> (Verb, String) {
    let command = Command::decode(&*order.command).unwrap_or_default();
    let verb = Verb::of_command(command.kind.as_ref());
    let whose = match (&*order.namespace, &*order.workload) {
        ("", _) => "every sidecar".to_owned(),
        (namespace, "") => format!("sidecars of {namespace}"),
        (namespace, workload) => format!("{namespace}/{workload}"),
    };
    let what = match command.kind {
        Some(Kind::Breaker(breaker)) => {
            let backend = breaker.backend.map_or_else(
                || "all backends".to_owned(),
                |it| format!("{}/{}:{}", it.namespace, it.name, it.port),
            );
            let action = match BreakerAction::try_from(breaker.action) {
                Ok(BreakerAction::ForceOpen) => "open",
                Ok(BreakerAction::ForceClosed) => "close",
                _ => "reset",
            };
            format!("breaker {action} {backend}")
        }
        Some(Kind::LogLevel(level)) => format!("log level {level}"),
        _ => "command".to_owned(),
    };
    (verb, format!("{what}, {whose}"))
}

fn parse(body: &[u8]) -> Result<OrderRequest, String> {
    let posted: Posted = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let Posted {
        namespace,
        workload,
        command,
    } = posted;
    if namespace.len() > MAX_NAME || workload.len() > MAX_NAME {
        return Err(format!("a name is longer than {MAX_NAME}"));
    }
    if namespace.is_empty() && !workload.is_empty() {
        return Err("a workload wants its namespace".to_owned());
    }
    let kind = match command {
        What::Breakers {} => Kind::BreakerList(BreakerList {}),
        What::Config {} => Kind::ConfigDump(ConfigDump {}),
        What::Tap(poll) => Kind::TapPoll(poll.to_wire()?),
        What::Metrics {} => Kind::MetricsDump(MetricsDump {}),
        What::Traffic {
            direction,
            of_namespace,
            service,
            window_seconds,
        } => Kind::Traffic(traffic(direction, of_namespace, service, window_seconds)?),
        What::LogLevel { level } if level.len() > MAX_LEVEL => {
            return Err(format!("no log level: {level}"));
        }
        What::LogLevel { level } => Kind::LogLevel(level),
        What::Breaker {
            action,
            backend,
            endpoint,
        } => Kind::Breaker(breaker(action, backend.as_deref(), endpoint)?),
    };
    let command = Command {
        id: 0,
        kind: Some(kind),
    };
    Ok(OrderRequest {
        namespace,
        workload,
        command: command.encode_to_vec(),
    })
}

fn traffic(
    direction: Option<Direction>,
    namespace: String,
    service: String,
    window_seconds: Option<u32>,
) -> Result<TrafficQuery, String> {
    // A service's name has its namespace's before it and a port behind it.
    if namespace.len() > MAX_NAME || service.len() > 2 * MAX_NAME {
        return Err(format!("a name is longer than {MAX_NAME}"));
    }
    if window_seconds.is_some_and(|seconds| !WINDOWS.contains(&seconds)) {
        let (least, most) = (WINDOWS.start(), WINDOWS.end());
        return Err(format!("a window has {least} to {most} seconds"));
    }
    let direction = match direction {
        None => TrafficDirection::Any,
        Some(Direction::Inbound) => TrafficDirection::Inbound,
        Some(Direction::Outbound) => TrafficDirection::Outbound,
    };
    Ok(TrafficQuery {
        direction: direction.into(),
        namespace,
        service,
        window_seconds: window_seconds.unwrap_or(0),
    })
}

fn breaker(
    action: Action,
    backend: Option<&str>,
    endpoint: Option<SocketAddr>,
) -> Result<BreakerCommand, String> {
    if endpoint.is_some() && backend.is_none() {
        return Err("an endpoint wants its backend".to_owned());
    }
    if backend.is_none() && !matches!(action, Action::Reset) {
        return Err("only reset is for all backends".to_owned());
    }
    let action = match action {
        Action::Reset => BreakerAction::Reset,
        Action::Open => BreakerAction::ForceOpen,
        Action::Close => BreakerAction::ForceClosed,
    };
    Ok(BreakerCommand {
        backend: backend.map(service).transpose()?,
        endpoint: endpoint.map(|at| SocketAddress {
            ip: match at.ip().to_canonical() {
                std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
                std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
            },
            port: at.port().into(),
        }),
        action: action.into(),
    })
}

fn service(text: &str) -> Result<ServiceRef, String> {
    let wrong = || format!("no backend such as NAMESPACE/NAME:PORT: {text}");
    let (name, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let (namespace, name) = name.split_once('/').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let is_name = |name: &str| (1..=MAX_NAME).contains(&name.len()) && !name.contains('/');
    if port == 0 || !is_name(namespace) || !is_name(name) {
        return Err(wrong());
    }
    Ok(ServiceRef {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        port: port.into(),
    })
}

/// What became of it.
pub(super) fn describe(orders: &Orders, model: &Model, order: &OrderRequest) -> Value {
    let answers: Vec<Value> = orders
        .answers()
        .map(|(replica, answer)| {
            let payload = match &*answer.payload {
                "" => Value::Null,
                text => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
            };
            json!({
                "replica": replica,
                "namespace": answer.namespace,
                "name": answer.workload,
                "error": (!answer.error.is_empty()).then_some(&answer.error),
                "payload": payload,
            })
        })
        .collect();
    json!({
        "replicas": orders.asked.iter().map(replica).collect::<Value>(),
        "answers": answers,
        "notConnected": not_connected(orders, model, order),
    })
}

fn replica(asked: &Asked<OrderResponse>) -> Value {
    let answer = asked.answer.as_ref();
    json!({
        "name": answer.map(|answer| &*answer.replica).unwrap_or_default(),
        "address": asked.address.map(|address| address.to_string()),
        "error": answer.err(),
    })
}

/// Whom the order was for and whom no replica that answered is connected to, and whether the mesh knows
/// them at all; at most 100.
fn not_connected(orders: &Orders, model: &Model, order: &OrderRequest) -> Value {
    let connected: BTreeSet<(&str, &str)> = orders
        .answers()
        .map(|(_, answer)| (&*answer.namespace, &*answer.workload))
        .collect();
    let known = model
        .workloads()
        .filter(|workload| workload.meshed && !workload.draining);
    let known = known.map(|workload| (&*workload.name.namespace, &*workload.name.name));
    let is = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
    let mut missing: BTreeSet<_> = known
        .filter(|(namespace, name)| is(&order.namespace, namespace) && is(&order.workload, name))
        .filter(|name| !connected.contains(name))
        .map(|name| (name, true))
        .collect();
    let named = (&*order.namespace, &*order.workload);
    if !order.workload.is_empty() && missing.is_empty() && !connected.contains(&named) {
        missing.insert((named, false));
    }
    let some = missing.into_iter().take(MAX_NOT_CONNECTED);
    some.map(
        |((namespace, name), known)| json!({"namespace": namespace, "name": name, "known": known}),
    )
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(body: &Value) -> Result<Kind, String> {
        let order = parse(body.to_string().as_bytes())?;
        let command = Command::decode(&*order.command).expect("what was encoded");
        Ok(command.kind.expect("a kind"))
    }

    #[test]
    fn commands_are_read() {
        let of = |command: Value| kind(&json!({"namespace": "shop", "command": command}));
        let cart = ServiceRef {
            namespace: "shop".to_owned(),
            name: "cart".to_owned(),
            port: 80,
        };
        let read = of(json!({
            "kind": "breaker", "action": "open", "backend": "shop/cart:80",
            "endpoint": "[::ffff:10.0.0.1]:8080",
        }));
        let wanted = BreakerCommand {
            backend: Some(cart),
            endpoint: Some(SocketAddress {
                ip: vec![10, 0, 0, 1],
                port: 8080,
            }),
            action: BreakerAction::ForceOpen.into(),
        };
        assert_eq!(read, Ok(Kind::Breaker(wanted)));
        let reset = of(json!({"kind": "breaker", "action": "reset"}));
        assert_eq!(reset, Ok(Kind::Breaker(BreakerCommand::default())));
        let level = of(json!({"kind": "logLevel", "level": "debug"}));
        assert_eq!(level, Ok(Kind::LogLevel("debug".to_owned())));
        let traffic = of(json!({
            "kind": "traffic", "direction": "outbound", "service": "shop/cart", "windowSeconds": 30,
        }));
        let wanted = TrafficQuery {
            direction: TrafficDirection::Outbound.into(),
            namespace: String::new(),
            service: "shop/cart".to_owned(),
            window_seconds: 30,
        };
        assert_eq!(traffic, Ok(Kind::Traffic(wanted)));
        for (name, wanted) in [
            ("traffic", Kind::Traffic(TrafficQuery::default())),
            ("breakers", Kind::BreakerList(BreakerList {})),
            ("config", Kind::ConfigDump(ConfigDump {})),
            ("metrics", Kind::MetricsDump(MetricsDump {})),
        ] {
            assert_eq!(of(json!({"kind": name})), Ok(wanted));
        }
    }

    #[test]
    fn what_is_no_command_is_refused() {
        let long = "x".repeat(MAX_NAME + 1);
        for (body, words) in [
            (json!({}), "missing field `command`"),
            (json!({"command": {"kind": "explode"}}), "explode"),
            (
                json!({"command": {"kind": "traffic", "windowSeconds": 61}}),
                "10 to 60 seconds",
            ),
            (
                json!({"command": {"kind": "traffic", "ofNamespace": long}}),
                "longer than 253",
            ),
            (json!({"command": {"kind": "config"}, "all": true}), "all"),
            (
                json!({"workload": "web", "command": {"kind": "config"}}),
                "its namespace",
            ),
            (
                json!({"namespace": long, "command": {"kind": "config"}}),
                "longer than 253",
            ),
            (
                json!({"command": {"kind": "logLevel", "level": long}}),
                "no log level",
            ),
            (
                json!({"command": {"kind": "breaker", "action": "open"}}),
                "only reset",
            ),
            (
                json!({"command": {"kind": "breaker", "action": "reset", "endpoint": "10.0.0.1:80"}}),
                "its backend",
            ),
        ] {
            let error = kind(&body).expect_err("no command");
            assert!(error.contains(words), "{body}: {error}");
        }
        for backend in [
            "cart:80",
            "shop/cart",
            "shop/cart:0",
            "/cart:80",
            "a/b/c:80",
            "a/:80",
        ] {
            let command = json!({"kind": "breaker", "action": "open", "backend": backend});
            let error = kind(&json!({"command": command})).expect_err("no backend");
            assert!(error.contains("NAMESPACE/NAME:PORT"), "{error}");
        }
    }
}
