//! Latency in fixed buckets: one atomic add per bucket and one for the sum, memory that never grows.
//!
//! Values are whole microseconds. A reader sees every recorded value at most once; its count is the
//! sum of the buckets it read, so buckets and count always agree. The sum may be ahead or behind by
//! what is being recorded at that moment.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets in microseconds, inclusive; one more bucket holds the rest.
pub const BOUNDS_MICROS: [u64; 16] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000,
];

/// [`BOUNDS_MICROS`] as a scraper reads them, in seconds.
pub(super) const BOUNDS_TEXT: [&str; 16] = [
    "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.075", "0.1", "0.25", "0.5",
    "1", "2.5", "5", "10", "30",
];

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct LatencyHistogram {
    buckets: [AtomicU64; BOUNDS_MICROS.len() + 1],
    sum_micros: AtomicU64,
}

/// What a histogram held at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// Values per bucket, not cumulated; the last is everything over the last bound.
    pub buckets: [u64; BOUNDS_MICROS.len() + 1],
    /// Sum of all values in microseconds.
    pub sum_micros: u64,
}

impl LatencyHistogram {
    /// Counts `value`, cut to whole microseconds.
    pub fn record(&self, value: Duration) {
        self.record_micros(u64::try_from(value.as_micros()).unwrap_or(u64::MAX));
    }

    /// Counts `micros`.
    pub fn record_micros(&self, micros: u64) {
        let index = BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        self.buckets[index].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// What is in it now.
    pub fn snapshot(&self) -> HistogramSnapshot {
        HistogramSnapshot {
            buckets: std::array::from_fn(|index| self.buckets[index].load(Ordering::Relaxed)),
            sum_micros: self.sum_micros.load(Ordering::Relaxed),
        }
    }
}

impl HistogramSnapshot {
    /// How many values it holds.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}
