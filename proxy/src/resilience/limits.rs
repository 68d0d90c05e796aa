//! Concurrency caps of one backend, and the lines in front of them.
//!
//! * Never more places are taken than the cap says, but for those that were taken before it was
//!   lowered: they drain.
//! * First come, first served: while somebody stands in line nobody passes. A place among the
//!   requests that becomes free is handed to the first in line, who is in line no longer, at once.
//!   For connections, of which there are several ways to get one, only the first in line looks;
//!   whoever leaves, served or not, makes the next one look, and so does everything that becomes
//!   free. No wake-up is lost.
//! * At most `max_pending_requests` stand in the lines of a backend, both caps together. Who has been
//!   handed a place waits no longer; for each connection that becomes free one who waits is taken
//!   to be as good as served, until the first in line has looked in vain.
//! * What is not at its cap costs atomics only; the lock is a line's, and taken to join it, to leave
//!   it and to call its first.
//!
//! Requests are counted only where they are capped, connections always: they live long, and a cap
//! that comes later holds for those that are there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::policy;

/// The value that stands for no cap.
const UNLIMITED: usize = usize::MAX;

/// The concurrency caps of one backend, as one sidecar keeps them.
#[derive(Debug)]
pub struct Limits {
    caps: [Cap; Limit::ALL.len()],
    /// Those who stand in a line and count.
    pending: AtomicUsize,
    max_pending: AtomicUsize,
}

/// What is capped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Tries in flight, until their response's body has ended.
    Requests,
    /// Open connections, and such as are being made.
    Connections,
}

/// The line is as long as it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("as many wait as may")]
pub struct Overflow;

/// A place under a cap, until dropped.
#[derive(Debug)]
pub struct Place {
    limits: Arc<Limits>,
    limit: Limit,
}

/// A place in a line, until dropped or [left](Self::leave).
#[derive(Debug)]
pub struct Turn {
    limits: Arc<Limits>,
    limit: Limit,
    stand: Arc<Stand>,
    left: AtomicBool,
}

/// One who stands in line.
#[derive(Debug)]
struct Stand {
    /// Told when it may be worth looking.
    call: Notify,
    /// It has passed the bound on those who wait.
    admitted: AtomicBool,
    /// It counts as pending.
    counted: AtomicBool,
    /// A place was handed to it, which it has not picked up yet.
    granted: AtomicBool,
}

/// One cap for people and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitView {
    /// Which.
    pub limit: Limit,
    /// Its value; `None` where there is no cap.
    pub max: Option<usize>,
    /// Places that are taken; of requests only while they are capped.
    pub held: usize,
    /// Those who wait for one.
    pub waiting: usize,
    /// Those who found neither a place nor room in the line.
    pub overflows: u64,
}

#[derive(Debug)]
struct Cap {
    max: AtomicUsize,
    held: AtomicUsize,
    overflows: AtomicU64,
    /// As long as the line.
    waiting: AtomicUsize,
    line: Mutex<VecDeque<Arc<Stand>>>,
}

impl Limit {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Requests, Self::Connections];

    /// The word for it, as policy spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "maxRequests",
            Self::Connections => "maxConnections",
        }
    }
}

impl Limits {
    /// Caps as policy says, nothing taken.
    pub fn new(policy: Option<&policy::Limits>) -> Arc<Self> {
        let limits = Self {
            caps: [Cap::new(), Cap::new()],
            pending: AtomicUsize::new(0),
            max_pending: AtomicUsize::new(0),
        };
        limits.set(policy);
        Arc::new(limits)
    }

    /// Takes a new policy. Who holds a place or stands in line goes on doing so.
    pub fn set(&self, policy: Option<&policy::Limits>) {
        let pending = policy.map_or(0, |policy| policy.max_pending_requests);
        self.max_pending.store(pending as usize, Ordering::Relaxed);
        let requests = policy.and_then(|policy| policy.max_requests);
        let connections = policy.and_then(|policy| policy.max_connections);
        self.cap(Limit::Requests).set(requests);
        self.cap(Limit::Connections).set(connections);
        self.hand_over();
        self.cap(Limit::Connections).call_first();
    }

    /// Whether there is such a cap.
    pub fn has(&self, limit: Limit) -> bool {
        self.cap(limit).max.load(Ordering::Relaxed) != UNLIMITED
    }

    /// Whether somebody stands in line. Who comes then lines up before anything else.
    pub fn has_line(&self, limit: Limit) -> bool {
        self.cap(limit).waiting.load(Ordering::SeqCst) > 0
    }

    /// Takes a place where there is one. For those who found no line, and for its first.
    pub fn take(self: &Arc<Self>, limit: Limit) -> Option<Place> {
        self.cap(limit).take().then(|| Place {
            limits: Arc::clone(self),
            limit,
        })
    }

    /// Joins the line. Who is not `counted` has been promised a place that is just being vacated.
    pub fn line_up(self: &Arc<Self>, limit: Limit, counted: bool) -> Result<Turn, Overflow> {
        if counted {
            self.count_in(limit)?;
        }
        let turn = Turn {
            limits: Arc::clone(self),
            limit,
            stand: Arc::new(Stand {
                call: Notify::new(),
                admitted: AtomicBool::new(counted),
                counted: AtomicBool::new(counted),
                granted: AtomicBool::new(false),
            }),
            left: AtomicBool::new(false),
        };
        let cap = self.cap(limit);
        cap.join(&turn.stand);
        // A place may have become free before there was a line.
        match limit {
            Limit::Requests => self.hand_over(),
            Limit::Connections => cap.call_first(),
        }
        Ok(turn)
    }

    /// A connection that is open has become free for somebody: its first in line looks.
    pub fn eased(&self) {
        let cap = self.cap(Limit::Connections);
        if cap.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let line = cap.line.lock();
        let is_counted = |stand: &&Arc<Stand>| stand.counted.load(Ordering::SeqCst);
        if let Some(next) = line.iter().find(is_counted) {
            self.uncount(next);
        }
        if let Some(first) = line.front() {
            first.call.notify_one();
        }
    }

    /// Makes all who wait look up: there may be nothing to wait for any more.
    pub fn rouse(&self) {
        for cap in &self.caps {
            if cap.waiting.load(Ordering::SeqCst) > 0 {
                let line = cap.line.lock();
                line.iter().for_each(|stand| stand.call.notify_one());
            }
        }
    }

    /// Counts one who waited in vain.
    pub fn overflowed(&self, limit: Limit) {
        self.cap(limit).overflows.fetch_add(1, Ordering::Relaxed);
    }

    /// How many may stand in line, and how many do.
    pub fn pending(&self) -> (usize, usize) {
        (
            self.max_pending.load(Ordering::Relaxed),
            self.pending.load(Ordering::Relaxed),
        )
    }

    /// Both caps.
    pub fn views(&self) -> [LimitView; Limit::ALL.len()] {
        Limit::ALL.map(|limit| {
            let cap = self.cap(limit);
            let max = cap.max.load(Ordering::Relaxed);
            LimitView {
                limit,
                max: (max != UNLIMITED).then_some(max),
                held: cap.held.load(Ordering::Relaxed),
                waiting: cap.waiting.load(Ordering::Relaxed),
                overflows: cap.overflows.load(Ordering::Relaxed),
            }
        })
    }

    fn count_in(&self, limit: Limit) -> Result<(), Overflow> {
        let max = self.max_pending.load(Ordering::Relaxed);
        let one_more = |pending| (pending < max).then_some(pending + 1);
        let counted = self
            .pending
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        counted.map(drop).map_err(|_| {
            self.overflowed(limit);
            Overflow
        })
    }

    /// Hands places to those who are first in line.
    fn hand_over(&self) {
        let cap = self.cap(Limit::Requests);
        if cap.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut line = cap.line.lock();
        while !line.is_empty() && cap.take() {
            let Some(first) = line.pop_front() else { break };
            cap.waiting.store(line.len(), Ordering::SeqCst);
            first.granted.store(true, Ordering::SeqCst);
            self.uncount(&first);
            first.call.notify_one();
        }
    }

    fn uncount(&self, stand: &Stand) {
        if stand.counted.swap(false, Ordering::SeqCst) {
            self.pending.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn release(&self, limit: Limit) {
        self.cap(limit).held.fetch_sub(1, Ordering::SeqCst);
        match limit {
            Limit::Requests => self.hand_over(),
            Limit::Connections => self.eased(),
        }
    }

    fn cap(&self, limit: Limit) -> &Cap {
        &self.caps[limit as usize]
    }
}

impl Turn {
    /// Waits until it may be worth looking: a place was [handed over](Self::place), this one has
    /// become the first in line for a connection, something has become free while it was, or all
    /// were [roused](Limits::rouse).
    pub async fn called(&self) {
        self.stand.call.notified().await;
    }

    /// The place that was handed to this one.
    pub fn place(&self) -> Option<Place> {
        let granted = self.stand.granted.swap(false, Ordering::SeqCst);
        granted.then(|| Place {
            limits: Arc::clone(&self.limits),
            limit: self.limit,
        })
    }

    /// Whether nobody is before this one.
    pub fn is_first(&self) -> bool {
        let line = self.limits.cap(self.limit).line.lock();
        line.front()
            .is_some_and(|first| Arc::ptr_eq(first, &self.stand))
    }

    /// There was nothing for this one, the first in line: those who were taken to be as good as
    /// served wait after all.
    pub fn looked_in_vain(&self) {
        let line = self.limits.cap(self.limit).line.lock();
        let is_counted = |stand: &&Arc<Stand>| stand.counted.load(Ordering::SeqCst);
        for stand in line.iter().take_while(|stand| !is_counted(stand)) {
            if stand.admitted.load(Ordering::SeqCst) {
                stand.counted.store(true, Ordering::SeqCst);
                self.limits.pending.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Nothing is being vacated for this one: it waits like all others, if it may.
    pub fn count_in(&self) -> Result<(), Overflow> {
        if self.stand.admitted.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.limits.count_in(self.limit)?;
        self.stand.admitted.store(true, Ordering::SeqCst);
        self.stand.counted.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Leaves the line; the next one looks.
    pub fn leave(&self) {
        if self.left.swap(true, Ordering::Relaxed) {
            return;
        }
        self.limits.cap(self.limit).part(&self.stand);
        self.limits.uncount(&self.stand);
        // Handed over while it left.
        drop(self.place());
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.limits.release(self.limit);
    }
}

/// Who frees something looks for a line afterwards, and who joined a line looks for what is free
/// afterwards; both in sequentially consistent order, so that one of them sees the other.
impl Cap {
    fn new() -> Self {
        Self {
            max: AtomicUsize::new(UNLIMITED),
            held: AtomicUsize::new(0),
            overflows: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            line: Mutex::default(),
        }
    }

    fn set(&self, max: Option<u32>) {
        let max = max.map_or(UNLIMITED, |max| max as usize);
        self.max.store(max, Ordering::SeqCst);
    }

    fn take(&self) -> bool {
        let max = self.max.load(Ordering::SeqCst);
        let one_more = |held| (held < max).then_some(held + 1);
        self.held
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more)
            .is_ok()
    }

    fn join(&self, stand: &Arc<Stand>) {
        let mut line = self.line.lock();
        line.push_back(Arc::clone(stand));
        self.waiting.store(line.len(), Ordering::SeqCst);
    }

    fn part(&self, stand: &Arc<Stand>) {
        let mut line = self.line.lock();
        let Some(at) = line.iter().position(|one| Arc::ptr_eq(one, stand)) else {
            return;
        };
        line.remove(at);
        self.waiting.store(line.len(), Ordering::SeqCst);
        if at == 0
            && let Some(first) = line.front()
        {
            first.call.notify_one();
        }
    }

    fn call_first(&self) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        if let Some(first) = self.line.lock().front() {
            first.call.notify_one();
        }
    }
}
