//! `TrafficPolicy` `weft.dev/v1alpha1`: its types, defaults and rules.
//!
//! The types are the source of truth for the YAML that people write. Reading is strict: an unknown
//! field is an error: nothing that somebody asked for is silently left undone.
//!
//! Reading has two steps. Serde checks shapes, words and durations; [`TrafficPolicy::check`] checks
//! bounds and what fields ask of each other, and names every violation by its path, with a mend.

mod duration;
mod fallback;
mod fault;
mod rate_limit;
mod spec;
#[cfg(test)]
mod tests;
mod traffic;
mod validate;

pub use duration::{DurationError, PATTERN as DURATION_PATTERN, PolicyDuration};
pub use fallback::{Fallback, FallbackBackend, FallbackHeader, FallbackResponse, FallbackTrigger};
pub use fault::{FaultAbort, FaultDelay, FaultInjection};
pub use rate_limit::{RateLimit, RateLimitKey, RateLimitOverride};
pub use spec::{
    AllowEntry, Authorization, AuthorizationMode, DEFAULT_NAMESPACE, Metadata, Mtls, MtlsMode,
    Principal, ServiceAccountRef, TargetKind, TargetRef, TrafficPolicy, TrafficPolicySpec,
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
