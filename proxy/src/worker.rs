//! Which data-path worker a thread is, and values that each worker has for itself.
//!
//! A worker is an OS thread with its own runtime; what belongs to one worker is touched by no other,
//! so its locks are never waited for. Threads that are no worker (tests, the control thread) share
//! the first worker's values.

use std::cell::Cell;

thread_local! {
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Declares this thread to be worker `index`, counted from 0.
pub fn enter(index: usize) {
    CURRENT.set(Some(index));
}

/// This thread's worker; `None` where the thread is none.
pub fn current() -> Option<usize> {
    CURRENT.get()
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
