//! What the control plane decided, as this process uses it.
//!
//! The types mirror the wire with every value resolved: nothing here has a default of its own, and
//! what is `None` is off. [`decode`] is the only way in; it refuses what breaks the wire's rules, so
//! that everything behind it may rely on them (indices in range, at least one backend per split, a
//! budget on every retry policy).

mod access_log;
mod balancer;
pub mod decode;
mod fallback;
mod fault;
mod filters;
mod rate_limit;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use weft_proto::pattern::Pattern;
use weft_proto::spiffe::SpiffeId;

pub use access_log::{AccessLog, AccessLogRule, InboundAccessLog, LogField};
pub use balancer::{Balancer, BalancerPolicy, HashKey};
pub use fallback::{FallbackAnswer, FallbackPolicy, FallbackTrigger, StaticResponse};
pub use fault::{AbortStatus, FaultAbort, FaultDelay, FaultPolicy};
pub use filters::{HeaderEdits, PathEdit, Redirect, Rewrite, RouteFilters};
pub use rate_limit::{
    Rate, RateLimitKey, RateLimitOverride, RateLimitPolicy, RateLimitRule, RuledRateLimits,
};

/// One port of one service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceRef {
    /// The service's namespace.
    pub namespace: Arc<str>,
    /// The service's name.
    pub name: Arc<str>,
    /// The service port.
    pub port: u16,
}

impl fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.name, self.port)
    }
}

/// What holds for the whole sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshInfo {
    /// The mesh's trust domain.
    pub trust_domain: Arc<str>,
    /// Addresses outside of all of these pass as they are.
    pub networks: Vec<ipnet::IpNet>,
    /// Listeners to bind where nothing is intercepted.
    pub explicit_listeners: Vec<ExplicitListener>,
    /// Ports on which the server speaks first unless policy says otherwise.
    pub server_first_ports: Vec<u16>,
    /// The workload's zone, as far as the control plane knows it; empty when unknown.
    pub zone: Arc<str>,
}

impl MeshInfo {
    /// Whether an address belongs to the mesh. Where it does not, its traffic passes as it is and
    /// nobody is asked.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.networks.iter().any(|network| network.contains(&ip))
    }
}

/// A local address that stands for a service where nothing is intercepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExplicitListener {
    /// Where to listen.
    pub address: SocketAddr,
    /// What a connection to it means.
    pub destination: SocketAddr,
}

/// What an intercepted destination means.
#[derive(Clone, Debug, PartialEq)]
pub enum OutboundTarget {
    /// One workload's own address.
    Endpoint(EndpointTarget),
    /// Nothing known inside the mesh's networks: passes as it is.
    NotFound,
    /// A service, with everything that belongs to it.
    Service(Arc<ServiceTarget>),
}

/// A service port as its clients see it.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceTarget {
    /// The service port that the client addressed.
    pub service: ServiceRef,
    /// How its bytes are to be read.
    pub protocol: Protocol,
    /// In order; the first that matches wins.
    pub routes: Vec<Route>,
    /// Backends, which splits name by index.
    pub backends: Vec<BackendPolicy>,
    /// Where connections go that are bytes to us; the last route's split where there is none.
    pub bytes: Option<Split>,
    /// Which of the requests that have no route there is a line about.
    pub access_log: Option<Arc<AccessLog>>,
}

impl ServiceTarget {
    /// Whether there may be a line about some request.
    pub fn may_log(&self) -> bool {
        self.access_log.is_some() || self.routes.iter().any(|route| route.access_log.is_some())
    }
}

/// One address of one workload, dialled directly.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointTarget {
    /// The address and the identity that it must prove.
    pub endpoint: EndpointInfo,
    /// Authorities (lower case) that mean a service which this endpoint backs.
    pub aliases: Vec<(ServiceRef, Vec<Box<str>>)>,
    /// Client-side policy, without balancing or split.
    pub policy: Arc<ServiceTarget>,
}

/// How a destination's bytes are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Found out per connection.
    Detect,
    /// HTTP/1.x.
    Http1,
    /// HTTP/2, gRPC among it.
    Http2,
    /// Bytes both ways.
    Opaque,
}

/// A set of requests and what happens to them.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// For people and metrics.
    pub name: Arc<str>,
    /// Any of these; empty matches everything.
    pub matches: Vec<RouteMatch>,
    /// Limits in time.
    pub timeouts: Timeouts,
    /// Which failed tries are repeated.
    pub retries: Option<RetryPolicy>,
    /// Where the requests go.
    pub split: Split,
    /// Failures that are asked for.
    pub fault: Option<FaultPolicy>,
    /// What clients get where no server answered.
    pub fallback: Option<FallbackPolicy>,
    /// What is changed on the way.
    pub filters: Option<Box<RouteFilters>>,
    /// Which of the requests there is a line about.
    pub access_log: Option<Arc<AccessLog>>,
}

/// A conjunction; an absent part matches everything.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteMatch {
    /// The path without its query.
    pub path: Option<PathMatch>,
    /// The method.
    pub method: Option<Method>,
    /// All of these.
    pub headers: Vec<HeaderMatch>,
    /// All of these.
    pub query: Vec<QueryMatch>,
    /// Only gRPC requests.
    pub grpc: bool,
}

/// A query parameter by its first value, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatch {
    /// The parameter.
    pub name: Box<str>,
    /// Its whole value.
    pub value: Box<str>,
    /// `value` as a pattern of the whole value, where it is one.
    pub pattern: Option<Pattern>,
}

/// A path match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path.
    Exact(Box<str>),
    /// Whole leading segments.
    Prefix(Box<str>),
    /// A pattern of the whole path.
    Regex(Pattern),
}

/// One header, on any of its lines.
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderMatch {
    /// The header.
    pub name: HeaderName,
    /// Its value.
    pub value: ValueMatch,
}

/// A header's value.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueMatch {
    /// The whole value.
    Exact(HeaderValue),
    /// What it begins with.
    Prefix(Box<[u8]>),
    /// A pattern of the whole value; a value that is not visible ASCII matches none.
    Regex(Pattern),
    /// Any value.
    Present,
}

/// Bounds of an exchange in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// First byte of the request head to last byte of the response (streams: to its head).
    pub request: Option<Duration>,
    /// Endpoint chosen to response head.
    pub per_try: Option<Duration>,
    /// Without a byte either way, in an exchange in flight.
    pub idle: Option<Duration>,
    /// A stream's whole life.
    pub stream: Option<Duration>,
}

/// Which failed tries are repeated.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Tries after the first.
    pub attempts: u32,
    /// Connection refused, timed out, TLS failed.
    pub on_connect_failure: bool,
    /// The peer said that it did not process the request.
    pub on_refused_stream: bool,
    /// The connection or stream broke.
    pub on_reset: bool,
    /// A try took longer than `per_try`.
    pub on_per_try_timeout: bool,
    /// Response statuses.
    pub status_codes: Vec<u16>,
    /// gRPC status codes.
    pub grpc_codes: Vec<u8>,
    /// Methods whose possibly processed tries may be repeated.
    pub methods: Vec<Method>,
    /// First delay's upper bound.
    pub backoff_base: Duration,
    /// Every delay's upper bound.
    pub backoff_max: Duration,
    /// How much retrying may add to a backend's load.
    pub budget: BudgetPolicy,
    /// Request bodies up to this size are kept.
    pub body_limit_bytes: usize,
    /// Whether Retry-After and gRPC pushback are waited for.
    pub honor_retry_after: bool,
}

/// A retry budget, per sidecar and backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetPolicy {
    /// Retries as a share of requests over `interval`.
    pub percent: u32,
    /// Look-back.
    pub interval: Duration,
    /// Always allowed.
    pub min_retries_per_second: u32,
}

/// Requests spread over backends.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// In order; never empty.
    pub backends: Vec<WeightedBackend>,
    /// What keeps a user on one side.
    pub sticky: Option<Sticky>,
    /// Whether a side without endpoints is skipped for the next in the list.
    pub next_when_empty: bool,
    /// Who gets copies.
    pub mirror: Option<MirrorPolicy>,
}

/// One side of a split.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedBackend {
    /// Index into the target's backends.
    pub backend: usize,
    /// Share of the sum of weights.
    pub weight: u32,
    /// Requests that are forced to this side, by any of these, whatever its weight.
    pub forced: Vec<SplitMatch>,
    /// What is changed of its requests, after what the route changes.
    pub request_headers: Option<Box<HeaderEdits>>,
    /// What is changed of its responses, before what the route changes.
    pub response_headers: Option<Box<HeaderEdits>>,
    /// Why nothing can be sent there; `backend` means nothing then.
    pub unusable: Option<Box<str>>,
}

impl WeightedBackend {
    /// A side that takes its share and nothing else.
    pub const fn plain(backend: usize, weight: u32) -> Self {
        Self {
            backend,
            weight,
            forced: Vec::new(),
            request_headers: None,
            response_headers: None,
            unusable: None,
        }
    }
}

/// A conjunction of at least one part.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitMatch {
    /// All of these.
    pub headers: Vec<HeaderMatch>,
    /// All of these.
    pub cookies: Vec<CookieMatch>,
}

/// The first cookie of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieMatch {
    /// The cookie's name.
    pub name: Box<str>,
    /// Its whole value, without quotes; `None` for any.
    pub value: Option<Box<str>>,
}

/// A backend that gets copies of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirrorPolicy {
    /// Index into the target's backends.
    pub backend: usize,
    /// Share of the requests, 0 to `out_of`.
    pub share: u32,
    /// What the share is a part of, at least 1.
    pub out_of: u32,
    /// Whether gRPC calls are copied too.
    pub calls: bool,
    /// Requests with longer bodies are not copied.
    pub body_limit_bytes: usize,
    /// Copies on their way at once, at least 1.
    pub max_in_flight: usize,
    /// How long a copy's answer may take, to its last byte.
    pub timeout: Duration,
}

/// The key whose hash chooses a side.
#[derive(Clone, Debug, PartialEq)]
pub enum Sticky {
    /// The calling workload instance.
    ClientIdentity,
    /// A cookie by this name, made where missing, lasting `ttl` or the session.
    Cookie {
        /// The cookie's name.
        name: Box<str>,
        /// How long it lasts.
        ttl: Option<Duration>,
    },
    /// A header by this name.
    Header(HeaderName),
}

/// A service port as the destination of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendPolicy {
    /// Whose endpoints.
    pub service: ServiceRef,
    /// TCP and TLS together.
    pub connect_timeout: Duration,
    /// What stops traffic to what fails.
    pub circuit_breaker: Option<BreakerPolicy>,
    /// How an endpoint is chosen.
    pub balancer: Balancer,
}

/// What stops traffic to what fails.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerPolicy {
    /// What is stopped.
    pub scope: BreakerScope,
    /// Trips at this many failures in a row.
    pub consecutive_failures: Option<u32>,
    /// Trips by share of failures.
    pub error_rate: Option<ErrorRate>,
    /// Statuses that count as failures; empty means every 5xx.
    pub failure_status_codes: Vec<u16>,
    /// The first open period.
    pub open_duration: Duration,
    /// The longest open period.
    pub max_open_duration: Duration,
    /// Probes at once, at least 1.
    pub half_open_max_requests: u32,
    /// Successes in a row that close it, at least 1.
    pub half_open_success_threshold: u32,
    /// At most this share of endpoints is open at once.
    pub max_ejection_percent: u32,
    /// Concurrency caps.
    pub limits: Option<Limits>,
}

/// What a breaker stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerScope {
    /// The whole backend.
    Backend,
    /// One endpoint.
    Endpoint,
}

/// A share of failures over a sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorRate {
    /// Trips at this share.
    pub threshold_percent: u32,
    /// Below this many requests the share says nothing.
    pub min_requests: u32,
    /// The window.
    pub window: Duration,
}

/// Concurrency caps towards one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections, at least 1.
    pub max_connections: Option<u32>,
    /// Requests waiting for a place; 0 means that none waits.
    pub max_pending_requests: u32,
    /// Requests in flight, at least 1.
    pub max_requests: Option<u32>,
}

/// One address behind a service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointInfo {
    /// Where it is.
    pub address: SocketAddr,
    /// The identity that it must prove; `None` where none is promised.
    pub identity: Option<SpiffeId>,
    /// The workload's namespace.
    pub namespace: Arc<str>,
    /// The workload's name.
    pub workload: Arc<str>,
    /// The zone; empty when unknown.
    pub zone: Arc<str>,
    /// Relative weight, at least 1.
    pub weight: u32,
}

/// How the sidecar's own workload is served on a port.
#[derive(Clone, Debug, PartialEq)]
pub struct InboundPolicy {
    /// Whether plaintext is accepted.
    pub mtls: MtlsMode,
    /// How its bytes are to be read.
    pub protocol: Protocol,
    /// Lists, each of which must allow; empty means everybody that `mtls` lets in.
    pub authorization: Vec<AllowList>,
    /// Limits, each of which must admit a request; empty means no limit.
    pub rate_limits: Vec<RateLimitPolicy>,
    /// Limits by rules: of each of these, the one that is for a request must admit it too.
    pub ruled_rate_limits: Vec<RuledRateLimits>,
    /// Plaintext requests that pass even under Strict.
    pub probes: Vec<Probe>,
    /// The workload is being removed: announce closing, still serve.
    pub terminating: bool,
    /// The application has ended for good: only a legacy sidecar still runs then, and ends itself.
    pub application_ended: bool,
    /// Which requests there is a line about, by service: for each request the one holds that logs most.
    pub access_logs: Vec<InboundAccessLog>,
    /// The services that lead here; the first is the metrics label.
    pub services: Vec<ServiceRef>,
}

impl InboundPolicy {
    /// Whether any request may be over a rate.
    pub fn has_rate_limits(&self) -> bool {
        !self.rate_limits.is_empty() || !self.ruled_rate_limits.is_empty()
    }
}

/// Whether plaintext is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MtlsMode {
    /// Plaintext is what clients are promised; mesh TLS is still understood.
    Disabled,
    /// Mesh TLS and plaintext.
    Permissive,
    /// Mesh TLS only.
    Strict,
}

/// Allows what any of its entries matches.
#[derive(Clone, Debug, PartialEq)]
pub struct AllowList {
    /// The entries; empty denies everything.
    pub entries: Vec<AllowEntry>,
    /// Only count and log what would be denied.
    pub audit: bool,
}

/// Matches by all of its parts.
#[derive(Clone, Debug, PartialEq)]
pub struct AllowEntry {
    /// Who.
    pub principals: Vec<Principal>,
    /// Methods; empty for any.
    pub methods: Vec<Method>,
    /// Path prefixes by whole segments; empty for any.
    pub paths: Vec<Box<str>>,
}

/// A caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// This SPIFFE id.
    Exact(Box<str>),
    /// Every SPIFFE id that begins so; it ends with a slash, so that whole segments are compared.
    Prefix(Box<str>),
}

/// A plaintext request that passes even under Strict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The path, exactly.
    pub path: Box<str>,
    /// The method.
    pub method: Method,
}
