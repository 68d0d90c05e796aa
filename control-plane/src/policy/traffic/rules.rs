//! `rules`: stanzas for some requests only.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::matches::{HeaderMatch, Method};
use super::retries::Retries;
use super::split::Split;
use super::timeouts::Timeouts;
use crate::policy::access_log::AccessLog;
use crate::policy::fallback::Fallback;
use crate::policy::fault::FaultInjection;
use crate::policy::rate_limit::RateLimit;
use crate::policy::schema::words::{self, GRPC_METHOD, GRPC_SERVICE, LABEL};

/// Stanzas for some requests only. A stanza that is given here replaces the same one of the policy
/// for requests that match. Rules are tried in order, and the first that matches wins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend(
    "x-weft-enforced" = "the client's sidecar; rateLimit the server's, accessLog both",
    "x-weft-example" = r"rules:
- name: place-order
  matches: [{path: {type: PathPrefix, value: /orders}, method: POST}]
  timeouts: {request: 10s}
  retries: {attempts: 0}
- name: quotes
  matches: [{grpc: {service: shop.v1.Quotes, method: Stream}}]
  timeouts: {stream: 30m}",
    "x-kubernetes-validations" = [
        words::Rule::new(
            "!has(self.timeouts) || !has(self.timeouts.connect)",
            "connect cannot be set in a rule, because connections belong to the backend",
        )
        .at(".timeouts.connect")
        .mend("set spec.timeouts.connect"),
    ],
))]
pub struct Rule {
    /// A name for people and metrics, unique in its policy.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    pub name: String,
    /// The requests that the rule is for: those that any of these entries matches. The entry `{}`
    /// matches every request.
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub matches: Vec<RuleMatch>,
    /// Limits in time, without `connect`.
    #[serde(default)]
    pub timeouts: Option<Timeouts>,
    /// Which failed tries are repeated.
    #[serde(default)]
    pub retries: Option<Retries>,
    /// Where these requests go.
    #[serde(default)]
    pub split: Option<Split>,
    /// How many of these requests each of the target's workloads takes.
    #[serde(default)]
    pub rate_limit: Option<RateLimit>,
    /// Failures that are asked for.
    #[serde(default)]
    pub fault_injection: Option<FaultInjection>,
    /// What clients get where the service cannot answer.
    #[serde(default)]
    pub fallback: Option<Fallback>,
    /// Which of these requests the sidecars write a line about.
    #[serde(default)]
    pub access_log: Option<AccessLog>,
}

/// A set of requests: those that all of its parts match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("x-kubernetes-validations" = [
    words::Rule::new(
        "!(has(self.grpc) && (has(self.path) || has(self.method)))",
        "grpc is exclusive with path and method",
    )
    .mend("a gRPC method is a path and POST already: leave path and method out"),
]))]
pub struct RuleMatch {
    /// The path, without its query.
    pub path: Option<PathMatch>,
    /// The HTTP method.
    pub method: Option<Method>,
    /// Headers that the request has, all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub headers: Vec<HeaderMatch>,
    /// Query parameters that the request has, all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub query_params: Vec<QueryParamMatch>,
    /// The gRPC service and method; `path` and `method` are left out then.
    pub grpc: Option<GrpcMatch>,
}

/// A query parameter, by its first value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QueryParamMatch {
    /// Its name, decoded.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// Its whole value, decoded.
    #[schemars(length(max = 1024))]
    pub value: String,
}

/// gRPC requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcMatch {
    /// The service with its package, as in shop.v1.Quotes.
    #[schemars(length(min = 1, max = 256), regex(pattern = GRPC_SERVICE))]
    pub service: String,
    /// The method; every one where this is left out.
    #[serde(default)]
    #[schemars(length(min = 1, max = 256), regex(pattern = GRPC_METHOD))]
    pub method: Option<String>,
}

/// A path, without its query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("x-kubernetes-validations" = [
    words::Rule::new(
        "self.type == 'RegularExpression' || self.value.startsWith('/')",
        "path must start with /",
    )
    .at(".value")
    .mend("begin it with /"),
]))]
pub struct PathMatch {
    /// How `value` is meant.
    #[serde(rename = "type")]
    pub kind: PathMatchType,
    /// What the path is compared with. It begins with / unless it is a regular expression.
    #[schemars(length(min = 1, max = 1024))]
    pub value: String,
}

/// How a path's value is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathMatchType {
    /// The whole path.
    Exact,
    /// Whole leading segments: /a is the prefix of /a and /a/b, and not of /ab.
    #[default]
    PathPrefix,
    /// A regular expression that the whole path matches, without look-around and back-references.
    RegularExpression,
}

impl Default for PathMatch {
    fn default() -> Self {
        Self {
            kind: PathMatchType::PathPrefix,
            value: "/".to_owned(),
        }
    }
}
