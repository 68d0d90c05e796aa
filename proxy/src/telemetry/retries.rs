//! Counting further tries.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::Counter;

/// What became of a wish to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryResult {
    /// Another try was made.
    Sent,
    /// The budget is spent.
    BudgetExhausted,
    /// The body was too large to keep, or is gone.
    NotReplayable,
    /// The request's time would be over before the next try.
    Deadline,
}

impl RetryResult {
    /// Every result, in the order of the enum.
    pub const ALL: [Self; 4] = [
        Self::Sent,
        Self::BudgetExhausted,
        Self::NotReplayable,
        Self::Deadline,
    ];

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::BudgetExhausted => "budget_exhausted",
            Self::NotReplayable => "not_replayable",
            Self::Deadline => "deadline",
        }
    }
}

/// Counts the retries of one (service, route, backend). Cheap to clone.
#[derive(Clone)]
pub struct RetryCounters {
    counters: [Counter; RetryResult::ALL.len()],
    /// Of [`RetryResult::Sent`] once more, for who adds up traffic.
    sent: Arc<AtomicU64>,
}

impl RetryCounters {
    pub(super) fn new(sent: Arc<AtomicU64>, make: impl Fn(RetryResult) -> Counter) -> Self {
        Self {
            counters: RetryResult::ALL.map(make),
            sent,
        }
    }

    /// Counts one.
    pub fn record(&self, result: RetryResult) {
        self.counters[result as usize].increment(1);
        if result == RetryResult::Sent {
            self.sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}
