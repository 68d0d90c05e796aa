//! `faultInjection`: failures that people ask for, to see what their clients make of them.

use serde::{Deserialize, Serialize};

use super::duration::PolicyDuration;
use super::traffic::{GrpcCode, HeaderMatch};

/// Delays and failures by chance; at least one of them is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FaultInjection {
    /// Only for requests with all of these headers: at most 8.
    pub headers: Vec<HeaderMatch>,
    /// Makes requests wait before they go on.
    pub delay: Option<FaultDelay>,
    /// Answers requests instead of sending them on.
    pub abort: Option<FaultAbort>,
}

/// Makes requests wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultDelay {
    /// How long, 1 ms to 5 min.
    pub duration: PolicyDuration,
    /// Share of the requests, 0 to 100.
    #[serde(default = "every")]
    pub percent: u32,
}

/// Answers requests; exactly one of its statuses is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultAbort {
    /// The status, 200 to 599; gRPC callers get UNAVAILABLE.
    #[serde(default)]
    pub http_status: Option<u16>,
    /// The gRPC status; other callers get 503.
    #[serde(default)]
    pub grpc_code: Option<GrpcCode>,
    /// Share of the requests, 0 to 100.
    #[serde(default = "every")]
    pub percent: u32,
}

fn every() -> u32 {
    100
}
