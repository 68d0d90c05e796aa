//! The `accessLog` stanza: which requests the sidecars write a line about, and what it says.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::words::Rule;

/// Which requests the sidecars write a line about, and what it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend(
    "x-weft-enforced" = "the client's sidecar and the server's",
    "x-weft-example" = r"accessLog:
  mode: All
  percent: 10
  fields: [requestId, method, path, status, outcome, durationMs]",
    "x-kubernetes-validations" = [
        Rule::new(
            "self.mode == 'All' || self.percent == 100",
            "percent needs mode All",
        )
        .at(".percent")
        .mend("leave percent out: of what mode Failures logs nothing is left out"),
    ],
))]
pub struct AccessLog {
    /// Which requests there is a line about.
    pub mode: AccessLogMode,
    /// With mode All: the percentage of requests that did not fail. Those that failed are always logged.
    /// Chance goes by the request id, so that all sidecars choose the same requests.
    #[serde(default = "every")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: u32,
    /// What a line says, in this order; what is not known of a request is left out of its line.
    #[serde(default = "AccessLogField::usual")]
    #[schemars(length(min = 1, max = 24), extend("x-kubernetes-list-type" = "set"))]
    pub fields: Vec<AccessLogField>,
}

/// Which requests there is a line about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessLogMode {
    /// About all, or of those that did not fail a share.
    All,
    /// About those that failed: their outcome is not `ok`, or their status is 500 or above, or their gRPC
    /// status is not 0.
    Failures,
    /// About none.
    Disabled,
}

/// What a line can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AccessLogField {
    /// `x-request-id`.
    RequestId,
    /// The id of the trace, where the request is traced.
    TraceId,
    /// `outbound` at the client's sidecar, `inbound` at the server's.
    Direction,
    /// The HTTP method.
    Method,
    /// The host that the client named.
    Authority,
    /// The path, without its query.
    Path,
    /// What stands behind the path's `?`. It may hold secrets.
    Query,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    Protocol,
    /// The status that the client got; 499 where it went away before.
    Status,
    /// The status of a gRPC response, as a number.
    GrpcStatus,
    /// The outcome, as in the metrics.
    Outcome,
    /// Milliseconds from the request's head to the response's end.
    DurationMs,
    /// How often the client's sidecar tried.
    Tries,
    /// The service that the client addressed.
    Destination,
    /// The rule or route.
    Route,
    /// The service that the request went to.
    Backend,
    /// The address that the request went to.
    Endpoint,
    /// The other side, as namespace and service account.
    Peer,
    /// How the bytes were protected.
    Tls,
    /// `User-Agent`.
    UserAgent,
    /// Whether a fallback answered.
    Fallback,
}

impl AccessLogField {
    /// What a line says where a policy does not choose.
    fn usual() -> Vec<Self> {
        vec![
            Self::RequestId,
            Self::Direction,
            Self::Method,
            Self::Authority,
            Self::Path,
            Self::Status,
            Self::GrpcStatus,
            Self::Outcome,
            Self::DurationMs,
            Self::Tries,
            Self::Destination,
            Self::Route,
            Self::Backend,
            Self::Endpoint,
            Self::Peer,
            Self::Tls,
        ]
    }
}

fn every() -> u32 {
    100
}
