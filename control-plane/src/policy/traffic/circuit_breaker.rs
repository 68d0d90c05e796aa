//! `circuitBreaker`: when traffic to what fails is stopped.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::duration::PolicyDuration;
use crate::policy::schema::words::{Rule, lasting};

/// When traffic to what fails is stopped, and how it begins again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend(
    "x-weft-enforced" = "the client's sidecar; it comes from the backend's own policy, else from the addressed service's",
    "x-weft-example" = r"circuitBreaker:
  scope: Endpoint
  consecutiveFailures: {threshold: 5}
  errorRate: {thresholdPercent: 50, minRequests: 20, window: 10s}
  openDuration: 10s
  maxOpenDuration: 60s
  halfOpen: {maxRequests: 1, successThreshold: 3}
  maxEjectionPercent: 50
  limits: {maxConnections: 1024, maxPendingRequests: 256, maxRequests: 2048}",
    "x-kubernetes-validations" = [
        Rule::new(
            "has(self.consecutiveFailures) || has(self.errorRate) || has(self.limits)",
            "one of consecutiveFailures, errorRate or limits is required",
        )
        .mend("consecutiveFailures: {} takes the default threshold"),
        Rule::new(
            "duration(self.openDuration) <= duration(self.maxOpenDuration)",
            "openDuration cannot exceed maxOpenDuration",
        )
        .at(".openDuration")
        .mend("lower openDuration, or raise maxOpenDuration, which is 1m by default"),
    ],
))]
pub struct CircuitBreaker {
    /// What is stopped.
    pub scope: BreakerScope,
    /// Opens the breaker by failures in a row. `{}` takes the default threshold.
    pub consecutive_failures: Option<ConsecutiveFailures>,
    /// Opens the breaker by the share of failures. `{}` takes every default.
    pub error_rate: Option<ErrorRate>,
    /// HTTP statuses that count as failures, 400 to 599. Left out: every 5xx, and of gRPC
    /// UNAVAILABLE, INTERNAL, UNKNOWN, DEADLINE_EXCEEDED and DATA_LOSS.
    #[schemars(
        length(min = 1, max = 32),
        inner(range(min = 400, max = 599)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub failure_status_codes: Option<Vec<u16>>,
    /// How long the breaker stays open the first time, 100ms to 1h. It doubles with each failed
    /// probe.
    #[schemars(extend("x-kubernetes-validations" = lasting("100ms", "1h")))]
    pub open_duration: PolicyDuration,
    /// How long it stays open at most, 100ms to 1h.
    #[schemars(extend("x-kubernetes-validations" = lasting("100ms", "1h")))]
    pub max_open_duration: PolicyDuration,
    /// How it closes again.
    pub half_open: HalfOpen,
    /// The percentage of a backend's endpoints that may be open at once, with scope Endpoint. One
    /// always may be where there are two or more, and the last one never is.
    #[schemars(range(min = 1, max = 100))]
    pub max_ejection_percent: u32,
    /// Caps of what one sidecar does at once towards the backend, in every state of the breaker.
    pub limits: Option<Limits>,
}

/// What a breaker stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BreakerScope {
    /// Each endpoint by itself: the balancer passes it over.
    #[default]
    Endpoint,
    /// The whole backend: requests fail at once, or take the fallback.
    Backend,
}

/// Opens the breaker by failures in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ConsecutiveFailures {
    /// So many failures in a row open it.
    #[schemars(range(min = 1, max = 1_000))]
    pub threshold: u32,
}

/// Opens the breaker by the share of failures over a sliding window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ErrorRate {
    /// The percentage of failures that opens it.
    #[schemars(range(min = 1, max = 100))]
    pub threshold_percent: u32,
    /// It stays closed while there were fewer requests than this in the window.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_requests: u32,
    /// The window, 1s to 1h.
    #[schemars(extend("x-kubernetes-validations" = lasting("1s", "1h")))]
    pub window: PolicyDuration,
}

/// How a breaker closes again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HalfOpen {
    /// So many requests may probe at once.
    #[schemars(range(min = 1, max = 1_000))]
    pub max_requests: u32,
    /// So many probes that succeed in a row close it.
    #[schemars(range(min = 1, max = 1_000))]
    pub success_threshold: u32,
}

/// Caps of what one sidecar does at once towards one backend; at least one of them is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("minProperties" = 1))]
pub struct Limits {
    /// Open connections, idle ones too.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: Option<u32>,
    /// Requests that may wait for a place or a connection; 1024 where this is left out, and with 0 none
    /// waits.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_pending_requests: Option<u32>,
    /// Requests in flight.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_requests: Option<u32>,
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
