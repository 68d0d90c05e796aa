//! When which status is written.
//!
//! A pure state machine, of one replica while it leads. What is said about the object itself is written
//! at once. What has only changed about the sidecars that run it is written when it has differed for
//! [`COUNTS_EVERY`]: so counts of many confirmations are one write, and sidecars whose replica has gone,
//! the former leader or another one, are counted elsewhere before anything is said of them. A write that failed is tried again with back-off: alone where the API server had something
//! against it, all of them together where it was not there.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// For how long counts have to differ from what is written before they alone cause a write, and so also how
/// often they do for one object.
pub const COUNTS_EVERY: Duration = Duration::from_secs(10);
/// Writes on the way.
pub(super) const MAX_WRITES: usize = 16;
/// The wait after a first failure; it doubles up to [`MAX_BACKOFF`].
const BACKOFF: Duration = Duration::from_millis(500);
/// The longest wait after failures.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// What has changed in a status that is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// What is said about the object itself.
    Verdict,
    /// Which sidecars run it.
    Counts,
}

/// What is to be done about such a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is written now.
    Write,
    /// It is looked at again at this time, or when something changes.
    Wait(Instant),
    /// It is looked at again when a write ends.
    Busy,
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is there.
    Written,
    /// The object has changed meanwhile; what has become of it will be seen.
    Conflict,
    /// There is no such object any more; that will be seen.
    Gone,
    /// The API server has something against it.
    Refused,
    /// The API server was not there, or in trouble.
    Unreachable,
}

/// The state of all writes. It holds what is observed: see [`Schedule::keep_only`].
#[derive(Debug)]
pub(super) struct Schedule<K> {
    entries: HashMap<K, Entry>,
    writing: usize,
    outages: u32,
    paused: Option<Instant>,
}

#[derive(Debug, Default)]
struct Entry {
    writing: Option<Writing>,
    /// Since when its counts are not what is written.
    differs: Option<Instant>,
    failures: u32,
    blocked: Option<Blocked>,
}

#[derive(Debug)]
struct Writing {
    version: String,
}

#[derive(Debug)]
struct Blocked {
    until: Instant,
    /// A version of the object other than this one is a reason to look again before that.
    version: Option<String>,
}

impl<K: Eq + Hash + Clone> Schedule<K> {
    /// Leadership begins.
    pub(super) fn new() -> Self {
        Self {
            entries: HashMap::new(),
            writing: 0,
            outages: 0,
            paused: None,
        }
    }

    /// Whether a status that is not as it should be is written over this version of its object.
    pub(super) fn turn(&mut self, key: &K, version: &str, change: Change, now: Instant) -> Turn {
        let differs = match change {
            Change::Verdict => None,
            Change::Counts => {
                let entry = self.entries.entry(key.clone()).or_default();
                Some(*entry.differs.get_or_insert(now))
            }
        };
        let entry = self.entries.get(key);
        if self.writing >= MAX_WRITES || entry.is_some_and(|entry| entry.writing.is_some()) {
            return Turn::Busy;
        }
        let blocked = entry.and_then(|entry| entry.blocked.as_ref());
        let blocked = blocked.filter(|it| it.version.as_deref().is_none_or(|it| it == version));
        let due = [
            self.paused,
            blocked.map(|blocked| blocked.until),
            differs.map(|since| since + COUNTS_EVERY),
        ];
        match due.into_iter().flatten().max() {
            Some(due) if due > now => Turn::Wait(due),
            _ => Turn::Write,
        }
    }

    /// A status is as it should be.
    pub(super) fn is_right(&mut self, key: &K) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.differs = None;
        }
    }

    /// A write is on its way.
    pub(super) fn begun(&mut self, key: &K, version: &str) {
        let entry = self.entries.entry(key.clone()).or_default();
        entry.writing = Some(Writing {
            version: version.to_owned(),
        });
        self.writing += 1;
    }

    /// A write has ended; `chance`, of 0 to 1, spreads what is tried again.
    pub(super) fn ended(&mut self, key: &K, outcome: Outcome, chance: f64, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let Some(writing) = entry.writing.take() else {
            return;
        };
        self.writing -= 1;
        if outcome != Outcome::Unreachable {
            self.outages = 0;
            self.paused = None;
        }
        let blocked = |failures, version| {
            Some(Blocked {
                until: now + backoff(failures, chance),
                version,
            })
        };
        match outcome {
            Outcome::Written => {
                entry.failures = 0;
                entry.blocked = None;
                // What has changed since it began differs from now on.
                entry.differs = None;
            }
            Outcome::Conflict | Outcome::Gone => {
                entry.blocked = blocked(entry.failures, Some(writing.version));
                entry.failures = entry.failures.saturating_add(1);
            }
            Outcome::Refused => {
                entry.blocked = blocked(entry.failures, None);
                entry.failures = entry.failures.saturating_add(1);
            }
            // Of those that were on their way together, the first counts.
            Outcome::Unreachable if self.paused.is_none_or(|until| until <= now) => {
                self.paused = Some(now + backoff(self.outages, chance));
                self.outages = self.outages.saturating_add(1);
            }
            Outcome::Unreachable => {}
        }
    }

    /// Forgets what is not there any more.
    pub(super) fn keep_only(&mut self, is_there: impl Fn(&K) -> bool) {
        self.entries
            .retain(|key, entry| entry.writing.is_some() || is_there(key));
    }

    /// Whether the API server was not there at the last write.
    pub(super) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }
}

/// Half of it is chance.
fn backoff(failures: u32, chance: f64) -> Duration {
    let longest = BACKOFF * 2_u32.saturating_pow(failures.min(16));
    longest
        .min(MAX_BACKOFF)
        .mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}
