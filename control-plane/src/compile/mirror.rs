//! Who gets copies of requests, with the bounds that keep copies cheap.

use std::time::Duration;

use weft_proto::discovery as wire;

use crate::policy::Retries;

/// How long a copy's answer may take where the route's requests have no limit of their own.
const TIMEOUT: Duration = Duration::from_secs(15);
/// What a percentage is a part of.
pub(super) const HUNDRED: u32 = 100;
/// Copies of one sidecar to one service that are on their way at once.
const MAX_IN_FLIGHT: u32 = 64;

/// `backend` is the place of the mirror's service in the target's list.
pub(super) fn mirror(
    (share, out_of): (u32, u32),
    backend: u32,
    timeouts: &wire::Timeouts,
    retries: Option<&wire::Retries>,
) -> wire::Mirror {
    let kept = retries.map(|retries| retries.body_limit_bytes);
    wire::Mirror {
        backend,
        share,
        out_of,
        calls: false,
        body_limit_bytes: kept.unwrap_or_else(|| Retries::default().body_limit_bytes),
        max_in_flight: MAX_IN_FLIGHT,
        timeout: timeouts
            .request
            .or_else(|| prost_types::Duration::try_from(TIMEOUT).ok()),
    }
}
