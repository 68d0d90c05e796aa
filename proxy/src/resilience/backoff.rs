//! How long to wait before a retry: exponential, with full jitter.
//!
//! Full jitter spreads retries over the whole of the window, so that those who failed together do
//! not come back together.

use std::time::Duration;

/// The wait before the retry number `index` (from 0): anywhere in `[0, min(max, base * 2^index)]`.
pub fn delay(base: Duration, max: Duration, index: u32, rng: &mut fastrand::Rng) -> Duration {
    let bound = bound(base, max, index);
    let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(rng.u64(0..=nanos))
}

/// The longest wait before the retry number `index`; saturates.
pub fn bound(base: Duration, max: Duration, index: u32) -> Duration {
    let factor = 1_u32.checked_shl(index).unwrap_or(u32::MAX);
    base.saturating_mul(factor).min(max)
}
