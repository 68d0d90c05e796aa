//! `faultInjection`: failures that people ask for, to see what their clients make of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::PolicyDuration;
use super::schema::words::{Rule, lasting};
use super::traffic::{GrpcCode, HeaderMatch};

/// Delays and failures by chance, to see what clients make of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend(
    "x-weft-enforced" = "the client's sidecar",
    "x-weft-example" = r#"faultInjection:
  headers: [{name: x-chaos, value: "1"}]
  delay: {duration: 200ms, percent: 50}
  abort: {httpStatus: 503, percent: 5}"#,
    "x-kubernetes-validations" = [
        Rule::new("has(self.delay) || has(self.abort)", "delay or abort is required")
            .mend("delay: {duration: 100ms} delays every request"),
    ],
))]
pub struct FaultInjection {
    /// Only requests that have all of these headers are touched; all requests where this is left
    /// out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub headers: Vec<HeaderMatch>,
    /// Makes requests wait before they go on.
    pub delay: Option<FaultDelay>,
    /// Answers requests instead of sending them on.
    pub abort: Option<FaultAbort>,
}

/// Makes requests wait before they go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultDelay {
    /// How long, 1ms to 5m.
    #[schemars(extend("x-kubernetes-validations" = lasting("1ms", "5m")))]
    pub duration: PolicyDuration,
    /// The percentage of requests that wait.
    #[serde(default = "every")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: u32,
}

/// Answers requests instead of sending them on; exactly one of `httpStatus` and `grpcCode` is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    Rule::new(
        "has(self.httpStatus) != has(self.grpcCode)",
        "exactly one of httpStatus or grpcCode is required",
    )
    .mend("httpStatus: 503 is what a service that is down looks like"),
]))]
pub struct FaultAbort {
    /// The HTTP status. gRPC callers get UNAVAILABLE.
    #[serde(default)]
    #[schemars(range(min = 200, max = 599))]
    pub http_status: Option<u16>,
    /// The gRPC status. Other callers get 503.
    #[serde(default)]
    pub grpc_code: Option<GrpcCode>,
    /// The percentage of requests that are answered.
    #[serde(default = "every")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: u32,
}

fn every() -> u32 {
    100
}
