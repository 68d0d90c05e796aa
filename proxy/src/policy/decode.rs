//! From the wire to the types of this process.
//!
//! What breaks the wire's rules is refused whole, with the place and the reason: the last good
//! version stays in force, and the control plane hears why. Nothing is guessed and nothing is
//! defaulted, since a sidecar that fills in for a newer control plane would enforce something that
//! nobody wrote. Enum values that this version does not know are refused for the same reason.

mod rate_limit;

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use weft_proto::discovery as wire;
use weft_proto::pattern::Pattern;
use weft_proto::spiffe::SpiffeId;

use super::{
    AllowEntry, AllowList, BackendPolicy, Balancer, BreakerPolicy, BreakerScope, BudgetPolicy,
    CookieMatch, EndpointInfo, EndpointTarget, ErrorRate, ExplicitListener, FallbackPolicy,
    FaultPolicy, HeaderEdits, HeaderMatch, InboundPolicy, Limits, MeshInfo, MirrorPolicy, MtlsMode,
    OutboundTarget, PathMatch, Principal, Probe, Protocol, QueryMatch, RetryPolicy, Route,
    RouteFilters, RouteMatch, ServiceRef, ServiceTarget, Split, SplitMatch, Sticky, Timeouts,
    ValueMatch, WeightedBackend,
};

/// Why a message is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct DecodeError {
    /// Where, as `routes[2].split`.
    place: String,
    why: Cow<'static, str>,
}

type Decoded<T> = Result<T, DecodeError>;

/// A change of a set of endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointsDelta {
    /// New or changed.
    pub upsert: Vec<EndpointInfo>,
    /// Gone.
    pub remove: Vec<SocketAddr>,
}

/// What holds for the whole sidecar.
pub fn mesh_info(reply: &wire::HelloReply) -> Decoded<MeshInfo> {
    if reply.trust_domain.is_empty() {
        return Err(missing("trust_domain"));
    }
    Ok(MeshInfo {
        trust_domain: reply.trust_domain.as_str().into(),
        networks: each("networks", &reply.networks, |text| parse(text))?,
        explicit_listeners: each(
            "explicit_listeners",
            &reply.explicit_listeners,
            |listener| {
                Ok(ExplicitListener {
                    address: parse(&listener.address).map_err(at("address"))?,
                    destination: address(&listener.ip, listener.port)?,
                })
            },
        )?,
        server_first_ports: each("server_first_ports", &reply.server_first_ports, |&number| {
            port(number)
        })?,
        zone: reply.zone.as_str().into(),
    })
}

/// What a destination means.
pub fn outbound(message: &wire::Outbound) -> Decoded<OutboundTarget> {
    use wire::outbound::Target;
    match message.target.as_ref().ok_or(missing("target"))? {
        Target::Service(service) => {
            let service = service_target(service).map_err(at("service"))?;
            Ok(OutboundTarget::Service(Arc::new(service)))
        }
        Target::Endpoint(endpoint) => {
            let target = endpoint_target(endpoint).map_err(at("endpoint"))?;
            Ok(OutboundTarget::Endpoint(target))
        }
    }
}

/// A whole set of endpoints.
pub fn endpoints(message: &wire::Endpoints) -> Decoded<Vec<EndpointInfo>> {
    each("endpoints", &message.endpoints, endpoint)
}

/// A change of a set of endpoints.
pub fn endpoints_delta(message: &wire::EndpointsDelta) -> Decoded<EndpointsDelta> {
    Ok(EndpointsDelta {
        upsert: each("upsert", &message.upsert, endpoint)?,
        remove: each("remove", &message.remove, socket_address)?,
    })
}

/// How the own workload is served on a port.
pub fn inbound(message: &wire::Inbound) -> Decoded<InboundPolicy> {
    let mtls = match known("mtls", message.mtls)? {
        wire::MtlsMode::Unspecified => return Err(missing("mtls")),
        wire::MtlsMode::Strict => MtlsMode::Strict,
        wire::MtlsMode::Permissive => MtlsMode::Permissive,
        wire::MtlsMode::Disabled => MtlsMode::Disabled,
    };
    let lists = message
        .authorization
        .as_ref()
        .map_or(&[][..], |it| &it.lists);
    if message.authorization.is_some() && lists.is_empty() {
        // "All of no lists allow" would let everybody in.
        return Err(refuse("authorization", "no list"));
    }
    Ok(InboundPolicy {
        mtls,
        protocol: protocol(message.protocol)?,
        authorization: each("authorization.lists", lists, allow_list)?,
        rate_limits: each("rate_limits", &message.rate_limits, rate_limit::decode)?,
        ruled_rate_limits: each(
            "ruled_rate_limits",
            &message.ruled_rate_limits,
            rate_limit::ruled,
        )?,
        probes: each("probes", &message.probes, |probe| {
            Ok(Probe {
                path: path(&probe.path)?,
                method: method(&probe.method)?,
            })
        })?,
        terminating: message.terminating,
        services: each("services", &message.services, service_ref)?,
    })
}

/// A service port, which must have a namespace, a name and a port.
pub fn service_ref(message: &wire::ServiceRef) -> Decoded<ServiceRef> {
    if message.namespace.is_empty() {
        return Err(missing("namespace"));
    }
    if message.name.is_empty() {
        return Err(missing("name"));
    }
    Ok(ServiceRef {
        namespace: message.namespace.as_str().into(),
        name: message.name.as_str().into(),
        port: port(message.port)?,
    })
}

/// An address with a port.
pub fn socket_address(message: &wire::SocketAddress) -> Decoded<SocketAddr> {
    address(&message.ip, message.port)
}

/// An address of 4 or 16 bytes and a port from 1. IPv4 in IPv6's clothes is IPv4.
pub fn address(ip: &[u8], number: u32) -> Decoded<SocketAddr> {
    let ip = match ip.len() {
        4 => <[u8; 4]>::try_from(ip)
            .ok()
            .map(Ipv4Addr::from)
            .map(IpAddr::V4),
        16 => <[u8; 16]>::try_from(ip)
            .ok()
            .map(Ipv6Addr::from)
            .map(IpAddr::V6),
        _ => None,
    };
    let ip = ip.ok_or_else(|| refuse("ip", "neither 4 nor 16 bytes"))?;
    Ok(SocketAddr::new(ip.to_canonical(), port(number)?))
}

fn service_target(message: &wire::ServiceTarget) -> Decoded<ServiceTarget> {
    let service = message.service.as_ref().ok_or(missing("service"))?;
    let service = service_ref(service).map_err(at("service"))?;
    target_of(service, message)
}

fn target_of(service: ServiceRef, message: &wire::ServiceTarget) -> Decoded<ServiceTarget> {
    // Where routes are only about requests there may be none: no request has one then.
    if message.routes.is_empty() && message.bytes.is_none() {
        return Err(missing("routes"));
    }
    let backends = message.backends.len();
    Ok(ServiceTarget {
        service,
        protocol: protocol(message.protocol)?,
        routes: each("routes", &message.routes, |it| route(it, backends))?,
        backends: each("backends", &message.backends, backend)?,
        bytes: optional("bytes", message.bytes.as_ref(), |it| split(it, backends))?,
    })
}

fn endpoint_target(message: &wire::EndpointTarget) -> Decoded<EndpointTarget> {
    let of = message.endpoint.as_ref().ok_or(missing("endpoint"))?;
    let endpoint = endpoint(of).map_err(at("endpoint"))?;
    let policy = message.policy.as_ref().ok_or(missing("policy"))?;
    // A namespace's policy belongs to no service: its name stays empty, its port is the endpoint's.
    let service = match policy.service.as_ref() {
        Some(service) if !service.name.is_empty() => {
            service_ref(service).map_err(at("policy.service"))?
        }
        _ => ServiceRef {
            namespace: Arc::clone(&endpoint.namespace),
            name: "".into(),
            port: endpoint.address.port(),
        },
    };
    Ok(EndpointTarget {
        aliases: each("aliases", &message.aliases, alias)?,
        policy: Arc::new(target_of(service, policy).map_err(at("policy"))?),
        endpoint,
    })
}

fn alias(message: &wire::AuthorityAlias) -> Decoded<(ServiceRef, Vec<Box<str>>)> {
    let service = message.service.as_ref().ok_or(missing("service"))?;
    let service = service_ref(service).map_err(at("service"))?;
    let authorities = each("authorities", &message.authorities, |text| {
        let plain = !text.is_empty() && !text.bytes().any(|b| b.is_ascii_uppercase());
        if plain {
            Ok(text.as_str().into())
        } else {
            Err(refuse("", "empty or not lower case"))
        }
    })?;
    Ok((service, authorities))
}

fn route(message: &wire::Route, backends: usize) -> Decoded<Route> {
    let split = message.split.as_ref().ok_or(missing("split"))?;
    Ok(Route {
        name: message.name.as_str().into(),
        matches: each("matches", &message.matches, route_match)?,
        timeouts: optional("timeouts", message.timeouts.as_ref(), timeouts)?.unwrap_or_default(),
        retries: optional("retries", message.retries.as_ref(), retries)?,
        split: self::split(split, backends).map_err(at("split"))?,
        fault: optional("fault", message.fault.as_ref(), FaultPolicy::decode)?,
        fallback: optional("fallback", message.fallback.as_ref(), |fallback| {
            FallbackPolicy::decode(fallback, backends)
        })?,
        filters: optional("filters", message.filters.as_ref(), RouteFilters::decode)?.map(Box::new),
    })
}

fn route_match(message: &wire::RouteMatch) -> Decoded<RouteMatch> {
    use wire::path_match::Kind;
    let path_match = |it: &wire::PathMatch| match it.kind.as_ref().ok_or(missing("kind"))? {
        Kind::Exact(text) => Ok(PathMatch::Exact(path(text)?)),
        Kind::Prefix(text) => Ok(PathMatch::Prefix(path(text)?)),
        Kind::Regex(text) => Ok(PathMatch::Regex(pattern(text).map_err(at("regex"))?)),
    };
    Ok(RouteMatch {
        path: optional("path", message.path.as_ref(), path_match)?,
        method: match message.method.as_str() {
            "" => None,
            text => Some(method(text)?),
        },
        headers: each("headers", &message.headers, header_match)?,
        query: each("query", &message.query, |it| {
            if it.name.is_empty() {
                return Err(missing("name"));
            }
            Ok(QueryMatch {
                name: it.name.as_str().into(),
                value: it.value.as_str().into(),
                pattern: if it.regex {
                    Some(pattern(&it.value).map_err(at("value"))?)
                } else {
                    None
                },
            })
        })?,
        grpc: message.grpc,
    })
}

pub(super) fn header_match(message: &wire::HeaderMatch) -> Decoded<HeaderMatch> {
    use wire::HeaderMatchKind as Kind;
    let value = HeaderValue::from_str(&message.value);
    let value = value.map_err(|_| refuse("value", "not a header value"));
    Ok(HeaderMatch {
        name: header_name(&message.name)?,
        value: match known("kind", message.kind)? {
            Kind::Exact => ValueMatch::Exact(value?),
            Kind::Prefix => ValueMatch::Prefix(value?.as_bytes().into()),
            Kind::Regex => ValueMatch::Regex(pattern(&message.value).map_err(at("value"))?),
            Kind::Present => ValueMatch::Present,
        },
    })
}

fn pattern(text: &str) -> Decoded<Pattern> {
    Pattern::new(text).map_err(|why| refuse("", why.to_string()))
}

fn timeouts(message: &wire::Timeouts) -> Decoded<Timeouts> {
    Ok(Timeouts {
        request: optional("request", message.request.as_ref(), positive)?,
        per_try: optional("per_try", message.per_try.as_ref(), positive)?,
        idle: optional("idle", message.idle.as_ref(), positive)?,
        stream: optional("stream", message.stream.as_ref(), positive)?,
    })
}

fn retries(message: &wire::Retries) -> Decoded<RetryPolicy> {
    use wire::RetryCondition as Condition;
    let conditions = each("conditions", &message.conditions, |&value| {
        match known("", value)? {
            Condition::Unspecified => Err(refuse("", "unspecified")),
            condition => Ok(condition),
        }
    })?;
    let backoff = message.backoff.as_ref().ok_or(missing("backoff"))?;
    let budget = message.budget.as_ref().ok_or(missing("budget"))?;
    Ok(RetryPolicy {
        attempts: message.attempts,
        on_connect_failure: conditions.contains(&Condition::ConnectFailure),
        on_refused_stream: conditions.contains(&Condition::RefusedStream),
        on_reset: conditions.contains(&Condition::Reset),
        on_per_try_timeout: conditions.contains(&Condition::PerTryTimeout),
        status_codes: each("status_codes", &message.status_codes, |&it| status(it))?,
        grpc_codes: each("grpc_codes", &message.grpc_codes, |&code| {
            const LAST: u32 = 16;
            u8::try_from(code)
                .ok()
                .filter(|_| code <= LAST)
                .ok_or_else(|| refuse("", "not a gRPC status"))
        })?,
        methods: each("methods", &message.methods, |text| method(text))?,
        backoff_base: required("backoff.base", backoff.base.as_ref(), duration)?,
        backoff_max: required("backoff.max", backoff.max.as_ref(), duration)?,
        budget: BudgetPolicy {
            percent: budget.percent,
            interval: required("budget.interval", budget.interval.as_ref(), positive)?,
            min_retries_per_second: budget.min_retries_per_second,
        },
        body_limit_bytes: message.body_limit_bytes as usize,
        honor_retry_after: message.honor_retry_after,
    })
}

fn split(message: &wire::Split, backends: usize) -> Decoded<Split> {
    if message.backends.is_empty() {
        return Err(missing("backends"));
    }
    Ok(Split {
        backends: each("backends", &message.backends, |side| {
            let backend = side.backend as usize;
            let unusable = !side.unusable.is_empty();
            if backend >= backends && !unusable {
                return Err(refuse("backend", "no such backend"));
            }
            Ok(WeightedBackend {
                backend,
                weight: side.weight,
                forced: each("forced", &side.forced, split_match)?,
                request_headers: optional(
                    "request_headers",
                    side.request_headers.as_ref(),
                    HeaderEdits::decode,
                )?
                .map(Box::new),
                response_headers: optional(
                    "response_headers",
                    side.response_headers.as_ref(),
                    HeaderEdits::decode,
                )?
                .map(Box::new),
                unusable: unusable.then(|| side.unusable.as_str().into()),
            })
        })?,
        sticky: optional("sticky", message.sticky.as_ref(), sticky)?,
        next_when_empty: match known("when_empty", message.when_empty)? {
            wire::WhenEmpty::Fail => false,
            wire::WhenEmpty::NextBackend => true,
        },
        mirror: optional("mirror", message.mirror.as_ref(), |it| mirror(it, backends))?,
    })
}

fn split_match(message: &wire::SplitMatch) -> Decoded<SplitMatch> {
    if message.headers.is_empty() && message.cookies.is_empty() {
        return Err(missing("headers or cookies"));
    }
    Ok(SplitMatch {
        headers: each("headers", &message.headers, header_match)?,
        cookies: each("cookies", &message.cookies, |cookie| {
            Ok(CookieMatch {
                name: cookie_name(&cookie.name).map_err(at("name"))?,
                value: cookie.value.as_deref().map(Into::into),
            })
        })?,
    })
}

fn mirror(message: &wire::Mirror, backends: usize) -> Decoded<MirrorPolicy> {
    const MAX_PERCENT: u32 = 100;
    let backend = message.backend as usize;
    if backend >= backends {
        return Err(refuse("backend", "no such backend"));
    }
    if message.percent > MAX_PERCENT {
        return Err(refuse("percent", "over 100"));
    }
    if message.max_in_flight == 0 {
        return Err(refuse("max_in_flight", "0, where at least 1 is needed"));
    }
    Ok(MirrorPolicy {
        backend,
        percent: message.percent,
        body_limit_bytes: message.body_limit_bytes as usize,
        max_in_flight: message.max_in_flight as usize,
        timeout: required("timeout", message.timeout.as_ref(), positive)?,
    })
}

fn sticky(message: &wire::Sticky) -> Decoded<Sticky> {
    use wire::sticky::Kind;
    match message.kind.as_ref().ok_or(missing("kind"))? {
        Kind::ClientIdentity(true) => Ok(Sticky::ClientIdentity),
        Kind::ClientIdentity(false) => Err(refuse("client_identity", "false")),
        Kind::Header(name) => Ok(Sticky::Header(header_name(name).map_err(at("header"))?)),
        Kind::Cookie(cookie) => Ok(Sticky::Cookie {
            name: cookie_name(&cookie.name).map_err(at("cookie.name"))?,
            ttl: optional("cookie.ttl", cookie.ttl.as_ref(), positive)?,
        }),
    }
}

fn backend(message: &wire::Backend) -> Decoded<BackendPolicy> {
    Ok(BackendPolicy {
        service: required("service", message.service.as_ref(), service_ref)?,
        connect_timeout: required(
            "connect_timeout",
            message.connect_timeout.as_ref(),
            positive,
        )?,
        circuit_breaker: optional(
            "circuit_breaker",
            message.circuit_breaker.as_ref(),
            circuit_breaker,
        )?,
        balancer: required(
            "load_balancer",
            message.load_balancer.as_ref(),
            Balancer::decode,
        )?,
    })
}

fn circuit_breaker(message: &wire::CircuitBreaker) -> Decoded<BreakerPolicy> {
    let at_least_one = |place: &str, value: u32| match value {
        0 => Err(refuse(place, "0, where at least 1 is needed")),
        value => Ok(value),
    };
    Ok(BreakerPolicy {
        scope: match known("scope", message.scope)? {
            wire::BreakerScope::Endpoint => BreakerScope::Endpoint,
            wire::BreakerScope::Backend => BreakerScope::Backend,
        },
        consecutive_failures: non_zero(message.consecutive_failures),
        error_rate: optional("error_rate", message.error_rate.as_ref(), |rate| {
            if !(1..=100).contains(&rate.threshold_percent) {
                return Err(refuse("threshold_percent", "not from 1 to 100"));
            }
            Ok(ErrorRate {
                threshold_percent: rate.threshold_percent,
                min_requests: rate.min_requests,
                window: required("window", rate.window.as_ref(), positive)?,
            })
        })?,
        failure_status_codes: each(
            "failure_status_codes",
            &message.failure_status_codes,
            |&it| status(it),
        )?,
        open_duration: required("open_duration", message.open_duration.as_ref(), positive)?,
        max_open_duration: required(
            "max_open_duration",
            message.max_open_duration.as_ref(),
            positive,
        )?,
        half_open_max_requests: at_least_one(
            "half_open_max_requests",
            message.half_open_max_requests,
        )?,
        half_open_success_threshold: at_least_one(
            "half_open_success_threshold",
            message.half_open_success_threshold,
        )?,
        max_ejection_percent: match message.max_ejection_percent {
            percent @ 0..=100 => percent,
            _ => return Err(refuse("max_ejection_percent", "over 100")),
        },
        limits: optional("limits", message.limits.as_ref(), limits)?,
    })
}

fn limits(message: &wire::Limits) -> Decoded<Limits> {
    let cap = |place: &'static str, value| match value {
        Some(0) => Err(refuse(place, "0, where at least 1 is needed")),
        value => Ok(value),
    };
    Ok(Limits {
        max_connections: cap("max_connections", message.max_connections)?,
        max_pending_requests: message
            .max_pending_requests
            .ok_or_else(|| missing("max_pending_requests"))?,
        max_requests: cap("max_requests", message.max_requests)?,
    })
}

fn endpoint(message: &wire::Endpoint) -> Decoded<EndpointInfo> {
    let identity = match message.spiffe_id.as_str() {
        "" => None,
        text => Some(
            text.parse::<SpiffeId>()
                .map_err(|why| refuse("spiffe_id", why.to_string()))?,
        ),
    };
    if message.weight == 0 {
        return Err(refuse("weight", "0, where at least 1 is needed"));
    }
    Ok(EndpointInfo {
        address: required("address", message.address.as_ref(), socket_address)?,
        identity,
        namespace: message.namespace.as_str().into(),
        workload: message.workload.as_str().into(),
        zone: message.zone.as_str().into(),
        weight: message.weight,
    })
}

fn allow_list(message: &wire::AllowList) -> Decoded<AllowList> {
    Ok(AllowList {
        entries: each("entries", &message.entries, |entry| {
            if entry.principals.is_empty() {
                return Err(missing("principals"));
            }
            Ok(AllowEntry {
                principals: each("principals", &entry.principals, |text| principal(text))?,
                methods: each("methods", &entry.methods, |text| method(text))?,
                paths: each("paths", &entry.paths, |text| path(text))?,
            })
        })?,
        audit: message.audit,
    })
}

fn principal(text: &str) -> Decoded<Principal> {
    let (stem, prefix) = match text.strip_suffix('*') {
        Some(stem) => (stem, true),
        None => (text, false),
    };
    if stem.contains('*') || text.is_empty() {
        return Err(refuse("", "empty, or an asterisk before the end"));
    }
    Ok(if prefix {
        Principal::Prefix(stem.into())
    } else {
        Principal::Exact(stem.into())
    })
}

fn protocol(value: i32) -> Decoded<Protocol> {
    Ok(match known("protocol", value)? {
        wire::Protocol::Unspecified => Protocol::Detect,
        wire::Protocol::Opaque => Protocol::Opaque,
        wire::Protocol::Http1 => Protocol::Http1,
        wire::Protocol::Http2 => Protocol::Http2,
    })
}

fn method(text: &str) -> Decoded<Method> {
    Method::from_bytes(text.as_bytes()).map_err(|_| refuse("method", "not a method"))
}

pub(super) fn header_name(text: &str) -> Decoded<HeaderName> {
    HeaderName::from_lowercase(text.as_bytes())
        .map_err(|_| refuse("name", "not a header name in lower case"))
}

/// A cookie's name is a token, as a header's is (RFC 6265, section 4.1.1).
pub(super) fn cookie_name(text: &str) -> Decoded<Box<str>> {
    match HeaderName::from_bytes(text.as_bytes()) {
        Ok(_) => Ok(text.into()),
        Err(_) => Err(refuse("", "not a cookie name")),
    }
}

fn path(text: &str) -> Decoded<Box<str>> {
    if text.starts_with('/') {
        Ok(text.into())
    } else {
        Err(refuse("path", "does not begin with a slash"))
    }
}

fn status(code: u32) -> Decoded<u16> {
    u16::try_from(code)
        .ok()
        .filter(|code| (100..=599).contains(code))
        .ok_or_else(|| refuse("", "not an HTTP status"))
}

fn port(number: u32) -> Decoded<u16> {
    u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| refuse("port", "not from 1 to 65535"))
}

fn duration(message: &prost_types::Duration) -> Decoded<Duration> {
    Duration::try_from(*message).map_err(|_| refuse("", "a duration out of range"))
}

pub(super) fn positive(message: &prost_types::Duration) -> Decoded<Duration> {
    match duration(message)? {
        Duration::ZERO => Err(refuse("", "a duration of zero")),
        duration => Ok(duration),
    }
}

fn non_zero(value: u32) -> Option<u32> {
    (value != 0).then_some(value)
}

fn parse<T: FromStr<Err: fmt::Display>>(text: &str) -> Decoded<T> {
    text.parse()
        .map_err(|why: T::Err| refuse("", why.to_string()))
}

pub(crate) fn known<T: TryFrom<i32>>(place: &str, value: i32) -> Decoded<T> {
    T::try_from(value).map_err(|_| refuse(place, format!("unknown value {value}")))
}

fn required<M, T>(
    place: &'static str,
    message: Option<&M>,
    decode: impl FnOnce(&M) -> Decoded<T>,
) -> Decoded<T> {
    decode(message.ok_or(missing(place))?).map_err(at(place))
}

pub(super) fn optional<M, T>(
    place: &'static str,
    message: Option<&M>,
    decode: impl FnOnce(&M) -> Decoded<T>,
) -> Decoded<Option<T>> {
    message.map(decode).transpose().map_err(at(place))
}

pub(super) fn each<M, T>(
    place: &str,
    messages: &[M],
    mut decode: impl FnMut(&M) -> Decoded<T>,
) -> Decoded<Vec<T>> {
    messages
        .iter()
        .enumerate()
        .map(|(index, message)| {
            decode(message).map_err(|error| error.within(&format!("{place}[{index}]")))
        })
        .collect()
}

pub(super) fn refuse(place: &str, why: impl Into<Cow<'static, str>>) -> DecodeError {
    DecodeError {
        place: place.to_owned(),
        why: why.into(),
    }
}

pub(super) fn missing(place: &str) -> DecodeError {
    refuse(place, "missing")
}

pub(super) fn at(place: &'static str) -> impl Fn(DecodeError) -> DecodeError {
    move |error| error.within(place)
}

impl DecodeError {
    fn within(self, outer: &str) -> Self {
        let place = match self.place.as_str() {
            "" => outer.to_owned(),
            inner => format!("{outer}.{inner}"),
        };
        Self { place, ..self }
    }
}
