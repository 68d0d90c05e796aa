//! Stanzas as wire messages, with the mesh's defaults where there is none.

use std::net::IpAddr;
use std::time::Duration;

use weft_proto::discovery as wire;
use weft_proto::discovery::hash_key::Kind as HashKeyKind;
use weft_proto::discovery::path_match::Kind as PathKind;
use weft_proto::discovery::sticky::Kind as StickyKind;

use crate::index::Name;
use crate::policy::{
    self, Authorization, AuthorizationMode, BalancerPolicy, BreakerScope, CircuitBreaker,
    ConsistentHash, CookieMatch, GrpcMatch, HeaderMatch, HeaderMatchType, LoadBalancer, Locality,
    Method, MtlsMode, PathMatchType, PolicyDuration, Principal, Retries, RetryAfter,
    RetryCondition, RuleMatch, SplitMatch, Sticky, StickyType, Timeouts, WhenEmpty,
};

/// TCP and TLS together, where no policy says it.
pub const DEFAULT_CONNECT: PolicyDuration = PolicyDuration::from_millis(1_000);
/// Requests that may wait for a place under `limits`, where policy caps something and does not say.
const DEFAULT_MAX_PENDING_REQUESTS: u32 = 1_024;

pub(super) fn ip_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

pub(super) fn socket_address(ip: IpAddr, port: u16) -> wire::SocketAddress {
    wire::SocketAddress {
        ip: ip_bytes(ip),
        port: u32::from(port),
    }
}

pub(super) fn service_ref(name: &Name, port: u16) -> wire::ServiceRef {
    wire::ServiceRef {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        port: u32::from(port),
    }
}

pub(super) fn mtls(mode: MtlsMode) -> wire::MtlsMode {
    match mode {
        MtlsMode::Disabled => wire::MtlsMode::Disabled,
        MtlsMode::Permissive => wire::MtlsMode::Permissive,
        MtlsMode::Strict => wire::MtlsMode::Strict,
    }
}

pub(super) fn timeouts(timeouts: Option<&Timeouts>) -> wire::Timeouts {
    let Some(timeouts) = timeouts else {
        return wire::Timeouts::default();
    };
    let unless_zero = |value: Option<PolicyDuration>| value.filter(|v| !v.is_zero()).map(duration);
    wire::Timeouts {
        request: unless_zero(timeouts.request),
        per_try: unless_zero(timeouts.per_try),
        idle: unless_zero(timeouts.idle),
        stream: unless_zero(timeouts.stream),
    }
}

pub(super) fn connect_timeout(connect: Option<PolicyDuration>) -> prost_types::Duration {
    duration(connect.unwrap_or(DEFAULT_CONNECT))
}

/// What holds where no policy says anything about retries: what was certainly not processed is
/// repeated, and nothing else.
pub fn default_retries() -> Retries {
    Retries {
        conditions: vec![
            RetryCondition::ConnectFailure,
            RetryCondition::RefusedStream,
        ],
        status_codes: Vec::new(),
        grpc_codes: Vec::new(),
        methods: Vec::new(),
        ..Retries::default()
    }
}

pub(super) fn retries(retries: Option<&Retries>) -> Option<wire::Retries> {
    let by_default;
    let retries = if let Some(retries) = retries {
        retries
    } else {
        by_default = default_retries();
        &by_default
    };
    if retries.attempts == 0 {
        return None;
    }
    Some(wire::Retries {
        attempts: retries.attempts,
        conditions: retries
            .conditions
            .iter()
            .map(|condition| retry_condition(*condition).into())
            .collect(),
        status_codes: widened(&retries.status_codes),
        grpc_codes: retries.grpc_codes.iter().map(|code| *code as u32).collect(),
        methods: methods(&retries.methods),
        backoff: Some(wire::Backoff {
            base: Some(duration(retries.backoff.base)),
            max: Some(duration(retries.backoff.max)),
        }),
        budget: Some(wire::RetryBudget {
            percent: retries.budget.percent,
            interval: Some(duration(retries.budget.interval)),
            min_retries_per_second: retries.budget.min_retries_per_second,
        }),
        body_limit_bytes: retries.body_limit_bytes,
        honor_retry_after: retries.retry_after == RetryAfter::Honor,
    })
}

pub(super) fn circuit_breaker(breaker: &CircuitBreaker) -> wire::CircuitBreaker {
    let limits = breaker.limits.as_ref();
    wire::CircuitBreaker {
        scope: match breaker.scope {
            BreakerScope::Endpoint => wire::BreakerScope::Endpoint,
            BreakerScope::Backend => wire::BreakerScope::Backend,
        }
        .into(),
        consecutive_failures: breaker
            .consecutive_failures
            .as_ref()
            .map_or(0, |failures| failures.threshold),
        error_rate: breaker.error_rate.as_ref().map(|rate| wire::ErrorRate {
            threshold_percent: rate.threshold_percent,
            min_requests: rate.min_requests,
            window: Some(duration(rate.window)),
        }),
        failure_status_codes: breaker
            .failure_status_codes
            .as_deref()
            .map_or_else(Vec::new, widened),
        open_duration: Some(duration(breaker.open_duration)),
        max_open_duration: Some(duration(breaker.max_open_duration)),
        half_open_max_requests: breaker.half_open.max_requests,
        half_open_success_threshold: breaker.half_open.success_threshold,
        max_ejection_percent: breaker.max_ejection_percent,
        limits: limits.map(|limits| wire::Limits {
            max_connections: limits.max_connections,
            max_pending_requests: Some(
                limits
                    .max_pending_requests
                    .unwrap_or(DEFAULT_MAX_PENDING_REQUESTS),
            ),
            max_requests: limits.max_requests,
        }),
    }
}

/// The mesh default is the better of two by latency and load, in all zones alike.
pub(super) fn load_balancer(balancer: Option<&LoadBalancer>) -> wire::LoadBalancer {
    let Some(balancer) = balancer else {
        return wire::LoadBalancer::default();
    };
    let policy = match balancer.policy {
        BalancerPolicy::PeakEwma => wire::BalancerPolicy::PeakEwma,
        BalancerPolicy::LeastRequest => wire::BalancerPolicy::LeastRequest,
        BalancerPolicy::RoundRobin => wire::BalancerPolicy::RoundRobin,
        BalancerPolicy::Random => wire::BalancerPolicy::Random,
        BalancerPolicy::ConsistentHash => wire::BalancerPolicy::ConsistentHash,
    };
    wire::LoadBalancer {
        policy: policy.into(),
        hash_key: balancer.consistent_hash.as_ref().map(hash_key),
        slow_start: balancer.slow_start.map(duration),
        prefer_same_zone: balancer.locality == Locality::PreferSameZone,
    }
}

/// Validation has seen to it that exactly one of them is given.
fn hash_key(key: &ConsistentHash) -> wire::HashKey {
    let header = key.header.as_ref();
    let header = header.map(|name| HashKeyKind::Header(name.to_ascii_lowercase()));
    let cookie = key.cookie.clone().map(HashKeyKind::Cookie);
    let kind = header.or(cookie).unwrap_or(HashKeyKind::SourceIp(true));
    wire::HashKey { kind: Some(kind) }
}

pub(super) fn sticky(sticky: &Sticky) -> wire::Sticky {
    let name = sticky.name.clone();
    let kind = match sticky.kind {
        StickyType::Cookie => StickyKind::Cookie(wire::StickyCookie {
            name: name.unwrap_or_else(|| Sticky::DEFAULT_COOKIE.to_owned()),
            ttl: sticky.ttl.filter(|ttl| !ttl.is_zero()).map(duration),
        }),
        StickyType::Header => StickyKind::Header(name.unwrap_or_default().to_ascii_lowercase()),
        StickyType::ClientIdentity => StickyKind::ClientIdentity(true),
    };
    wire::Sticky { kind: Some(kind) }
}

pub(super) fn when_empty(when_empty: WhenEmpty) -> wire::WhenEmpty {
    match when_empty {
        WhenEmpty::Fail => wire::WhenEmpty::Fail,
        WhenEmpty::NextBackend => wire::WhenEmpty::NextBackend,
    }
}

pub(super) fn route_match(entry: &RuleMatch) -> wire::RouteMatch {
    wire::RouteMatch {
        path: match &entry.grpc {
            Some(grpc) => Some(grpc_path(grpc)),
            None => entry.path.as_ref().and_then(path_match),
        },
        method: entry
            .method
            .map_or_else(String::new, |method| method.as_str().to_owned()),
        headers: entry.headers.iter().map(header_match).collect(),
        query: entry
            .query_params
            .iter()
            .map(|param| wire::QueryMatch {
                name: param.name.clone(),
                value: param.value.clone(),
                regex: false,
            })
            .collect(),
        grpc: entry.grpc.is_some(),
    }
}

/// As gRPC spells service and method in HTTP/2's path.
fn grpc_path(grpc: &GrpcMatch) -> wire::PathMatch {
    let kind = match &grpc.method {
        Some(method) => PathKind::Exact(format!("/{}/{method}", grpc.service)),
        None => PathKind::Prefix(format!("/{}", grpc.service)),
    };
    wire::PathMatch { kind: Some(kind) }
}

pub(super) fn split_match(entry: &SplitMatch) -> wire::SplitMatch {
    let cookie = |cookie: &CookieMatch| wire::CookieMatch {
        name: cookie.name.clone(),
        value: cookie.value.clone(),
    };
    wire::SplitMatch {
        headers: entry.headers.iter().map(header_match).collect(),
        cookies: entry.cookies.iter().map(cookie).collect(),
    }
}

pub(super) fn header_match(header: &HeaderMatch) -> wire::HeaderMatch {
    wire::HeaderMatch {
        name: header.name.to_ascii_lowercase(),
        value: header.value.clone().unwrap_or_default(),
        kind: match header.kind {
            HeaderMatchType::Exact => wire::HeaderMatchKind::Exact,
            HeaderMatchType::Prefix => wire::HeaderMatchKind::Prefix,
            HeaderMatchType::RegularExpression => wire::HeaderMatchKind::Regex,
            HeaderMatchType::Present => wire::HeaderMatchKind::Present,
        }
        .into(),
    }
}

pub(crate) fn allow_list(
    authorization: &Authorization,
    namespace: &str,
    trust_domain: &str,
) -> wire::AllowList {
    wire::AllowList {
        entries: authorization
            .allow
            .iter()
            .map(|entry| wire::AllowEntry {
                principals: entry
                    .principals
                    .iter()
                    .map(|principal| spiffe_pattern(principal, namespace, trust_domain))
                    .collect(),
                methods: methods(&entry.methods),
                paths: entry.paths.iter().map(|path| segments(path)).collect(),
            })
            .collect(),
        audit: authorization.mode == AuthorizationMode::Audit,
    }
}

fn spiffe_pattern(principal: &Principal, namespace: &str, trust_domain: &str) -> String {
    if let Some(account) = &principal.service_account {
        let namespace = account.namespace.as_deref().unwrap_or(namespace);
        return format!("spiffe://{trust_domain}/ns/{namespace}/sa/{}", account.name);
    }
    principal.spiffe_id.clone().unwrap_or_default()
}

/// `None` for what matches every path.
pub(super) fn path_match(path: &policy::PathMatch) -> Option<wire::PathMatch> {
    let kind = match path.kind {
        PathMatchType::PathPrefix if path.value.trim_end_matches('/').is_empty() => return None,
        PathMatchType::PathPrefix => PathKind::Prefix(segments(&path.value)),
        PathMatchType::Exact => PathKind::Exact(path.value.clone()),
        PathMatchType::RegularExpression => PathKind::Regex(path.value.clone()),
    };
    Some(wire::PathMatch { kind: Some(kind) })
}

/// A prefix by whole segments: "/a/" says nothing else than "/a".
pub(super) fn segments(prefix: &str) -> String {
    match prefix.trim_end_matches('/') {
        "" => "/".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

fn retry_condition(condition: RetryCondition) -> wire::RetryCondition {
    match condition {
        RetryCondition::ConnectFailure => wire::RetryCondition::ConnectFailure,
        RetryCondition::RefusedStream => wire::RetryCondition::RefusedStream,
        RetryCondition::Reset => wire::RetryCondition::Reset,
        RetryCondition::PerTryTimeout => wire::RetryCondition::PerTryTimeout,
    }
}

fn methods(methods: &[Method]) -> Vec<String> {
    methods
        .iter()
        .map(|method| method.as_str().to_owned())
        .collect()
}

fn widened(codes: &[u16]) -> Vec<u32> {
    codes.iter().map(|code| u32::from(*code)).collect()
}

pub(super) fn duration(value: PolicyDuration) -> prost_types::Duration {
    let value: Duration = value.get();
    prost_types::Duration {
        seconds: value.as_secs() as i64,
        nanos: value.subsec_nanos() as i32,
    }
}
