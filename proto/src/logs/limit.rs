//! How often one place in the code may warn. Pure: time comes as an argument.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;

/// Lines per place and window.
pub const MAX_PER_WINDOW: u32 = 20;
/// How long a window lasts, from its first line.
pub const WINDOW: Duration = Duration::from_secs(10);
/// Places that are remembered; those beyond are not limited.
pub const MAX_CALLSITES: usize = 1_024;

/// The limit of tracing's callsites.
pub(super) type CallsiteLimit = RateLimit<Identifier>;

/// What is to be done with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Write it; so many were left out before it.
    Write { suppressed: u64 },
    /// Leave it out.
    Suppress,
}

/// See the module.
#[derive(Debug)]
pub(super) struct RateLimit<K> {
    windows: HashMap<K, Window>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    written: u32,
    suppressed: u64,
}

impl<K: Eq + Hash> RateLimit<K> {
    /// Judges one line of `place`.
    pub(super) fn check(&mut self, place: K, now: Instant) -> Verdict {
        if !self.windows.contains_key(&place) && self.windows.len() >= MAX_CALLSITES {
            return Verdict::Write { suppressed: 0 };
        }
        let window = self.windows.entry(place).or_insert(Window {
            since: now,
            written: 0,
            suppressed: 0,
        });
        if now.saturating_duration_since(window.since) >= WINDOW {
            window.since = now;
            window.written = 0;
        }
        if window.written == MAX_PER_WINDOW {
            window.suppressed += 1;
            return Verdict::Suppress;
        }
        window.written += 1;
        Verdict::Write {
            suppressed: std::mem::take(&mut window.suppressed),
        }
    }
}

impl<K> Default for RateLimit<K> {
    fn default() -> Self {
        Self {
            windows: HashMap::new(),
        }
    }
}
