//! What one person looks at: a bounded queue of records, filled by data threads and emptied by polls.
//!
//! Filling never waits: it takes no lock that a poll holds, and what finds no room is counted and dropped.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::filter::Filter;
use super::text;
use crate::telemetry::record::{Asked, Place, Record};

/// Records that wait for a poll.
pub const MAX_RECORDS: usize = 1_000;
/// What those may weigh, in bytes. As much again is kept of the last poll.
pub const MAX_WEIGHT: usize = 1 << 20;
/// Most records per second that somebody may ask for.
pub const MAX_RATE: u32 = 1_000;
/// Records per second where nobody says.
pub const DEFAULT_RATE: u32 = 100;
/// How long a session lives after its last poll: longer than a poll may wait for a replica that is silent.
pub const LIFETIME: Duration = Duration::from_secs(15);
/// All of a share.
pub const WHOLE: u32 = 10_000;

/// What somebody wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Of which exchanges.
    pub filter: Filter,
    /// At most so many records per second, up to [`MAX_RATE`].
    pub rate: u32,
    /// Which share of the exchanges, in ten-thousandths.
    pub share: u32,
    /// With the request's headers, redacted.
    pub headers: bool,
    /// With the values of the query.
    pub show_query: bool,
}

/// One session.
#[derive(Debug)]
pub struct Session {
    pub(super) id: Box<str>,
    settings: Settings,
    opened: Instant,
    opened_at: SystemTime,
    /// Milliseconds after `opened`.
    ends: AtomicU64,
    /// The second since `opened`, and above it how many records it has had.
    second: AtomicU64,
    weight: AtomicUsize,
    over_rate: AtomicU64,
    no_room: AtomicU64,
    queue: mpsc::Sender<Arc<Record>>,
    polled: Mutex<Polled>,
}

/// What polls have taken.
#[derive(Debug)]
struct Polled {
    queued: mpsc::Receiver<Arc<Record>>,
    /// The newest poll.
    poll: u64,
    /// What it got.
    batch: VecDeque<Arc<Record>>,
    /// Records that all polls got.
    handed: u64,
}

/// What has become of a session's records so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) handed: u64,
    pub(super) over_rate: u64,
    pub(super) no_room: u64,
}

impl Session {
    pub(super) fn new(id: &str, settings: Settings, now: Instant) -> Self {
        let (queue, queued) = mpsc::channel(MAX_RECORDS);
        Self {
            id: id.into(),
            settings,
            opened: now,
            opened_at: SystemTime::now(),
            ends: AtomicU64::new(LIFETIME.as_millis() as u64),
            second: AtomicU64::new(0),
            weight: AtomicUsize::new(0),
            over_rate: AtomicU64::new(0),
            no_room: AtomicU64::new(0),
            queue,
            polled: Mutex::new(Polled {
                queued,
                poll: 0,
                batch: VecDeque::new(),
                handed: 0,
            }),
        }
    }

    /// Whether nobody has polled for too long.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.age(now) > self.ends.load(Ordering::Relaxed)
    }

    /// Whether this exchange is to be kept, as far as its begin tells; `draw` is one of [`WHOLE`] numbers.
    pub(super) fn wants(
        &self,
        asked: Asked<'_>,
        place: Place<'_>,
        now: Instant,
        draw: impl FnOnce() -> u32,
    ) -> bool {
        let filter = &self.settings.filter;
        let share = self.settings.share;
        if self.is_over(now) || !filter.admits(asked, place) || (share < WHOLE && draw() >= share) {
            return false;
        }
        // Where the begin tells all, nothing is kept of what is over the rate.
        filter.waits_for_the_end() || self.is_within_rate(now)
    }

    /// Whether headers are to be kept.
    pub fn wants_headers(&self) -> bool {
        self.settings.headers
    }

    /// Takes a record that it wanted, or drops it where the rate or the room does not suffice.
    pub fn offer(&self, record: &Arc<Record>) {
        let filter = &self.settings.filter;
        if filter.waits_for_the_end()
            && !(filter.matches(record) && self.is_within_rate(Instant::now()))
        {
            return;
        }
        let weight = record.weight();
        let is_room = self.weight.fetch_add(weight, Ordering::Relaxed) + weight <= MAX_WEIGHT;
        if !is_room || self.queue.try_send(Arc::clone(record)).is_err() {
            self.weight.fetch_sub(weight, Ordering::Relaxed);
            self.no_room.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was recorded since the last poll, as JSON. Asked again with the same number, it is the same
    /// again: an answer that was lost, or an order that came over two replicas, costs nothing.
    pub(super) fn poll(&self, poll: u64, now: Instant) -> String {
        let ends = self.age(now) + LIFETIME.as_millis() as u64;
        self.ends.store(ends, Ordering::Relaxed);
        let mut polled = self.polled.lock();
        if poll > polled.poll {
            polled.poll = poll;
            polled.batch.clear();
            // What comes while this goes on is the next poll's.
            for _ in 0..MAX_RECORDS {
                let Ok(record) = polled.queued.try_recv() else {
                    break;
                };
                self.weight.fetch_sub(record.weight(), Ordering::Relaxed);
                polled.batch.push_back(record);
            }
            polled.handed += polled.batch.len() as u64;
        }
        let tally = Tally {
            handed: polled.handed,
            over_rate: self.over_rate.load(Ordering::Relaxed),
            no_room: self.no_room.load(Ordering::Relaxed),
        };
        text::batch(self.opened_at, tally, &polled.batch, &self.settings)
    }

    /// Counts one record of this second; a session of rate 0 has none.
    fn is_within_rate(&self, now: Instant) -> bool {
        let second = self.age(now) / 1_000;
        let counted = self
            .second
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seen| {
                let (seen_second, count) = (seen & u64::from(u32::MAX), seen >> 32);
                let count = if seen_second == second { count } else { 0 };
                (count < u64::from(self.settings.rate)).then_some((count + 1) << 32 | second)
            });
        if counted.is_err() {
            self.over_rate.fetch_add(1, Ordering::Relaxed);
        }
        counted.is_ok()
    }

    fn age(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.opened).as_millis() as u64
    }
}
