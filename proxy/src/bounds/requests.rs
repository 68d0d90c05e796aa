//! Requests in flight, counted by each worker for itself.

use std::sync::atomic::{AtomicIsize, Ordering};

use crate::worker::PerWorker;

/// How many requests are in flight, and how many may be.
#[derive(Debug)]
pub struct Requests {
    most: usize,
    /// What one worker may have without looking at the others.
    share: isize,
    /// Whoever enters on one worker and leaves on another makes one number too high and one too low; the
    /// sum is right.
    counts: PerWorker<Count>,
}

/// On a cache line of its own: each is written by one worker only.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Count(AtomicIsize);

impl Requests {
    pub(super) fn new(most: usize, workers: usize) -> Self {
        let counts = PerWorker::new(workers, |_| Count::default());
        let share = most / counts.all().len();
        Self {
            most,
            share: isize::try_from(share).unwrap_or(isize::MAX),
            counts,
        }
    }

    /// Counts a request; false where there are too many with it. Counted it is either way, until
    /// [`Self::leave`].
    #[must_use]
    pub fn enter(&self) -> bool {
        let here = self.counts.here().0.fetch_add(1, Ordering::Relaxed) + 1;
        here <= self.share || self.in_flight() <= self.most
    }

    /// A request is over.
    pub fn leave(&self) {
        self.counts.here().0.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many there are.
    pub fn in_flight(&self) -> usize {
        let counts = self.counts.all().iter();
        let sum: isize = counts.map(|count| count.0.load(Ordering::Relaxed)).sum();
        usize::try_from(sum).unwrap_or(0)
    }

    pub(super) fn workers(&self) -> usize {
        self.counts.all().len()
    }
}
