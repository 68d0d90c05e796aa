//! The rate limiter: the generic cell rate algorithm (ITU-T I.371) on one atomic number.
//!
//! A limiter remembers only when the next request would be due if requests came exactly at the rate
//! (its theoretical arrival time). A request may come before that by what the burst allows. So a
//! limiter at rest is one whose number lies in the past, and forgetting it loses nothing.
//!
//! Bound: for every schedule and every number of threads, of the requests whose time lies within any
//! window at most `burst + per_second * window` are admitted. Rounding errs below it, by less than
//! 0.1 %.
//!
//! [`KeyedLimiter`] holds one per key, for at most [`MAX_KEYS`] keys that are not at rest. What comes
//! with another key then shares one limiter with all others of its kind: the bound on each key
//! holds, and the crowd is told of, so that somebody can count it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::policy::Rate;

/// Keys that are kept at once.
pub const MAX_KEYS: usize = 16 * 1024;
/// Parts of the keys, each behind a lock of its own.
const SHARDS: usize = 16;
/// How often a full shard is searched for limiters at rest, at most.
const SWEEP_EVERY: Duration = Duration::from_millis(100);
/// Time is counted in this part of a nanosecond: fine enough for ten million requests per second,
/// coarse enough for 36 years.
const TICKS_PER_NANO: u64 = 16;
const TICKS_PER_SECOND: u64 = 1_000_000_000 * TICKS_PER_NANO;

/// One limiter. Its rate is passed with each call.
#[derive(Debug)]
pub struct Limiter {
    clock: Clock,
    due: AtomicU64,
}

/// A limiter per key, where a key is the hash of what callers are told apart by. The hash must not be
/// predictable to them.
#[derive(Debug)]
pub struct KeyedLimiter {
    clock: Clock,
    shards: [Mutex<Shard>; SHARDS],
    /// For the keys that found no place.
    crowd: Limiter,
}

/// Whose limit decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The key's own.
    Own,
    /// That of all keys that found no place.
    Crowd,
}

#[derive(Debug, Default)]
struct Shard {
    due: HashMap<u64, u64>,
    /// When a full shard is searched again.
    next_sweep: u64,
}

#[derive(Clone, Copy, Debug)]
struct Clock {
    epoch: Instant,
}

impl Limiter {
    /// One at rest: a whole burst may come.
    pub fn new(now: Instant) -> Self {
        Self {
            clock: Clock { epoch: now },
            due: AtomicU64::new(0),
        }
    }

    /// Admits one request.
    ///
    /// # Errors
    /// It is over the rate: the time after which one would be admitted.
    pub fn take(&self, now: Instant, rate: Rate) -> Result<(), Duration> {
        let now = self.clock.ticks(now);
        let next = |due| admit(due, now, rate).ok();
        self.due
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .map(|_| ())
            .map_err(|due| wait(due, now, rate))
    }

    /// Whether one request would be admitted now, which is not counted.
    ///
    /// # Errors
    /// As [`Limiter::take`].
    pub fn peek(&self, now: Instant, rate: Rate) -> Result<(), Duration> {
        let now = self.clock.ticks(now);
        let due = self.due.load(Ordering::Relaxed);
        admit(due, now, rate)
            .map(|_| ())
            .map_err(|()| wait(due, now, rate))
    }
}

impl KeyedLimiter {
    /// All keys at rest.
    pub fn new(now: Instant) -> Self {
        Self {
            clock: Clock { epoch: now },
            shards: std::array::from_fn(|_| Mutex::default()),
            crowd: Limiter::new(now),
        }
    }

    /// Admits one request of `key`, and says whose limit decided.
    pub fn take(&self, key: u64, now: Instant, rate: Rate) -> (Place, Result<(), Duration>) {
        let ticks = self.clock.ticks(now);
        let mut shard = self.shard(key).lock();
        if let Some(due) = shard.due.get_mut(&key) {
            let taken = match admit(*due, ticks, rate) {
                Ok(next) => {
                    *due = next;
                    Ok(())
                }
                Err(()) => Err(wait(*due, ticks, rate)),
            };
            return (Place::Own, taken);
        }
        if shard.has_room(ticks)
            && let Ok(next) = admit(0, ticks, rate)
        {
            shard.due.insert(key, next);
            return (Place::Own, Ok(()));
        }
        drop(shard);
        (Place::Crowd, self.crowd.take(now, rate))
    }

    /// Whether one request of `key` would be admitted now, which is not counted.
    ///
    /// # Errors
    /// As [`Limiter::take`].
    pub fn peek(&self, key: u64, now: Instant, rate: Rate) -> Result<(), Duration> {
        let ticks = self.clock.ticks(now);
        let mut shard = self.shard(key).lock();
        if let Some(due) = shard.due.get(&key) {
            return admit(*due, ticks, rate)
                .map(|_| ())
                .map_err(|()| wait(*due, ticks, rate));
        }
        if shard.has_room(ticks) {
            return Ok(());
        }
        drop(shard);
        self.crowd.peek(now, rate)
    }

    /// Keys that are kept now.
    pub fn len(&self) -> usize {
        let kept = self.shards.iter().map(|shard| shard.lock().due.len());
        kept.sum()
    }

    /// Whether no key is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, key: u64) -> &Mutex<Shard> {
        // Not the bits that the map's own hash begins with, which is keyed anyway.
        &self.shards[(key >> 32) as usize % SHARDS]
    }
}

impl Shard {
    /// Makes room where that costs nobody anything.
    fn has_room(&mut self, now: u64) -> bool {
        const FULL: usize = MAX_KEYS / SHARDS;
        if self.due.len() < FULL {
            return true;
        }
        if now < self.next_sweep {
            return false;
        }
        self.due.retain(|_, due| *due > now);
        self.next_sweep = now + SWEEP_EVERY.as_nanos() as u64 * TICKS_PER_NANO;
        self.due.len() < FULL
    }
}

impl Clock {
    fn ticks(self, now: Instant) -> u64 {
        let nanos = now.saturating_duration_since(self.epoch).as_nanos();
        // The upper half stays free for what is added: a burst is at most some months.
        u64::try_from(nanos)
            .unwrap_or(u64::MAX)
            .saturating_mul(TICKS_PER_NANO)
            .min(u64::MAX / 2)
    }
}

/// When the next request is due after one that comes `now`; `Err` where it comes too early.
fn admit(due: u64, now: u64, rate: Rate) -> Result<u64, ()> {
    if due.saturating_sub(now) > tolerance(rate) {
        return Err(());
    }
    Ok(due.max(now) + interval(rate))
}

fn wait(due: u64, now: u64, rate: Rate) -> Duration {
    let early = due.saturating_sub(now).saturating_sub(tolerance(rate));
    Duration::from_nanos(early.div_ceil(TICKS_PER_NANO))
}

/// Rounded up, so that the rate is never above what was asked for.
fn interval(rate: Rate) -> u64 {
    TICKS_PER_SECOND.div_ceil(u64::from(rate.per_second.get()))
}

fn tolerance(rate: Rate) -> u64 {
    (u64::from(rate.burst.get()) - 1).saturating_mul(interval(rate))
}
