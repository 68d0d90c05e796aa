//! The client-side stanzas. Defaults are those of the resource's schema, which is made from them.

mod circuit_breaker;
mod load_balancer;
mod matches;
mod retries;
mod rules;
mod split;
mod timeouts;

pub use circuit_breaker::{
    BreakerScope, CircuitBreaker, ConsecutiveFailures, ErrorRate, HalfOpen, Limits,
};
pub use load_balancer::{BalancerPolicy, ConsistentHash, LoadBalancer, Locality};
pub use matches::{CookieMatch, GrpcCode, HeaderMatch, HeaderMatchType, Method};
pub use retries::{Backoff, Budget, Retries, RetryAfter, RetryCondition};
pub use rules::{GrpcMatch, PathMatch, PathMatchType, QueryParamMatch, Rule, RuleMatch};
pub use split::{Mirror, Split, SplitBackend, SplitMatch, Sticky, StickyType, WhenEmpty};
pub use timeouts::Timeouts;
