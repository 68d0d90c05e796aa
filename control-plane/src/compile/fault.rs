//! `faultInjection` as a wire message.

use weft_proto::discovery as wire;
use weft_proto::discovery::fault_abort::Status;

use super::wire::{duration, header_match};
use crate::policy::{FaultAbort, FaultDelay, FaultInjection};

pub(super) fn fault(fault: &FaultInjection) -> wire::Fault {
    wire::Fault {
        headers: fault.headers.iter().map(header_match).collect(),
        delay: fault.delay.as_ref().map(delay),
        abort: fault.abort.as_ref().map(abort),
    }
}

fn delay(delay: &FaultDelay) -> wire::FaultDelay {
    wire::FaultDelay {
        duration: Some(duration(delay.duration)),
        percent: delay.percent,
    }
}

fn abort(abort: &FaultAbort) -> wire::FaultAbort {
    let grpc = abort.grpc_code.map(|code| Status::GrpcCode(code as u32));
    let http = abort
        .http_status
        .map(|status| Status::HttpStatus(u32::from(status)));
    wire::FaultAbort {
        status: grpc.or(http),
        percent: abort.percent,
    }
}
