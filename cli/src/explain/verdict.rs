//! What the sidecars do with a sample request: compiled by the control plane, decided by the
//! sidecar's own code. Here answers are only gathered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, Request, StatusCode};
use serde::Serialize;
use weft_control_plane::compile::{Client, compile};
use weft_control_plane::explain::{Explained, Explainer};
use weft_control_plane::index::Workload;
use weft_control_plane::policy::PolicyDuration;
use weft_proto::discovery::resource_key::Kind;
use weft_proto::discovery::{AuthorityKey, ResourceKey, update};
use weft_proxy::http::headers;
use weft_proxy::outcome::{Outcome, Processed};
use weft_proxy::policy::{
    AbortStatus, FallbackAnswer, OutboundTarget, RetryPolicy, Route, RouteMatch, ServiceTarget,
    Split, Sticky, Timeouts, decode,
};
use weft_proxy::resilience::attempt::{Answer, TryResult};
use weft_proxy::resilience::deadline::{Deadline, parse_grpc_timeout};
use weft_proxy::resilience::fault::Fault;
use weft_proxy::resilience::retry::{self, RetryDecision, StopReason};
use weft_proxy::resilience::{route, split};

use super::ranges::ranges;
use super::server::{self, Server};

/// Everything about one request.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Verdict {
    /// The request's first line.
    pub(super) request: String,
    /// Whether it is gRPC's.
    pub(super) grpc: bool,
    /// Whether it is a stream, as far as the request tells.
    pub(super) streams: bool,
    /// The route that it takes: a rule's name, or `default`.
    pub(super) route: String,
    /// Rules that stand before it and do not match.
    pub(super) passed_over: Vec<PassedOver>,
    /// Where it goes.
    pub(super) destination: Destination,
    /// Failures that are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fault: Option<FaultOdds>,
    /// Which failed tries are repeated.
    pub(super) retries: Repeats,
    /// Time that it has.
    pub(super) deadline: Times,
    /// Who gets copies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mirror: Option<Copies>,
    /// What answers where no server does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fallback: Option<StandIn>,
    /// What the servers' sidecars say.
    pub(super) servers: Vec<Server>,
}

/// A rule that does not match.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PassedOver {
    pub(super) rule: String,
    /// Per match of the rule: its parts that do not fit.
    pub(super) differs_in: Vec<Vec<String>>,
}

/// Where a request goes.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Destination {
    /// `only`, `forced`, `key`, `newCookie`, `chance` or `nowhere`.
    pub(super) by: &'static str,
    /// What the key is, where the split is sticky.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
    /// The key's point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) point: Option<String>,
    /// The backend, where it is certain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) backend: Option<String>,
    /// The sides in their order.
    pub(super) ranges: Vec<Range>,
    /// What an empty side means.
    pub(super) when_empty: &'static str,
}

/// A side of a split.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Range {
    pub(super) backend: String,
    pub(super) weight: u32,
    /// Share of all points in percent.
    pub(super) share_percent: f64,
    /// Shares of this side and those before it, in percent.
    pub(super) up_to_percent: f64,
    /// First and last point in hexadecimal; none falls on a side of weight 0.
    pub(super) points: Option<(String, String)>,
    /// Endpoints that clients are told of; `None` where there is no such service port.
    pub(super) endpoints: Option<usize>,
}

/// Failures that are asked for.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FaultOdds {
    /// Whether the request has the headers that the fault asks for.
    pub(super) applies: bool,
    pub(super) delay: Option<String>,
    pub(super) delay_percent: u32,
    pub(super) abort: Option<String>,
    pub(super) abort_percent: u32,
}

/// Which failed tries are repeated.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Repeats {
    /// Tries after the first.
    pub(super) attempts: u32,
    /// Why it may be repeated though it may have been processed; none where it may not.
    pub(super) because: Option<String>,
    /// Bodies up to this size are kept.
    pub(super) body_limit_bytes: usize,
    /// By what happens to a try.
    pub(super) after: Vec<After>,
}

/// What follows a failed try.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct After {
    pub(super) failure: String,
    pub(super) repeated: bool,
    /// The word for why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why_not: Option<&'static str>,
}

/// Time that a request has.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Times {
    /// What the policy gives it.
    pub(super) request: Option<String>,
    /// What its client gives it.
    pub(super) grpc_timeout: Option<String>,
    /// What holds: the shorter one.
    pub(super) deadline: Option<String>,
    /// Which event ends the deadline's reign: `responseHead` of streams, else `lastByte`.
    pub(super) until: &'static str,
    pub(super) per_try: Option<String>,
    pub(super) idle: Option<String>,
    /// A stream's whole life.
    pub(super) stream: Option<String>,
}

/// Copies of requests.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Copies {
    pub(super) backend: String,
    /// Share of requests like this one; what streams is never copied, but calls where a route says so.
    pub(super) percent: f64,
    /// Longer ones are not copied.
    pub(super) body_limit_bytes: usize,
}

/// A fallback.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StandIn {
    pub(super) triggers: Vec<String>,
    pub(super) response: Option<u16>,
    pub(super) backend: Option<String>,
}

/// A service port as a sidecar understands it.
pub(super) fn target_of(
    explainer: &Explainer,
    explained: &Explained,
    from: Option<&Workload>,
) -> anyhow::Result<Arc<ServiceTarget>> {
    let (namespace, name) = explained.service.split_once('/').unwrap_or_default();
    let client = Client {
        namespace: from
            .map_or(namespace, |from| &from.name.namespace)
            .to_owned(),
        service_account: from.map_or_else(String::new, |from| from.service_account.clone()),
        workload: from.map_or_else(String::new, |from| from.name.name.clone()),
        zone: from.map_or_else(String::new, |from| from.zone.clone()),
    };
    let authority = format!("{name}.{namespace}:{}", explained.port);
    let kind = Some(Kind::Authority(AuthorityKey { authority }));
    let compiled = compile(explainer.model(), &client, &ResourceKey { kind });
    let update::Resource::Outbound(message) = compiled else {
        anyhow::bail!("the control plane makes nothing of {}", explained.service);
    };
    match decode::outbound(&message)? {
        OutboundTarget::Service(target) => Ok(target),
        OutboundTarget::Endpoint(_) | OutboundTarget::NotFound => {
            anyhow::bail!("{} is no service for its clients", explained.service)
        }
    }
}

/// What happens to a request for `target`, which `explained` is about.
pub(super) fn verdict(
    explainer: &Explainer,
    explained: &Explained,
    target: &ServiceTarget,
    from: Option<&Workload>,
    mut request: Request<()>,
) -> anyhow::Result<Verdict> {
    let line = format!("{} {}", request.method(), request.uri());
    // As the sidecar's stack does it before it looks for a route.
    let grpc = headers::is_grpc(request.headers());
    let streams = headers::request_streams(&request);
    let upgrading = headers::upgrade_wanted(&request);
    headers::strip_hop_by_hop(request.headers_mut(), upgrading);
    headers::strip_ours(request.headers_mut());

    let fits = |routes: &[Route]| {
        let (path, query) = (request.uri().path(), request.uri().query());
        route::match_route(routes, request.method(), path, query, request.headers())
    };
    let Some(at) = fits(&target.routes) else {
        anyhow::bail!(
            "no route of {} matches: the request is answered 404, with the outcome no_route",
            explained.service
        );
    };
    let route = &target.routes[at];
    let passed_over = target.routes[..at].iter().map(|route| PassedOver {
        rule: route.name.to_string(),
        differs_in: route
            .matches
            .iter()
            .map(|it| differences(route, it, &fits))
            .collect(),
    });
    let destination = destination(explained, target, route, from, request.headers());
    let servers = server::of(explainer, explained, &destination, from, Some(&request))?;
    Ok(Verdict {
        grpc,
        streams,
        route: route.name.to_string(),
        passed_over: passed_over.collect(),
        fault: fault(route, request.headers()),
        retries: repeats(route.retries.as_ref(), &request, grpc),
        deadline: times(&route.timeouts, request.headers(), grpc, streams),
        mirror: copies(target, route, (streams, grpc)),
        fallback: fallback(target, route),
        destination,
        servers,
        request: line,
    })
}

/// The parts of a match that do not fit: each is asked for alone.
fn differences(
    route: &Route,
    whole: &RouteMatch,
    fits: &impl Fn(&[Route]) -> Option<usize>,
) -> Vec<String> {
    let any = RouteMatch {
        path: None,
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
        grpc: false,
    };
    let mut parts = Vec::new();
    if whole.path.is_some() {
        let path = whole.path.clone();
        parts.push((
            "path".to_owned(),
            RouteMatch {
                path,
                ..any.clone()
            },
        ));
    }
    if whole.method.is_some() {
        let method = whole.method.clone();
        parts.push((
            "method".to_owned(),
            RouteMatch {
                method,
                ..any.clone()
            },
        ));
    }
    for header in &whole.headers {
        let headers = vec![header.clone()];
        parts.push((
            format!("header {}", header.name),
            RouteMatch {
                headers,
                ..any.clone()
            },
        ));
    }
    for param in &whole.query {
        let query = vec![param.clone()];
        parts.push((
            format!("query {}", param.name),
            RouteMatch {
                query,
                ..any.clone()
            },
        ));
    }
    if whole.grpc {
        parts.push((
            "gRPC".to_owned(),
            RouteMatch {
                grpc: true,
                ..any.clone()
            },
        ));
    }
    let differs = |part: &RouteMatch| {
        let matches = vec![part.clone()];
        fits(&[Route {
            matches,
            ..route.clone()
        }])
        .is_none()
    };
    let parts = parts.into_iter();
    parts
        .filter(|(_, part)| differs(part))
        .map(|(name, _)| name)
        .collect()
}

fn destination(
    explained: &Explained,
    target: &ServiceTarget,
    route: &Route,
    from: Option<&Workload>,
    headers: &HeaderMap,
) -> Destination {
    let Split {
        backends,
        sticky,
        next_when_empty,
        mirror: _,
    } = &route.split;
    let named = |side: usize| name_of(target, &backends[side]);
    let mut destination = Destination {
        by: "chance",
        key: None,
        point: None,
        backend: None,
        ranges: sides(explained, target, &route.split),
        when_empty: if *next_when_empty {
            "NextBackend"
        } else {
            "Fail"
        },
    };
    let has_endpoints = |side: usize| destination.ranges[side].endpoints.is_some_and(|n| n > 0);
    if backends.len() == 1 {
        destination.by = "only";
        destination.backend = Some(named(0));
        return destination;
    }
    if let Some(side) = split::forced(&route.split.backends, headers) {
        destination.by = "forced";
        destination.backend = Some(named(side));
        return destination;
    }
    if split::choose(backends, 0).is_none() {
        destination.by = "nowhere";
        return destination;
    }
    let Some(sticky) = sticky else {
        return destination;
    };
    let caller = from.map(|from| from.name.to_string());
    destination.key = Some(match sticky {
        Sticky::ClientIdentity => match &caller {
            Some(caller) => format!("the calling workload, {caller}"),
            None => "the calling workload; say which one with --from".to_owned(),
        },
        Sticky::Header(name) => format!("header {name}"),
        Sticky::Cookie { name, .. } => format!("cookie {name}"),
    });
    let unknown = matches!(sticky, Sticky::ClientIdentity) && caller.is_none();
    let key = split::key(sticky, headers, caller.as_deref().unwrap_or_default());
    match key.filter(|_| !unknown) {
        Some(key) => {
            let point = split::KeyHasher::new(&target.service).hash(key);
            let side = split::choose(backends, point);
            let next = |side| {
                let is_full = |it: &weft_proxy::policy::WeightedBackend| {
                    let at = backends.iter().position(|known| known == it);
                    at.is_some_and(has_endpoints)
                };
                let next = split::next_when_empty(backends, side, is_full);
                next.filter(|_| *next_when_empty && !has_endpoints(side))
                    .unwrap_or(side)
            };
            let backend = side.map(|side| named(next(side)));
            destination.by = "key";
            destination.point = Some(hex(point));
            destination.backend = backend;
        }
        None if matches!(sticky, Sticky::Cookie { .. }) => destination.by = "newCookie",
        None => {}
    }
    destination
}

fn sides(explained: &Explained, target: &ServiceTarget, split: &Split) -> Vec<Range> {
    let total: u64 = split
        .backends
        .iter()
        .map(|side| u64::from(side.weight))
        .sum();
    let percent = |weight: u64| {
        let share = 100.0 * weight as f64 / total.max(1) as f64;
        (share * 100.0).round() / 100.0
    };
    let mut up_to = 0;
    let sides = split.backends.iter().zip(ranges(&split.backends));
    sides
        .map(|(side, points)| {
            up_to += u64::from(side.weight);
            let backend = name_of(target, side);
            let known = explained
                .backends
                .iter()
                .find(|known| known.backend == backend);
            Range {
                weight: side.weight,
                share_percent: percent(u64::from(side.weight)),
                up_to_percent: percent(up_to),
                points: points.map(|(from, to)| (hex(from), hex(to))),
                endpoints: known.and_then(|known| known.endpoints),
                backend,
            }
        })
        .collect()
}

/// A side's backend, or why it has none.
fn name_of(target: &ServiceTarget, side: &weft_proxy::policy::WeightedBackend) -> String {
    match &side.unusable {
        None => target.backends[side.backend].service.to_string(),
        Some(why) => format!("nowhere ({why})"),
    }
}

fn hex(point: u64) -> String {
    format!("{point:016x}")
}

fn fault(route: &Route, headers: &HeaderMap) -> Option<FaultOdds> {
    let policy = route.fault.as_ref()?;
    // The lowest draw meets whatever has any chance.
    let met = Fault::draw(policy, headers, || 0);
    Some(FaultOdds {
        applies: met != Fault::default(),
        delay: policy.delay.map(|delay| duration(delay.duration)),
        delay_percent: policy.delay.map_or(0, |delay| delay.percent),
        abort: policy.abort.map(|abort| match abort.status {
            AbortStatus::Grpc(code) => format!("gRPC status {code}"),
            AbortStatus::Http(status) => format!("status {}", status.as_u16()),
        }),
        abort_percent: policy.abort.map_or(0, |abort| abort.percent),
    })
}

fn repeats(policy: Option<&RetryPolicy>, request: &Request<()>, grpc: bool) -> Repeats {
    let idempotency_key = request.headers().contains_key("idempotency-key");
    let failed = |outcome, processed| TryResult::Failed { outcome, processed };
    let mut results = vec![
        (
            "connect failure".to_owned(),
            failed(Outcome::ConnectRefused, Processed::Never),
        ),
        (
            "refused stream".to_owned(),
            failed(Outcome::Reset, Processed::Never),
        ),
        ("reset".to_owned(), failed(Outcome::Reset, Processed::Maybe)),
        (
            "perTry over".to_owned(),
            failed(Outcome::TryTimeout, Processed::Maybe),
        ),
    ];
    for code in policy.iter().flat_map(|policy| &policy.status_codes) {
        let status = StatusCode::from_u16(*code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        results.push((
            format!("status {code}"),
            TryResult::Answered(Answer::plain(status)),
        ));
    }
    for code in policy
        .iter()
        .filter(|_| grpc)
        .flat_map(|policy| &policy.grpc_codes)
    {
        let answer = Answer {
            grpc_status: Some(*code),
            ..Answer::plain(StatusCode::OK)
        };
        results.push((format!("gRPC status {code}"), TryResult::Answered(answer)));
    }
    let after = results.into_iter().map(|(failure, result)| {
        let request = retry::Request {
            method: request.method(),
            idempotency_key,
            replayable: true,
            attempt: 1,
            failed_probe: false,
            free_used: false,
            remaining: None,
        };
        let mut rng = fastrand::Rng::with_seed(0);
        let why_not = match RetryDecision::decide(policy, &request, &result, &mut rng) {
            RetryDecision::Retry { .. } => None,
            RetryDecision::Stop(reason) => Some(StopReason::as_str(reason)),
        };
        After {
            failure,
            repeated: why_not.is_none(),
            why_not,
        }
    });
    let method = request.method();
    let because = match policy {
        Some(_) if idempotency_key => Some("it carries Idempotency-Key".to_owned()),
        Some(policy) if policy.methods.contains(method) => Some(format!("{method} is in methods")),
        Some(policy) if grpc && !policy.grpc_codes.is_empty() => {
            Some("grpcCodes name what may be repeated".to_owned())
        }
        _ => None,
    };
    Repeats {
        attempts: policy.map_or(0, |policy| policy.attempts),
        because,
        body_limit_bytes: policy.map_or(0, |policy| policy.body_limit_bytes),
        after: after.collect(),
    }
}

fn times(timeouts: &Timeouts, headers: &HeaderMap, grpc: bool, streams: bool) -> Times {
    let own = headers
        .get("grpc-timeout")
        .filter(|_| grpc)
        .and_then(|value| parse_grpc_timeout(value.as_bytes()));
    let start = Instant::now();
    let deadline = Deadline::after(start, timeouts.request).min(Deadline::after(start, own));
    Times {
        request: timeouts.request.map(duration),
        grpc_timeout: own.map(duration),
        deadline: deadline.remaining(start).map(duration),
        until: if streams { "responseHead" } else { "lastByte" },
        per_try: timeouts.per_try.map(duration),
        idle: timeouts.idle.map(duration),
        stream: timeouts.stream.map(duration),
    }
}

fn copies(target: &ServiceTarget, route: &Route, (streams, grpc): (bool, bool)) -> Option<Copies> {
    const HUNDRED: f64 = 100.0;
    let mirror = route.split.mirror.as_ref()?;
    let is_copied = if grpc { mirror.calls } else { !streams };
    let percent = HUNDRED * f64::from(mirror.share) / f64::from(mirror.out_of);
    Some(Copies {
        backend: target.backends[mirror.backend].service.to_string(),
        percent: if is_copied { percent } else { 0.0 },
        body_limit_bytes: mirror.body_limit_bytes,
    })
}

fn fallback(target: &ServiceTarget, route: &Route) -> Option<StandIn> {
    let policy = route.fallback.as_ref()?;
    let (response, backend) = match &policy.answer {
        FallbackAnswer::Response(response) => (Some(response.status.as_u16()), None),
        FallbackAnswer::Backend(at) => (None, Some(target.backends[*at].service.to_string())),
    };
    Some(StandIn {
        triggers: policy.triggers.iter().map(|it| format!("{it:?}")).collect(),
        response,
        backend,
    })
}

/// As policies write it; what is finer than a millisecond is left out.
fn duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    PolicyDuration::from_millis(millis).to_string()
}
