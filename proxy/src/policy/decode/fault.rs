//! Failures that policy asks for, from the wire.

use weft_proto::discovery as wire;
use weft_proto::discovery::fault_abort::Status;

use super::Decoded;
use super::fields::{each, final_status, missing, optional, percent, positive, refuse, required};
use super::route::header_match;
use crate::policy::{AbortStatus, FaultAbort, FaultDelay, FaultPolicy};

pub(super) fn decode(message: &wire::Fault) -> Decoded<FaultPolicy> {
    if message.delay.is_none() && message.abort.is_none() {
        return Err(missing("delay"));
    }
    Ok(FaultPolicy {
        headers: each("headers", &message.headers, header_match)?,
        delay: optional("delay", message.delay.as_ref(), |delay| {
            Ok(FaultDelay {
                duration: required("duration", delay.duration.as_ref(), positive)?,
                percent: percent("percent", delay.percent)?,
            })
        })?,
        abort: optional("abort", message.abort.as_ref(), |abort| {
            Ok(FaultAbort {
                status: abort_status(abort.status.ok_or(missing("status"))?)?,
                percent: percent("percent", abort.percent)?,
            })
        })?,
    })
}

fn abort_status(status: Status) -> Decoded<AbortStatus> {
    const LAST_GRPC: u8 = 16;
    match status {
        Status::HttpStatus(code) => final_status("http_status", code).map(AbortStatus::Http),
        Status::GrpcCode(code) => u8::try_from(code)
            .ok()
            .filter(|code| (1..=LAST_GRPC).contains(code))
            .map(AbortStatus::Grpc)
            .ok_or_else(|| refuse("grpc_code", "not from 1 to 16")),
    }
}
