//! `retries`: which failed tries are repeated.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::matches::{GrpcCode, Method};
use crate::policy::duration::PolicyDuration;
use crate::policy::schema::words::{Rule, lasting};

/// Which failed tries are repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend(
    "x-weft-enforced" = "the client's sidecar",
    "x-weft-example" = r"retries:
  attempts: 2
  conditions: [ConnectFailure, RefusedStream, PerTryTimeout]
  statusCodes: [502, 503]
  grpcCodes: [UNAVAILABLE]
  methods: [GET, HEAD]
  backoff: {base: 25ms, max: 250ms}
  budget: {percent: 20, interval: 10s, minRetriesPerSecond: 10}
  bodyLimitBytes: 65536
  retryAfter: Honor",
))]
pub struct Retries {
    /// How many tries may follow the first. 0 switches retries off.
    #[schemars(range(min = 0, max = 10))]
    pub attempts: u32,
    /// Failures of transport that are repeated.
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "set"))]
    pub conditions: Vec<RetryCondition>,
    /// HTTP statuses that are repeated, 400 to 599, where `methods` or an `Idempotency-Key` allows it.
    #[schemars(
        length(max = 16),
        inner(range(min = 400, max = 599)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub status_codes: Vec<u16>,
    /// gRPC statuses that are repeated, whatever `methods` says.
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "set"))]
    pub grpc_codes: Vec<GrpcCode>,
    /// HTTP methods of which a try may be repeated that the server may have processed.
    #[schemars(length(max = 9), extend("x-kubernetes-list-type" = "set"))]
    pub methods: Vec<Method>,
    /// How long is waited between tries.
    pub backoff: Backoff,
    /// How much load retries may add, per sidecar and backend.
    pub budget: Budget,
    /// Request bodies of up to this many bytes are kept for repeating, at most 10 MiB. A request
    /// whose body is longer goes on, and is not repeated.
    #[schemars(range(min = 0, max = 10_485_760))]
    pub body_limit_bytes: u32,
    /// What happens about a `Retry-After` header and gRPC's pushback.
    pub retry_after: RetryAfter,
}

/// Failures of transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RetryCondition {
    /// No connection came about.
    ConnectFailure,
    /// The peer said that it did not process the request.
    RefusedStream,
    /// The connection or stream broke before a response head.
    Reset,
    /// The try took longer than `timeouts.perTry`.
    PerTryTimeout,
}

/// How long is waited between tries: a random time below a bound that doubles from `base` to `max`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("x-kubernetes-validations" = [
    Rule::new("duration(self.base) <= duration(self.max)", "base cannot exceed max")
        .mend("lower base, or raise max"),
]))]
pub struct Backoff {
    /// The bound of the first delay, 1ms to 1m.
    #[schemars(extend("x-kubernetes-validations" = lasting("1ms", "1m")))]
    pub base: PolicyDuration,
    /// The bound of every delay, 1ms to 5m.
    #[schemars(extend("x-kubernetes-validations" = lasting("1ms", "5m")))]
    pub max: PolicyDuration,
}

/// How much load retries may add, per sidecar and backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Budget {
    /// Retries as a percentage of the requests in `interval`.
    #[schemars(range(min = 0, max = 100))]
    pub percent: u32,
    /// The time that requests are counted over, 1s to 1h.
    #[schemars(extend("x-kubernetes-validations" = lasting("1s", "1h")))]
    pub interval: PolicyDuration,
    /// Retries per second that are allowed whatever `percent` says.
    #[schemars(range(min = 0, max = 100_000))]
    pub min_retries_per_second: u32,
}

/// What happens about `Retry-After`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RetryAfter {
    /// It is waited for, within the request's deadline.
    #[default]
    Honor,
    /// It is not looked at.
    Ignore,
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
