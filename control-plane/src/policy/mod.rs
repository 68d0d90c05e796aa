//! `TrafficPolicy` `weft.dev/v1alpha1`: its types, defaults and rules.
//!
//! The types are the source of truth: their doc comments, bounds and rules become the schema, and from
//! that come the custom resource definition, the reference page and validation. So a cluster and a
//! directory of files refuse the same things.
//!
//! Reading is strict and goes the way of a Kubernetes API server: unknown fields, defaults, shapes and
//! bounds, then rules in CEL. Nothing that somebody asked for is silently left undone. Whatever the
//! schema accepts, the types can hold.

mod access_log;
mod default_authorization;
mod duration;
mod evaluate;
mod fallback;
mod fault;
mod rate_limit;
pub mod schema;
mod spec;
mod status;
#[cfg(test)]
mod tests;
mod traffic;
mod validate;

pub use access_log::{AccessLog, AccessLogField, AccessLogMode};
pub use default_authorization::DefaultAuthorization;
pub use duration::{DurationError, PATTERN as DURATION_PATTERN, PolicyDuration};
pub use evaluate::{Definition, Evaluation};
pub use fallback::{Fallback, FallbackBackend, FallbackHeader, FallbackResponse, FallbackTrigger};
pub use fault::{FaultAbort, FaultDelay, FaultInjection};
pub use rate_limit::{RateLimit, RateLimitKey, RateLimitOverride};
pub use spec::{
    AllowEntry, Authorization, AuthorizationMode, DEFAULT_NAMESPACE, ForServices, Metadata, Mtls,
    MtlsMode, Principal, ServiceAccountRef, TargetKind, TargetRef, TrafficPolicy,
    TrafficPolicySpec,
};
pub use status::{
    AncestorRef, AncestorStatus, Condition, ConditionStatus, ProxyCounts, TrafficPolicyStatus,
};
pub use traffic::{
    Backoff, BalancerPolicy, BreakerScope, Budget, CircuitBreaker, ConsecutiveFailures,
    ConsistentHash, CookieMatch, ErrorRate, GrpcCode, GrpcMatch, HalfOpen, HeaderMatch,
    HeaderMatchType, Limits, LoadBalancer, Locality, Method, Mirror, PathMatch, PathMatchType,
    QueryParamMatch, Retries, RetryAfter, RetryCondition, Rule, RuleMatch, Split, SplitBackend,
    SplitMatch, Sticky, StickyType, Timeouts, WhenEmpty,
};
pub use validate::Violation;
pub(crate) use validate::is_label;
