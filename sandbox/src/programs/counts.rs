//! What a client that reconnects by itself has lived through.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Errors that are kept by their words; further ones are counted only.
const MAX_ERRORS: usize = 64;
/// Different messages that are kept; further ones are counted only.
const MAX_MESSAGES: usize = 100_000;

/// Counts of one client. Cheap to clone: clones are the same counts.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    connected: AtomicU64,
    lost: AtomicU64,
    done: AtomicU64,
    is_connected: AtomicU64,
    errors: Mutex<Vec<String>>,
    messages: Mutex<BTreeMap<String, u64>>,
    gaps: Mutex<Gaps>,
}

#[derive(Debug, Default)]
struct Gaps {
    last: Option<Instant>,
    longest: Duration,
}

impl Counts {
    /// Times that a connection was made and agreed upon.
    pub fn connected(&self) -> u64 {
        self.inner.connected.load(Ordering::Relaxed)
    }

    /// Times that a connection could not be made, or was lost.
    pub fn lost(&self) -> u64 {
        self.inner.lost.load(Ordering::Relaxed)
    }

    /// Messages that came or were confirmed, each as often as that happened.
    pub fn done(&self) -> u64 {
        self.inner.done.load(Ordering::Relaxed)
    }

    /// Whether there is a connection now.
    pub fn is_connected(&self) -> bool {
        self.inner.is_connected.load(Ordering::Relaxed) > 0
    }

    /// The longest time from one of them to the next.
    pub fn longest_gap(&self) -> Duration {
        self.inner.gaps.lock().longest
    }

    /// Every message with how often it came.
    pub fn messages(&self) -> BTreeMap<String, u64> {
        self.inner.messages.lock().clone()
    }

    /// How often this message came.
    pub fn times(&self, message: &str) -> u64 {
        let messages = self.inner.messages.lock();
        messages.get(message).copied().unwrap_or(0)
    }

    /// The first errors, in words.
    pub fn errors(&self) -> Vec<String> {
        self.inner.errors.lock().clone()
    }

    pub(super) fn connects(&self) {
        self.inner.connected.fetch_add(1, Ordering::Relaxed);
        self.inner.is_connected.store(1, Ordering::Relaxed);
    }

    pub(super) fn does(&self, message: &str) {
        self.inner.done.fetch_add(1, Ordering::Relaxed);
        self.inner.gaps.lock().passes(Instant::now());
        let mut messages = self.inner.messages.lock();
        if let Some(seen) = messages.get_mut(message) {
            *seen += 1;
        } else if messages.len() < MAX_MESSAGES {
            messages.insert(message.to_owned(), 1);
        }
    }

    pub(super) fn loses(&self, error: &anyhow::Error) {
        self.inner.lost.fetch_add(1, Ordering::Relaxed);
        self.inner.is_connected.store(0, Ordering::Relaxed);
        let mut errors = self.inner.errors.lock();
        if errors.len() < MAX_ERRORS {
            errors.push(format!("{error:#}"));
        }
    }
}

impl Gaps {
    fn passes(&mut self, now: Instant) {
        if let Some(last) = self.last.replace(now) {
            self.longest = self.longest.max(now.saturating_duration_since(last));
        }
    }
}
