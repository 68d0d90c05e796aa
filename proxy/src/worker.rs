//! Which data-path worker a thread is, and values that each worker has for itself.
//!
//! A worker is an OS thread with its own runtime; what belongs to one worker is touched by no other,
//! so its locks are never waited for. Threads that are no worker (tests, the control thread) share
//! the first worker's values.

mod seat;

use std::cell::{Cell, OnceCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use metrics::Counter;

pub use seat::{Seat, Settling};

thread_local! {
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
    static LEAVERS: OnceCell<Arc<Leavers>> = const { OnceCell::new() };
}

/// Declares this thread to be worker `index`, counted from 0, which is told by `leavers` how many of its
/// connections are to go elsewhere. To be called once.
pub fn enter(index: usize, leavers: Arc<Leavers>) {
    CURRENT.set(Some(index));
    LEAVERS.with(|own| {
        let _ = own.set(leavers);
    });
}

/// This thread's worker; `None` where the thread is none.
pub fn current() -> Option<usize> {
    CURRENT.get()
}

/// Whether the client of the connection that asks is told to make another, as this worker has more than
/// it can do. Each `true` is one of its [`Leavers`].
pub fn sends_away() -> bool {
    LEAVERS.with(|own| own.get().is_some_and(|leavers| leavers.take_one()))
}

/// How many HTTP connections of one worker are to be made anew, to be another's.
pub struct Leavers {
    left: AtomicUsize,
    found: Counter,
}

impl Leavers {
    /// None yet; those that are told to leave are counted in `found`.
    pub fn new(found: Counter) -> Self {
        let left = AtomicUsize::new(0);
        Self { left, found }
    }

    /// So many from now on; who of the last ones has not been found yet may stay.
    pub fn set(&self, count: usize) {
        self.left.store(count, Ordering::Relaxed);
    }

    fn take_one(&self) -> bool {
        // Read first: almost always there is none.
        if self.left.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let less = |count: usize| count.checked_sub(1);
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        if taken.is_ok() {
            self.found.increment(1);
        }
        taken.is_ok()
    }
}

impl Default for Leavers {
    fn default() -> Self {
        Self::new(Counter::noop())
    }
}

/// A value for each worker.
#[derive(Debug)]
pub struct PerWorker<T>(Box<[T]>);

impl<T> PerWorker<T> {
    /// Makes a value for each of `workers` (at least one).
    pub fn new(workers: usize, make: impl FnMut(usize) -> T) -> Self {
        Self((0..workers.max(1)).map(make).collect())
    }

    /// This worker's value.
    pub fn here(&self) -> &T {
        &self.0[current().unwrap_or(0) % self.0.len()]
    }

    /// Every worker's value.
    pub fn all(&self) -> &[T] {
        &self.0
    }
}
