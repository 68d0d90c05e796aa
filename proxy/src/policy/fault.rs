//! Failures that policy asks for.

use std::time::Duration;

use http::StatusCode;

use super::HeaderMatch;

/// Delays and failures by chance; at least one of them is there.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultPolicy {
    /// Only requests with all of these headers.
    pub headers: Vec<HeaderMatch>,
    /// Makes requests wait.
    pub delay: Option<FaultDelay>,
    /// Answers requests.
    pub abort: Option<FaultAbort>,
}

/// Makes requests wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultDelay {
    /// How long.
    pub duration: Duration,
    /// Share of the requests, at most 100.
    pub percent: u32,
}

/// Answers requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultAbort {
    /// What the answer says.
    pub status: AbortStatus,
    /// Share of the requests, at most 100.
    pub percent: u32,
}

/// The status of an answer instead of the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortStatus {
    /// A gRPC status, 1 to 16.
    Grpc(u8),
    /// An HTTP status, 200 to 599.
    Http(StatusCode),
}
