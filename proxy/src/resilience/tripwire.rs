//! Counts failures while a breaker is closed, with atomics only.
//!
//! Two counts, each where policy asks for it: failures in a row, and the share of failures over a
//! sliding window of ten buckets. A result that races with a reset may be counted in the new life of
//! the breaker; one stray result is the whole error.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::policy::{BreakerPolicy, ErrorRate};

/// Buckets of the window.
const BUCKETS: usize = 10;
/// A bucket packs its tick, its failures and its requests.
const COUNT_BITS: u32 = 20;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
const TICK_MASK: u64 = (1 << (64 - 2 * COUNT_BITS)) - 1;

/// Failures in a row and by share.
#[derive(Debug, Default)]
pub struct Tripwire {
    consecutive: AtomicU32,
    buckets: [AtomicU64; BUCKETS],
}

impl Tripwire {
    /// Counts a result at `now` (nanoseconds); whether the breaker should trip.
    pub fn record(&self, now: u64, failed: bool, policy: &BreakerPolicy) -> bool {
        let in_a_row = self.count_in_a_row(failed);
        let tripped_in_a_row = policy
            .consecutive_failures
            .is_some_and(|threshold| failed && in_a_row >= threshold);
        let tripped_by_share = policy
            .error_rate
            .as_ref()
            .is_some_and(|rate| self.count_share(now, failed, rate));
        tripped_in_a_row || tripped_by_share
    }

    /// Failures since the last success.
    pub fn consecutive(&self) -> u32 {
        self.consecutive.load(Ordering::Relaxed)
    }

    /// Forgets everything.
    pub fn reset(&self) {
        self.consecutive.store(0, Ordering::Relaxed);
        for bucket in &self.buckets {
            bucket.store(0, Ordering::Relaxed);
        }
    }

    fn count_in_a_row(&self, failed: bool) -> u32 {
        if failed {
            return self
                .consecutive
                .fetch_add(1, Ordering::Relaxed)
                .saturating_add(1);
        }
        // Read first: the common case writes nothing that other threads read.
        if self.consecutive.load(Ordering::Relaxed) != 0 {
            self.consecutive.store(0, Ordering::Relaxed);
        }
        0
    }

    /// Counts into the window; whether the share of failures has reached the threshold.
    fn count_share(&self, now: u64, failed: bool, rate: &ErrorRate) -> bool {
        let width = (rate.window.as_nanos() as u64 / BUCKETS as u64).max(1);
        // Ticks begin at BUCKETS, so that an empty bucket is never taken for a present one.
        let tick = now / width + BUCKETS as u64;
        let bucket = &self.buckets[(tick % BUCKETS as u64) as usize];
        let _ = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |packed| {
            let (held, failures, total) = unpack(packed);
            if held != tick & TICK_MASK {
                return Some(pack(tick, u64::from(failed), 1));
            }
            // A full bucket is a fair sample already.
            (total < COUNT_MASK).then(|| pack(tick, failures + u64::from(failed), total + 1))
        });

        let (mut failures, mut total) = (0, 0);
        for bucket in &self.buckets {
            let (held, failed, all) = unpack(bucket.load(Ordering::Relaxed));
            if (tick & TICK_MASK).wrapping_sub(held) & TICK_MASK < BUCKETS as u64 {
                failures += failed;
                total += all;
            }
        }
        total >= u64::from(rate.min_requests)
            && failures > 0
            && failures * 100 >= total * u64::from(rate.threshold_percent)
    }
}

fn pack(tick: u64, failures: u64, total: u64) -> u64 {
    (tick & TICK_MASK) << (2 * COUNT_BITS) | failures << COUNT_BITS | total
}

fn unpack(packed: u64) -> (u64, u64, u64) {
    (
        packed >> (2 * COUNT_BITS),
        packed >> COUNT_BITS & COUNT_MASK,
        packed & COUNT_MASK,
    )
}
