//! `fallback`: what clients get where their service cannot answer.

use serde::{Deserialize, Serialize};

/// An answer, or another backend's; exactly one of them is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Fallback {
    /// When it is used: by any of these, at least one.
    pub triggers: Vec<FallbackTrigger>,
    /// An answer that the client's sidecar makes.
    pub response: Option<FallbackResponse>,
    /// A service that is asked instead, while the request can still be sent again.
    pub backend: Option<FallbackBackend>,
}

/// When a fallback is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FallbackTrigger {
    /// The breaker said no.
    CircuitOpen,
    /// The backend has no endpoint.
    NoEndpoints,
    /// The request's or the last try's time was over; only a response can follow.
    Timeout,
    /// The last try would have been repeated, but attempts or budget were spent.
    RetriesExhausted,
    /// A cap was full, here or at the server's sidecar.
    Overload,
}

/// An answer that the client's sidecar makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FallbackResponse {
    /// Its status, 200 to 599.
    pub status: u16,
    /// Its content type, at most 128 bytes.
    pub content_type: String,
    /// Its body, at most 4,096 bytes.
    pub body: String,
    /// More headers: at most 8, none twice.
    pub headers: Vec<FallbackHeader>,
}

/// A header of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FallbackHeader {
    /// Its name.
    pub name: String,
    /// Its value, at most 1,024 bytes.
    pub value: String,
}

/// A service that is asked instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FallbackBackend {
    /// A service of the policy's namespace.
    pub name: String,
    /// Its port; the addressed one's number where it is left out.
    #[serde(default)]
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
