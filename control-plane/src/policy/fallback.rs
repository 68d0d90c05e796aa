//! `fallback`: what clients get where their service cannot answer.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::words::{HEADER_VALUE, LABEL, Rule, TOKEN, settable_header};

/// What clients get where their service cannot answer: an answer that the sidecar makes, or another
/// service's; exactly one of `response` and `backend` is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend(
    "x-weft-enforced" = "the client's sidecar",
    "x-weft-example" = r#"fallback:
  triggers: [CircuitOpen, NoEndpoints]
  response:
    status: 503
    contentType: application/json
    body: '{"error": "try again later"}'
    headers: [{name: retry-after, value: "5"}]"#,
    "x-kubernetes-validations" = [
        Rule::new(
            "has(self.response) != has(self.backend)",
            "exactly one of response or backend is required",
        )
        .mend("response: {} answers 503"),
        Rule::new(
            "!has(self.backend) || !self.triggers.exists(t, t == 'Timeout')",
            "after a Timeout only a response can follow",
        )
        .at(".triggers")
        .mend("leave Timeout out: no time is left to ask another backend"),
    ],
))]
pub struct Fallback {
    /// When it is used: in any of these cases.
    #[schemars(length(min = 1, max = 5), extend("x-kubernetes-list-type" = "set"))]
    pub triggers: Vec<FallbackTrigger>,
    /// An answer that the client's sidecar makes. `{}` answers 503.
    pub response: Option<FallbackResponse>,
    /// A service that is asked instead, while the request can still be sent again.
    pub backend: Option<FallbackBackend>,
}

/// When a fallback is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FallbackTrigger {
    /// The circuit breaker of the backend is open.
    CircuitOpen,
    /// The backend has no endpoint.
    NoEndpoints,
    /// The time of the request, or of its last try, is over. Only a response can follow.
    Timeout,
    /// The last try failed, and would have been repeated if attempts and budget had not been spent.
    RetriesExhausted,
    /// A cap was reached, at the client's sidecar or at the server's.
    Overload,
}

/// An answer that the client's sidecar makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FallbackResponse {
    /// Its HTTP status. gRPC callers get the status of the failure itself.
    #[schemars(range(min = 200, max = 599))]
    pub status: u16,
    /// Its content type.
    #[schemars(length(max = 128), regex(pattern = HEADER_VALUE))]
    pub content_type: String,
    /// Its body; none where this is left out.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 4096))]
    pub body: String,
    /// More headers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub headers: Vec<FallbackHeader>,
}

/// A header of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = settable_header()))]
pub struct FallbackHeader {
    /// Its name: none that belongs to the connection or to the framing of messages, and none of
    /// Weft's own.
    #[schemars(length(min = 1, max = 256), regex(pattern = TOKEN))]
    pub name: String,
    /// Its value.
    #[schemars(length(max = 1024), regex(pattern = HEADER_VALUE))]
    pub value: String,
}

/// A service that is asked instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FallbackBackend {
    /// A service of the policy's namespace.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    pub name: String,
    /// Its port; the number of the addressed port where this is left out.
    #[serde(default)]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<u16>,
}

impl Default for Fallback {
    fn default() -> Self {
        Self {
            triggers: vec![FallbackTrigger::CircuitOpen, FallbackTrigger::NoEndpoints],
            response: None,
            backend: None,
        }
    }
}

impl Default for FallbackResponse {
    fn default() -> Self {
        Self {
            status: 503,
            content_type: "text/plain; charset=utf-8".to_owned(),
            body: String::new(),
            headers: Vec::new(),
        }
    }
}
