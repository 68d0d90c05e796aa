//! The retry budget: how much retrying may add to a backend's load, per sidecar and backend.
//!
//! A retry is paid for by the share first: over the last `interval`, retries paid so are at most
//! `percent` of the requests of that interval. What the share does not pay, the floor does:
//! `min_retries_per_second` accrue from the first request on, and a second's worth is kept at most.
//!
//! Bound: after the first request, for every schedule,
//! `retries <= percent/100 * requests + min_retries_per_second * seconds + 1`.
//! The one is there so that the very first request may be retried at all. The free try after a failed
//! probe is never refused; it is owed, and paid back by the floor before any other retry is granted.
//!
//! Requests are counted by one atomic add each. Retries take a lock, which nothing else holds.
//! What policy says is passed with each call, so that an edit takes effect at once and loses nothing.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::policy::BudgetPolicy;

/// Seconds kept; a longer interval is taken as this long.
const SLOTS: u64 = 64;
/// A slot is the second (upper half) and the requests in it (lower half).
const COUNT_BITS: u32 = 32;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
/// The floor's tokens are counted in these, so that arithmetic stays exact.
const TOKEN: u64 = 1_000_000_000;
/// Free tries that are owed at most; more are forgiven.
const MAX_OWED: u64 = 100 * TOKEN;

/// Requests and retries of the recent past.
#[derive(Debug)]
pub struct Budget {
    epoch: Instant,
    /// When the first request came, in nanoseconds since the epoch: the floor accrues from here.
    first: OnceLock<u64>,
    requests: [AtomicU64; SLOTS as usize],
    retries: Mutex<Retries>,
}

#[derive(Debug)]
struct Retries {
    /// Retries that the share paid: second and count.
    shared: [(u64, u64); SLOTS as usize],
    /// The floor's tokens, in `1 / TOKEN`.
    tokens: u64,
    /// Tokens that free tries have used in advance, in `1 / TOKEN`.
    owed: u64,
    /// When tokens were last added, in nanoseconds since the epoch.
    refilled: u64,
}

impl Budget {
    /// An empty one, which begins at `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            first: OnceLock::new(),
            requests: std::array::from_fn(|_| AtomicU64::new(0)),
            retries: Mutex::new(Retries {
                shared: [(0, 0); SLOTS as usize],
                tokens: TOKEN,
                owed: 0,
                refilled: 0,
            }),
        }
    }

    /// Counts one request: the original, never its retries.
    pub fn deposit(&self, now: Instant) {
        self.first.get_or_init(|| self.nanos(now));
        let second = self.second(now);
        let slot = &self.requests[(second % SLOTS) as usize];
        // An overtaken thread's request may find a younger second in its slot: it is not counted,
        // which errs on the side of fewer retries.
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |packed| {
            let (held, count) = (packed >> COUNT_BITS, packed & COUNT_MASK);
            match held.cmp(&second) {
                std::cmp::Ordering::Less => Some(second << COUNT_BITS | 1),
                std::cmp::Ordering::Equal if count < COUNT_MASK => Some(packed + 1),
                _ => None,
            }
        });
    }

    /// Asks for one retry. `false` means that the budget is exhausted.
    pub fn withdraw(&self, now: Instant, policy: &BudgetPolicy) -> bool {
        let second = self.second(now);
        let window = policy.interval.as_secs().clamp(1, SLOTS);
        let oldest = second.saturating_sub(window - 1);
        let requests: u64 = self
            .requests
            .iter()
            .map(|slot| slot.load(Ordering::Relaxed))
            .filter(|packed| (oldest..=second).contains(&(packed >> COUNT_BITS)))
            .map(|packed| packed & COUNT_MASK)
            .sum();

        let mut retries = self.retries.lock();
        if retries.take_share(second, oldest, requests, policy.percent) {
            return true;
        }
        if policy.min_retries_per_second == 0 {
            return false;
        }
        let first = self.first.get().copied().unwrap_or(u64::MAX);
        retries.refill(first, self.nanos(now), policy.min_retries_per_second);
        retries.take_token()
    }

    /// Counts a retry that nobody was asked for, the free try after a failed probe: it is owed, and
    /// what accrues pays it before any other.
    pub fn charge(&self) {
        let mut retries = self.retries.lock();
        retries.owed = retries.owed.saturating_add(TOKEN).min(MAX_OWED);
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    fn second(&self, now: Instant) -> u64 {
        // Second 0 would look like an empty slot; slots hold 32 bits of seconds, over a century.
        now.saturating_duration_since(self.epoch).as_secs() + 1
    }
}

impl Retries {
    fn refill(&mut self, first: u64, now: u64, per_second: u32) {
        let elapsed = now.saturating_sub(self.refilled.max(first));
        self.refilled = self.refilled.max(now);
        let cap = u64::from(per_second) * TOKEN;
        let gained = elapsed.min(Duration::from_secs(1).as_nanos() as u64) * u64::from(per_second);
        self.tokens = self.tokens.saturating_add(gained).min(cap);
    }

    fn take_share(&mut self, second: u64, oldest: u64, requests: u64, percent: u32) -> bool {
        let spent: u64 = self
            .shared
            .iter()
            .filter(|(held, _)| *held >= oldest)
            .map(|(_, count)| count)
            .sum();
        if (spent + 1) * 100 > requests * u64::from(percent) {
            return false;
        }
        let slot = &mut self.shared[(second % SLOTS) as usize];
        if slot.0 > second {
            return false;
        }
        if slot.0 < second {
            *slot = (second, 0);
        }
        slot.1 += 1;
        true
    }

    fn take_token(&mut self) -> bool {
        let paid = self.owed.min(self.tokens);
        self.owed -= paid;
        self.tokens -= paid;
        let Some(left) = self.tokens.checked_sub(TOKEN) else {
            return false;
        };
        self.tokens = left;
        true
    }
}
