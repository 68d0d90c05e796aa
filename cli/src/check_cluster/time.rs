//! Moments and spans.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use serde_json::Value;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
/// Seconds of a day.
pub(crate) const DAY: i64 = 24 * HOUR;

/// Seconds since the epoch of a moment as Kubernetes writes them.
pub(super) fn moment(value: &Value) -> Option<i64> {
    let time: MicroTime = serde_json::from_value(value.clone()).ok()?;
    Some(time.0.as_second())
}

/// A span in the largest unit of which there are two.
pub(crate) fn span(seconds: i64) -> String {
    let units = [(DAY, "days"), (HOUR, "h"), (MINUTE, "min")];
    let unit = units.into_iter().find(|(length, _)| seconds >= 2 * length);
    let (length, unit) = unit.unwrap_or((1, "s"));
    format!("{} {unit}", seconds / length)
}
