//! How a try ended, and what a breaker makes of it.

use std::time::Duration;

use http::StatusCode;

use crate::outcome::{Failure, Outcome, Processed};
use crate::policy::BreakerPolicy;

/// gRPC status codes that count as failures: UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE and
/// DATA_LOSS (DESIGN section 8).
pub const FAILED_GRPC_CODES: [u8; 5] = [2, 4, 13, 14, 15];

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryResult {
    /// A response came.
    Answered(Answer),
    /// No response came.
    Failed {
        /// The word for it.
        outcome: Outcome,
        /// Whether the application may have seen the request.
        processed: Processed,
    },
}

/// What of a response matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// The gRPC status, of headers or trailers.
    pub grpc_status: Option<u8>,
    /// The outcome's word when the *inbound* sidecar made the response (`x-weft-origin: inbound` on
    /// a connection whose mesh identity was verified); `None` when the application did.
    pub inbound: Option<Outcome>,
    /// `Retry-After`, in seconds on the wire.
    pub retry_after: Option<Duration>,
    /// `grpc-retry-pushback-ms`.
    pub pushback: Option<Pushback>,
}

impl Answer {
    /// A response without anything special about it.
    pub const fn plain(status: StatusCode) -> Self {
        Self {
            status,
            grpc_status: None,
            inbound: None,
            retry_after: None,
            pushback: None,
        }
    }
}

/// What a gRPC server says about retrying (gRFC A6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushback {
    /// Not before this time has passed.
    After(Duration),
    /// Not at all: a negative or unreadable value.
    Never,
}

impl Pushback {
    /// Reads the header's value. What is no number means never, as the gRFC says.
    pub fn parse(value: &[u8]) -> Self {
        std::str::from_utf8(value)
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok())
            .map_or(Self::Never, |ms| Self::After(Duration::from_millis(ms)))
    }
}

/// Reads `Retry-After` in seconds; its date form is ignored (`None`).
pub fn parse_retry_after(value: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| {
        text.parse::<u64>()
            .map_or(Duration::MAX, Duration::from_secs)
    })
}

/// What a breaker makes of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryVerdict {
    /// No connection came about: refused, timed out, TLS failed. A failure, and the only thing that
    /// counts where an endpoint has no breaker but a reconnect backoff.
    ConnectFailed,
    /// It failed.
    Failure,
    /// It says nothing about the endpoint (the client went away, a cap was full).
    Neutral,
    /// It went well.
    Success,
}

impl TryVerdict {
    /// Whether it counts against the endpoint.
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::ConnectFailed | Self::Failure)
    }
}

impl TryResult {
    /// Where a step of the data path could not go on.
    pub fn failed(failure: &Failure) -> Self {
        Self::Failed {
            outcome: failure.outcome,
            processed: failure.processed,
        }
    }

    /// What the breaker (`None`: the defaults) makes of it.
    pub fn verdict(&self, breaker: Option<&BreakerPolicy>) -> TryVerdict {
        match self {
            Self::Failed { outcome, .. } => outcome_verdict(*outcome),
            Self::Answered(answer) => match answer.inbound {
                Some(Outcome::Ok) | None => {
                    let codes = breaker.map_or(&[][..], |policy| &policy.failure_status_codes);
                    status_verdict(codes, answer.status, answer.grpc_status)
                }
                // The application takes no connection: to the endpoint it is as if none had come
                // about, and its sidecar will say the same to the next request.
                Some(outcome) if is_connect_failure(outcome) => TryVerdict::ConnectFailed,
                // The endpoint's sidecar was reached: whatever went wrong lies behind it.
                Some(outcome) if outcome.is_breaker_failure() => TryVerdict::Failure,
                Some(_) => TryVerdict::Neutral,
            },
        }
    }

    /// Whether the application provably never saw the request.
    pub fn never_processed(&self) -> bool {
        match self {
            Self::Failed { processed, .. } => *processed == Processed::Never,
            Self::Answered(answer) => answer.inbound.is_some_and(never_handed_on),
        }
    }
}

/// Whether an inbound sidecar that answers so has not handed the request to its application.
const fn never_handed_on(outcome: Outcome) -> bool {
    matches!(
        outcome,
        Outcome::ConnectRefused
            | Outcome::ConnectTimeout
            | Outcome::TlsFailed
            | Outcome::Overflow
            | Outcome::Shed
    )
}

/// Whether an outcome says that no connection came about.
pub(crate) const fn is_connect_failure(outcome: Outcome) -> bool {
    matches!(
        outcome,
        Outcome::ConnectRefused | Outcome::ConnectTimeout | Outcome::TlsFailed
    )
}

fn outcome_verdict(outcome: Outcome) -> TryVerdict {
    if is_connect_failure(outcome) {
        return TryVerdict::ConnectFailed;
    }
    if outcome.is_breaker_failure() {
        return TryVerdict::Failure;
    }
    if outcome == Outcome::Ok {
        return TryVerdict::Success;
    }
    TryVerdict::Neutral
}

/// Judges what the application answered: by `failure_codes` (empty: every 5xx) and gRPC status.
fn status_verdict(failure_codes: &[u16], status: StatusCode, grpc: Option<u8>) -> TryVerdict {
    let by_status = if failure_codes.is_empty() {
        status.is_server_error()
    } else {
        failure_codes.contains(&status.as_u16())
    };
    let by_grpc = grpc.is_some_and(|code| FAILED_GRPC_CODES.contains(&code));
    if by_status || by_grpc {
        TryVerdict::Failure
    } else {
        TryVerdict::Success
    }
}
