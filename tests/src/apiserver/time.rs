//! Times as Kubernetes writes them.

use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::jiff::Timestamp;

/// RFC 3339 in seconds, in UTC.
pub(super) fn written(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Timestamp::from_second(seconds as i64)
        .unwrap_or(Timestamp::MAX)
        .to_string()
}

pub(super) fn now() -> String {
    written(SystemTime::now())
}
