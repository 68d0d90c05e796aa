//! The bounds of `faultInjection`.

use super::findings::Findings;
use super::traffic::{MAX_HEADERS, check_headers};
use crate::policy::fault::FaultInjection;

const MIN_DELAY_MS: u64 = 1;
const MAX_DELAY_MS: u64 = 300_000;

pub(super) fn check_fault(found: &mut Findings, path: &str, fault: &FaultInjection) {
    if fault.delay.is_none() && fault.abort.is_none() {
        found.add(path, "delay or abort is required", "");
    }
    let headers = format!("{path}.headers");
    found.at_most(&headers, fault.headers.len(), MAX_HEADERS);
    found.distinct(
        &headers,
        fault.headers.iter().map(|header| &header.name),
        "map key (name)",
    );
    check_headers(found, &headers, &fault.headers);
    if let Some(delay) = &fault.delay {
        let path = format!("{path}.delay");
        found.lasting(
            &format!("{path}.duration"),
            delay.duration,
            MIN_DELAY_MS,
            MAX_DELAY_MS,
        );
        found.within(&format!("{path}.percent"), delay.percent, 0..=100);
    }
    if let Some(abort) = &fault.abort {
        let path = format!("{path}.abort");
        if abort.http_status.is_some() == abort.grpc_code.is_some() {
            found.add(
                &path,
                "exactly one of httpStatus or grpcCode is required",
                "",
            );
        }
        if let Some(status) = abort.http_status {
            found.within(&format!("{path}.httpStatus"), status.into(), 200..=599);
        }
        found.within(&format!("{path}.percent"), abort.percent, 0..=100);
    }
}
