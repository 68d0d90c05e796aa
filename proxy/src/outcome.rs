//! How an exchange ends, and the data path's one error type.
//!
//! [`Outcome`] is a closed list: the same word stands in the `x-weft-outcome` header, the metric
//! label, the access log and the gRPC message. [`Failure`] is what every step of the data path
//! returns when it cannot go on: who is at fault, whether the request may have been processed, and
//! a sentence for people. It becomes an answer in one place per direction.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::time::Duration;

use http::StatusCode;

use crate::net::Shortage;

/// The closed list of how an exchange ends (DESIGN section 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// The request breaks the protocol, or a bound of ours.
    BadRequest,
    /// A breaker of scope Backend is open.
    CircuitOpen,
    /// The client went away first.
    ClientGone,
    /// Nothing is known about the destination and nobody can be asked.
    ConfigUnavailable,
    /// No endpoint took the connection.
    ConnectRefused,
    /// Connecting, TLS included, took too long.
    ConnectTimeout,
    /// Policy asked for this failure.
    FaultInjected,
    /// No byte either way for too long.
    IdleTimeout,
    /// Plaintext where mesh TLS is a must.
    MtlsRequired,
    /// The backend has no endpoint.
    NoEndpoints,
    /// No route matches, or the one that does leads nowhere.
    NoRoute,
    /// The application answered, with whatever status; or a route asked for a redirect, and got it.
    Ok,
    /// A queue or cap is full.
    Overflow,
    /// Over the rate limit.
    RateLimited,
    /// The request's whole time is over.
    RequestTimeout,
    /// The connection or stream broke.
    Reset,
    /// Refused to protect this process.
    Shed,
    /// TLS failed; a wrong identity too.
    TlsFailed,
    /// One try took too long.
    TryTimeout,
    /// Policy does not allow it.
    Unauthorized,
}

impl Outcome {
    /// Every outcome, in the order of the enum.
    pub const ALL: [Self; 20] = [
        Self::BadRequest,
        Self::CircuitOpen,
        Self::ClientGone,
        Self::ConfigUnavailable,
        Self::ConnectRefused,
        Self::ConnectTimeout,
        Self::FaultInjected,
        Self::IdleTimeout,
        Self::MtlsRequired,
        Self::NoEndpoints,
        Self::NoRoute,
        Self::Ok,
        Self::Overflow,
        Self::RateLimited,
        Self::RequestTimeout,
        Self::Reset,
        Self::Shed,
        Self::TlsFailed,
        Self::TryTimeout,
        Self::Unauthorized,
    ];

    /// The word, everywhere that users see it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::CircuitOpen => "circuit_open",
            Self::ClientGone => "client_gone",
            Self::ConfigUnavailable => "config_unavailable",
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::FaultInjected => "fault_injected",
            Self::IdleTimeout => "idle_timeout",
            Self::MtlsRequired => "mtls_required",
            Self::NoEndpoints => "no_endpoints",
            Self::NoRoute => "no_route",
            Self::Ok => "ok",
            Self::Overflow => "overflow",
            Self::RateLimited => "rate_limited",
            Self::RequestTimeout => "request_timeout",
            Self::Reset => "reset",
            Self::Shed => "shed",
            Self::TlsFailed => "tls_failed",
            Self::TryTimeout => "try_timeout",
            Self::Unauthorized => "unauthorized",
        }
    }

    /// The outcome that a word stands for.
    pub fn from_word(word: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|outcome| outcome.as_str().as_bytes() == word)
    }

    /// The status of an answer that a sidecar makes itself.
    pub const fn http_status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::MtlsRequired | Self::Unauthorized => StatusCode::FORBIDDEN,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::Reset | Self::TlsFailed => StatusCode::BAD_GATEWAY,
            Self::ConnectTimeout | Self::IdleTimeout | Self::RequestTimeout | Self::TryTimeout => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::CircuitOpen
            | Self::ClientGone
            | Self::ConfigUnavailable
            | Self::ConnectRefused
            | Self::FaultInjected
            | Self::NoEndpoints
            | Self::Ok
            | Self::Overflow
            | Self::Shed => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The gRPC status code of an answer that a sidecar makes itself.
    pub const fn grpc_code(self) -> u8 {
        const CANCELLED: u8 = 1;
        const DEADLINE_EXCEEDED: u8 = 4;
        const PERMISSION_DENIED: u8 = 7;
        const RESOURCE_EXHAUSTED: u8 = 8;
        const UNIMPLEMENTED: u8 = 12;
        const INTERNAL: u8 = 13;
        const UNAVAILABLE: u8 = 14;
        const UNAUTHENTICATED: u8 = 16;
        match self {
            Self::BadRequest => INTERNAL,
            Self::ClientGone => CANCELLED,
            Self::MtlsRequired => UNAUTHENTICATED,
            Self::NoRoute => UNIMPLEMENTED,
            Self::Overflow | Self::RateLimited => RESOURCE_EXHAUSTED,
            Self::RequestTimeout | Self::TryTimeout => DEADLINE_EXCEEDED,
            Self::Unauthorized => PERMISSION_DENIED,
            Self::CircuitOpen
            | Self::ConfigUnavailable
            | Self::ConnectRefused
            | Self::ConnectTimeout
            | Self::FaultInjected
            | Self::IdleTimeout
            | Self::NoEndpoints
            | Self::Ok
            | Self::Reset
            | Self::Shed
            | Self::TlsFailed => UNAVAILABLE,
        }
    }

    /// Whether a try that ended so is a failure to its endpoint's breaker. An `ok` is judged by its
    /// status instead.
    pub const fn is_breaker_failure(self) -> bool {
        matches!(
            self,
            Self::ConnectRefused
                | Self::ConnectTimeout
                | Self::RequestTimeout
                | Self::Reset
                | Self::TlsFailed
                | Self::TryTimeout
        )
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which sidecar made an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The server's.
    Inbound,
    /// The client's.
    Outbound,
}

impl Origin {
    /// The word in the `x-weft-origin` header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// Whether the application may have seen a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processed {
    /// It may have: only what is idempotent may be tried again.
    Maybe,
    /// It provably has not: every method may be tried elsewhere.
    Never,
}

/// Why a step of the data path could not go on.
#[derive(Debug, thiserror::Error)]
#[error("{outcome}: {detail}")]
pub struct Failure {
    /// The word for it.
    pub outcome: Outcome,
    /// Whether trying again is safe.
    pub processed: Processed,
    /// For people; never a secret, never the peer's bytes.
    pub detail: Cow<'static, str>,
    /// The status of the answer where it is not the outcome's own (408, 431 and 501 of `bad_request`, 500 of
    /// `no_route`).
    pub status: Option<StatusCode>,
    /// The gRPC status of the answer where it is not the outcome's own (`fault_injected`).
    pub grpc_status: Option<u8>,
    /// When it is worth trying again, where that is known: `Retry-After` of the answer.
    pub retry_after: Option<Duration>,
    /// What lies behind.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Failure {
    /// A failure before anything of the request left this process.
    pub fn never(outcome: Outcome, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(outcome, Processed::Never, detail)
    }

    /// A failure after which the application may have seen the request.
    pub fn maybe(outcome: Outcome, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(outcome, Processed::Maybe, detail)
    }

    /// A connection that did not come about: `refused` says what that means, unless it is this
    /// machine that had no port (`overflow`) or no descriptor (`shed`) for it. Neither is the peer's
    /// fault, and no breaker counts it.
    pub fn not_connected(error: io::Error, refused: impl Into<Cow<'static, str>>) -> Self {
        let failure = match Shortage::behind(&error) {
            Some(Shortage::Ports) => Self::never(
                Outcome::Overflow,
                "source ports towards this address have run out",
            ),
            Some(Shortage::Descriptors) => Self::never(
                Outcome::Shed,
                "this sidecar has no file descriptor left for a connection",
            ),
            None => Self::never(Outcome::ConnectRefused, refused),
        };
        failure.because(error)
    }

    /// Adds what lies behind.
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Answers with `status` instead of the outcome's own.
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// Answers gRPC callers with `code` instead of the outcome's own.
    pub fn with_grpc_code(mut self, code: u8) -> Self {
        self.grpc_status = Some(code);
        self
    }

    /// Says when it is worth trying again.
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The status of the answer.
    pub fn http_status(&self) -> StatusCode {
        self.status.unwrap_or(self.outcome.http_status())
    }

    /// The gRPC status code of the answer.
    pub fn grpc_code(&self) -> u8 {
        self.grpc_status.unwrap_or(self.outcome.grpc_code())
    }

    fn new(outcome: Outcome, processed: Processed, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            outcome,
            processed,
            detail: detail.into(),
            status: None,
            grpc_status: None,
            retry_after: None,
            source: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn words_are_distinct_and_come_back() {
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
            assert_eq!(
                Outcome::from_word(outcome.as_str().as_bytes()),
                Some(outcome)
            );
        }
        assert_eq!(Outcome::from_word(b"fine"), None);
    }

    #[test]
    fn what_this_machine_lacks_is_not_the_peers_fault() {
        for (errno, outcome) in [
            (Errno::ADDRNOTAVAIL, Outcome::Overflow),
            (Errno::MFILE, Outcome::Shed),
            (Errno::CONNREFUSED, Outcome::ConnectRefused),
            (Errno::HOSTUNREACH, Outcome::ConnectRefused),
        ] {
            let failure = Failure::not_connected(errno.into(), "nobody listens");
            assert_eq!(failure.outcome, outcome, "{errno}");
            assert_eq!(failure.processed, Processed::Never);
            let blames = outcome == Outcome::ConnectRefused;
            assert_eq!(failure.outcome.is_breaker_failure(), blames);
        }
    }
}
