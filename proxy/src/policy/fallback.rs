//! What clients get where no server answered.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

/// Stands in for an answer that did not come.
#[derive(Clone, Debug, PartialEq)]
pub struct FallbackPolicy {
    /// When it is used; at least one. Without `Timeout` where another backend is asked.
    pub triggers: Vec<FallbackTrigger>,
    /// What it is.
    pub answer: FallbackAnswer,
}

/// When a fallback is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallbackTrigger {
    /// `circuit_open`.
    CircuitOpen,
    /// `no_endpoints`.
    NoEndpoints,
    /// `overflow` and `shed`, of either sidecar.
    Overload,
    /// The last try would have been repeated, but attempts or budget were spent.
    RetriesExhausted,
    /// `request_timeout` and `try_timeout`.
    Timeout,
}

/// What a fallback is.
#[derive(Clone, Debug, PartialEq)]
pub enum FallbackAnswer {
    /// Another of the target's backends, by index.
    Backend(usize),
    /// The sidecar answers itself.
    Response(StaticResponse),
}

/// An answer that is ready to be given.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticResponse {
    /// 200 to 599.
    pub status: StatusCode,
    /// All of them, the content type among them.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl FallbackPolicy {
    /// Whether it asks another backend, for which the request must be kept.
    pub fn asks_a_backend(&self) -> bool {
        matches!(self.answer, FallbackAnswer::Backend(_))
    }
}
