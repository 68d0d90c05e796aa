//! The client-side stanzas. Defaults are those of the resource's schema.

use serde::{Deserialize, Serialize};

use super::duration::PolicyDuration;
use super::fallback::Fallback;
use super::fault::FaultInjection;
use super::rate_limit::RateLimit;

/// Limits in time; `0s` switches one off (but `connect`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// The whole exchange, retries and waiting included.
    pub request: Option<PolicyDuration>,
    /// One try, from the endpoint's choice to its response head.
    pub per_try: Option<PolicyDuration>,
    /// TCP and TLS together, 10 ms to 1 min.
    pub connect: Option<PolicyDuration>,
    /// Without a byte either way during an exchange.
    pub idle: Option<PolicyDuration>,
    /// A stream's whole life.
    pub stream: Option<PolicyDuration>,
}

/// Which failed tries are repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Retries {
    /// Tries after the first, 0 to 10.
    pub attempts: u32,
    /// Failures of transport.
    pub conditions: Vec<RetryCondition>,
    /// Response statuses, 400 to 599, at most 16.
    pub status_codes: Vec<u16>,
    /// gRPC statuses, at most 16.
    pub grpc_codes: Vec<GrpcCode>,
    /// Methods whose possibly processed tries may be repeated.
    pub methods: Vec<Method>,
    /// Waiting between tries.
    pub backoff: Backoff,
    /// How much load retrying may add.
    pub budget: Budget,
    /// Bodies up to this size are kept for repeating; at most 10 MiB.
    pub body_limit_bytes: u32,
    /// Whether `Retry-After` is waited for.
    pub retry_after: RetryAfter,
}

/// Failures of transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RetryCondition {
    /// No connection came about.
    ConnectFailure,
    /// The peer said that it did not process the request.
    RefusedStream,
    /// The connection or stream broke.
    Reset,
    /// The try took too long.
    PerTryTimeout,
}

/// gRPC statuses that can be named. Their numbers are those of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)] // The words are gRPC's own.
pub enum GrpcCode {
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

/// HTTP methods that can be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)] // The words are HTTP's own.
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
}

/// Waiting between tries: exponential, with full jitter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Backoff {
    /// The first delay's upper bound, 1 ms to 1 min.
    pub base: PolicyDuration,
    /// Every delay's upper bound, 1 ms to 5 min.
    pub max: PolicyDuration,
}

/// How much load retrying may add, per sidecar and backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Budget {
    /// Retries as a share of requests, 0 to 100.
    pub percent: u32,
    /// Over which time, 1 s to 1 h.
    pub interval: PolicyDuration,
    /// What is always allowed, at most 100,000.
    pub min_retries_per_second: u32,
}

/// What to do about `Retry-After`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RetryAfter {
    /// Wait for it, within the deadline.
    #[default]
    Honor,
    /// Do not look at it.
    Ignore,
}

/// When traffic to what fails is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CircuitBreaker {
    /// What is stopped.
    pub scope: BreakerScope,
    /// Trips by failures in a row.
    pub consecutive_failures: Option<ConsecutiveFailures>,
    /// Trips by share of failures.
    pub error_rate: Option<ErrorRate>,
    /// Statuses that count as failures, 400 to 599, at most 32; absent for every 5xx.
    pub failure_status_codes: Option<Vec<u16>>,
    /// The first open period, 100 ms to 1 h.
    pub open_duration: PolicyDuration,
    /// The longest, 100 ms to 1 h.
    pub max_open_duration: PolicyDuration,
    /// How it closes again.
    pub half_open: HalfOpen,
    /// Endpoints that may be open at once, 1 to 100.
    pub max_ejection_percent: u32,
    /// Concurrency caps.
    pub limits: Option<Limits>,
}

/// What a breaker stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BreakerScope {
    /// One endpoint.
    #[default]
    Endpoint,
    /// The whole backend.
    Backend,
}

/// Trips by failures in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ConsecutiveFailures {
    /// 1 to 1,000.
    pub threshold: u32,
}

/// Trips by share of failures over a sliding window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ErrorRate {
    /// 1 to 100.
    pub threshold_percent: u32,
    /// Below so many requests the share says nothing; 1 to 1,000,000.
    pub min_requests: u32,
    /// 1 s to 1 h.
    pub window: PolicyDuration,
}

/// How a breaker closes again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HalfOpen {
    /// Probes at once, 1 to 1,000.
    pub max_requests: u32,
    /// Successes in a row that close it, 1 to 1,000.
    pub success_threshold: u32,
}

/// Concurrency caps per backend; at least one is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Open connections, 1 to 1,000,000.
    pub max_connections: Option<u32>,
    /// Requests waiting for a place, 0 to 1,000,000.
    pub max_pending_requests: Option<u32>,
    /// Requests in flight, 1 to 1,000,000.
    pub max_requests: Option<u32>,
}

/// How endpoints are chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LoadBalancer {
    /// The way.
    pub policy: BalancerPolicy,
    /// What is hashed; exactly with policy `ConsistentHash`.
    pub consistent_hash: Option<ConsistentHash>,
    /// Over this time an endpoint's share rises after it has come, 1 s to 15 min.
    pub slow_start: Option<PolicyDuration>,
    /// Whether the own zone comes first.
    pub locality: Locality,
}

/// Ways to choose an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BalancerPolicy {
    /// The better of two by latency times load.
    #[default]
    #[serde(rename = "PeakEWMA")]
    PeakEwma,
    /// The better of two by requests in flight.
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// By chance.
    Random,
    /// By the hash of something that a user's requests have in common.
    ConsistentHash,
}

/// What `ConsistentHash` hashes: exactly one of them. A request without it goes by chance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ConsistentHash {
    /// The first value of this header.
    pub header: Option<String>,
    /// The value of this cookie.
    pub cookie: Option<String>,
    /// The address that the request came from; only `true` says so.
    #[serde(rename = "sourceIP")]
    pub source_ip: Option<bool>,
}

/// Whether the own zone comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Locality {
    /// It does not.
    #[default]
    Disabled,
    /// It does, as long as enough of its endpoints can be used; then others take a share too.
    PreferSameZone,
}

/// Where requests go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Split {
    /// In order: 1 to 8, none twice.
    pub backends: Vec<SplitBackend>,
    /// What keeps a user on one side.
    pub sticky: Option<Sticky>,
    /// What happens when the chosen backend has no endpoint.
    pub when_empty: WhenEmpty,
    /// Who gets copies.
    pub mirror: Option<Mirror>,
}

/// A service that gets copies of requests, and whose answers nobody waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mirror {
    /// A service of the policy's namespace.
    pub name: String,
    /// Its port; the addressed one's number where it is left out.
    #[serde(default)]
    pub port: Option<u16>,
    /// Share of the requests, 0 to 100.
    #[serde(default = "default_percent")]
    pub percent: u32,
}

/// One side of a split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SplitBackend {
    /// A service of the policy's namespace.
    pub name: String,
    /// Its port; the addressed one's number where it is left out.
    #[serde(default)]
    pub port: Option<u16>,
    /// Share of the sum of weights, 0 to 1,000,000.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// Requests that are forced to this side, by any of these; at most 4.
    #[serde(default)]
    pub matches: Vec<SplitMatch>,
}

/// A request that is forced to a side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SplitMatch {
    /// By all of these headers: at most 8.
    pub headers: Vec<HeaderMatch>,
    /// And by all of these cookies: at most 4.
    pub cookies: Vec<CookieMatch>,
}

/// A cookie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CookieMatch {
    /// Its name, 1 to 256 bytes.
    pub name: String,
    /// Its whole value, at most 1,024 bytes; any where it is left out.
    #[serde(default)]
    pub value: Option<String>,
}

/// What keeps a user on one side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Sticky {
    /// What the key is.
    #[serde(rename = "type")]
    pub kind: StickyType,
    /// The cookie's or header's name; [`Sticky::DEFAULT_COOKIE`] for a cookie without one.
    pub name: Option<String>,
    /// How long a cookie lasts that Weft made; absent or 0 for the browser's session.
    pub ttl: Option<PolicyDuration>,
}

/// What the key is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StickyType {
    /// A cookie, made where it is missing.
    #[default]
    Cookie,
    /// A header.
    Header,
    /// The calling workload.
    ClientIdentity,
}

/// What happens when the chosen backend has no endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenEmpty {
    /// The request fails.
    #[default]
    Fail,
    /// The next backend in the list takes it.
    NextBackend,
}

/// Stanzas for some requests only. One that is given replaces the policy's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// For people and metrics; unique in its policy.
    pub name: String,
    /// Any of these: 1 to 8.
    pub matches: Vec<RuleMatch>,
    /// Limits in time.
    #[serde(default)]
    pub timeouts: Option<Timeouts>,
    /// Which failed tries are repeated.
    #[serde(default)]
    pub retries: Option<Retries>,
    /// Where these requests go.
    #[serde(default)]
    pub split: Option<Split>,
    /// How many of these requests the target's workloads take.
    #[serde(default)]
    pub rate_limit: Option<RateLimit>,
    /// Failures that are asked for.
    #[serde(default)]
    pub fault_injection: Option<FaultInjection>,
    /// What clients get where their service cannot answer.
    #[serde(default)]
    pub fallback: Option<Fallback>,
}

/// A set of requests: by all of its parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RuleMatch {
    /// By path.
    pub path: Option<PathMatch>,
    /// By method.
    pub method: Option<Method>,
    /// By all of these headers: at most 8.
    pub headers: Vec<HeaderMatch>,
    /// By the first values of all of these query parameters: at most 8.
    pub query_params: Vec<QueryParamMatch>,
    /// By gRPC service and method; without path and method then.
    pub grpc: Option<GrpcMatch>,
}

/// A query parameter, by its whole value, decoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QueryParamMatch {
    /// 1 to 256 bytes.
    pub name: String,
    /// At most 1,024 bytes.
    pub value: String,
}

/// gRPC requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcMatch {
    /// The service with its package.
    pub service: String,
    /// The method; every one where it is left out.
    #[serde(default)]
    pub method: Option<String>,
}

/// A path, without its query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PathMatch {
    /// How the value is meant.
    #[serde(rename = "type")]
    pub kind: PathMatchType,
    /// Begins with `/`; at most 1,024 bytes.
    pub value: String,
}

/// How a path's value is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathMatchType {
    /// The whole path.
    Exact,
    /// Whole leading segments.
    #[default]
    PathPrefix,
    /// A regular expression that the whole path matches.
    RegularExpression,
}

/// A header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderMatch {
    /// Its name, in any case.
    pub name: String,
    /// How the value is meant.
    #[serde(default, rename = "type")]
    pub kind: HeaderMatchType,
    /// At most 1,024 bytes.
    #[serde(default)]
    pub value: Option<String>,
}

/// How a header's value is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeaderMatchType {
    /// The whole value.
    #[default]
    Exact,
    /// What the value begins with.
    Prefix,
    /// A regular expression that the whole value matches.
    RegularExpression,
    /// Any value.
    Present,
}

impl Method {
    /// The method as requests carry it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
        }
    }
}

impl Sticky {
    /// The cookie where a policy names none.
    pub const DEFAULT_COOKIE: &str = "weft-canary";
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 2,
            conditions: vec![
                RetryCondition::ConnectFailure,
                RetryCondition::RefusedStream,
            ],
            status_codes: vec![502, 503, 504],
            grpc_codes: vec![GrpcCode::Unavailable],
            methods: vec![Method::Get, Method::Head, Method::Options],
            backoff: Backoff::default(),
            budget: Budget::default(),
            body_limit_bytes: 65_536,
            retry_after: RetryAfter::Honor,
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: PolicyDuration::from_millis(25),
            max: PolicyDuration::from_millis(250),
        }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            percent: 20,
            interval: PolicyDuration::from_millis(10_000),
            min_retries_per_second: 10,
        }
    }
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            scope: BreakerScope::Endpoint,
            consecutive_failures: None,
            error_rate: None,
            failure_status_codes: None,
            open_duration: PolicyDuration::from_millis(5_000),
            max_open_duration: PolicyDuration::from_millis(60_000),
            half_open: HalfOpen::default(),
            max_ejection_percent: 50,
            limits: None,
        }
    }
}

impl Default for ConsecutiveFailures {
    fn default() -> Self {
        Self { threshold: 7 }
    }
}

impl Default for ErrorRate {
    fn default() -> Self {
        Self {
            threshold_percent: 50,
            min_requests: 20,
            window: PolicyDuration::from_millis(10_000),
        }
    }
}

impl Default for HalfOpen {
    fn default() -> Self {
        Self {
            max_requests: 1,
            success_threshold: 1,
        }
    }
}

impl Default for PathMatch {
    fn default() -> Self {
        Self {
            kind: PathMatchType::PathPrefix,
            value: "/".to_owned(),
        }
    }
}

fn default_weight() -> u32 {
    1
}

fn default_percent() -> u32 {
    100
}
