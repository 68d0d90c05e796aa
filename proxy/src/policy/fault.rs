//! Failures that policy asks for.

use std::time::Duration;

use http::StatusCode;
use weft_proto::discovery as wire;
use weft_proto::discovery::fault_abort::Status;

use super::HeaderMatch;
use super::decode::{DecodeError, each, header_match, missing, optional, positive, refuse};

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

impl FaultPolicy {
    pub(super) fn decode(message: &wire::Fault) -> Result<Self, DecodeError> {
        if message.delay.is_none() && message.abort.is_none() {
            return Err(missing("delay"));
        }
        Ok(Self {
            headers: each("headers", &message.headers, header_match)?,
            delay: optional("delay", message.delay.as_ref(), |delay| {
                let duration = optional("duration", delay.duration.as_ref(), positive)?;
                Ok(FaultDelay {
                    duration: duration.ok_or(missing("duration"))?,
                    percent: percent(delay.percent)?,
                })
            })?,
            abort: optional("abort", message.abort.as_ref(), |abort| {
                Ok(FaultAbort {
                    status: abort_status(abort.status.ok_or(missing("status"))?)?,
                    percent: percent(abort.percent)?,
                })
            })?,
        })
    }
}

fn abort_status(status: Status) -> Result<AbortStatus, DecodeError> {
    const FIRST_FINAL: u16 = 200;
    const LAST: u16 = 599;
    const LAST_GRPC: u8 = 16;
    match status {
        Status::HttpStatus(code) => u16::try_from(code)
            .ok()
            .filter(|code| (FIRST_FINAL..=LAST).contains(code))
            .and_then(|code| StatusCode::from_u16(code).ok())
            .map(AbortStatus::Http)
            .ok_or_else(|| refuse("http_status", "not from 200 to 599")),
        Status::GrpcCode(code) => u8::try_from(code)
            .ok()
            .filter(|code| (1..=LAST_GRPC).contains(code))
            .map(AbortStatus::Grpc)
            .ok_or_else(|| refuse("grpc_code", "not from 1 to 16")),
    }
}

fn percent(percent: u32) -> Result<u32, DecodeError> {
    if percent > 100 {
        return Err(refuse("percent", "over 100"));
    }
    Ok(percent)
}
