//! What a connection's driver, its service and its transport know of each other.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::bounds::Bounds;
use crate::http::Version;
use crate::http::guard::Violation;

/// Shared by the parts of one connection, which run in one task (HTTP/1) or are woken by messages
/// (HTTP/2): relaxed order is enough.
#[derive(Debug)]
pub(super) struct State {
    version: Version,
    in_flight: AtomicUsize,
    requests: AtomicU64,
    read: AtomicU64,
    /// The number of the HTTP/2 head that is not whole; 0 where there is none.
    unfinished_head: AtomicU64,
    written: AtomicU64,
    /// Bytes written when the last request was handed over.
    written_when_taken: AtomicU64,
    announce_close: AtomicBool,
    /// An HTTP/2 peer is told to leave.
    leaving: AtomicBool,
    upgraded: AtomicBool,
    /// After how many requests one came that is not to be seen, and why.
    refused: OnceLock<(u64, Violation)>,
    /// The transport holds bytes back until so many requests are over; 0 where it does not.
    held_for: AtomicU64,
    /// Bytes that were read of a head that is not whole.
    partial_head: AtomicU64,
    /// The head that is being read took too long.
    head_is_late: AtomicBool,
    /// Our end is being closed.
    is_closing: AtomicBool,
    /// An HTTP/1 connection has nothing in hand.
    rests: AtomicBool,
    bounds: Arc<Bounds>,
}

impl State {
    pub(super) fn new(version: Version, bounds: Arc<Bounds>) -> Self {
        Self {
            version,
            bounds,
            partial_head: AtomicU64::new(0),
            head_is_late: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
            rests: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            read: AtomicU64::new(0),
            unfinished_head: AtomicU64::new(0),
            written: AtomicU64::new(0),
            written_when_taken: AtomicU64::new(0),
            announce_close: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
            refused: OnceLock::new(),
            held_for: AtomicU64::new(0),
        }
    }

    pub(super) fn is_http1(&self) -> bool {
        self.version == Version::Http1
    }

    pub(super) fn bounds(&self) -> &Arc<Bounds> {
        &self.bounds
    }

    /// A request has come. False where the process has too many with it.
    pub(super) fn take_request(this: &Arc<Self>) -> (InFlight, bool) {
        let fits = this.bounds.requests.enter();
        let streams = this.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        if streams == this.bounds.limits.http2_streams as usize && !this.is_http1() {
            this.bounds.hits.http2_streams.increment(1);
        }
        this.requests.fetch_add(1, Ordering::Relaxed);
        let written = this.written.load(Ordering::Relaxed);
        this.written_when_taken.store(written, Ordering::Relaxed);
        (InFlight(Arc::clone(this)), fits)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    pub(super) fn add_read(&self, bytes: usize) {
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Which head of an HTTP/2 client has begun and is not whole.
    pub(super) fn unfinished_head(&self) -> Option<u64> {
        let number = self.unfinished_head.load(Ordering::Relaxed);
        (number > 0).then_some(number)
    }

    pub(super) fn set_unfinished_head(&self, number: Option<u64>) {
        self.unfinished_head
            .store(number.unwrap_or(0), Ordering::Relaxed);
    }

    pub(super) fn add_written(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A clean close now would say that a request was never taken which was: HTTP/2 says by GOAWAY
    /// what it took.
    pub(super) fn owes_an_answer(&self) -> bool {
        self.is_http1()
            && self.requests() > 0
            && self.written.load(Ordering::Relaxed)
                == self.written_when_taken.load(Ordering::Relaxed)
    }

    /// From now on responses say `connection: close`.
    pub(super) fn announce_close(&self) {
        self.announce_close.store(true, Ordering::Relaxed);
    }

    pub(super) fn closing_is_announced(&self) -> bool {
        self.announce_close.load(Ordering::Relaxed)
    }

    /// The library is being told to say GOAWAY.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// What follows is not HTTP any more.
    pub(super) fn upgraded(&self) {
        self.upgraded.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.upgraded.load(Ordering::Relaxed)
    }

    /// Behind `requests` that may be seen comes one that may not.
    pub(super) fn refuse_after(&self, requests: u64, violation: Violation) {
        // The first one ends the connection.
        let _ = self.refused.set((requests, violation));
    }

    /// Why the request that was taken last stands for one that is refused, if it does.
    pub(super) fn refuses(&self) -> Option<Violation> {
        let (requests, violation) = self.refused.get()?;
        (self.requests() > *requests).then_some(*violation)
    }

    /// Of what was read, the last `bytes` begin a head that is not whole.
    pub(super) fn set_partial_head(&self, bytes: usize) {
        self.partial_head.store(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn partial_head(&self) -> u64 {
        self.partial_head.load(Ordering::Relaxed)
    }

    /// Our end is being closed.
    pub(super) fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Relaxed)
    }

    /// Every byte that the library was given belongs to an exchange that is over, all that it wrote is
    /// flushed, and it waits for the next head. HTTP/1 alone.
    pub(super) fn rests(&self) -> bool {
        self.rests.load(Ordering::Relaxed)
    }

    pub(super) fn set_rests(&self, rests: bool) {
        self.rests.store(rests, Ordering::Relaxed);
    }

    /// The head that is being read took too long.
    pub(super) fn end_head(&self) {
        self.head_is_late.store(true, Ordering::Relaxed);
    }

    pub(super) fn head_is_late(&self) -> bool {
        self.head_is_late.load(Ordering::Relaxed)
    }

    /// The transport holds bytes back until so many requests are over.
    pub(super) fn hold_for(&self, requests: u64) {
        self.held_for.store(requests, Ordering::Relaxed);
    }

    /// What bytes were held back for is over: the connection is to read again, and nobody else wakes
    /// it. Said once.
    pub(super) fn may_let_go(&self) -> bool {
        let held_for = self.held_for.load(Ordering::Relaxed);
        if held_for == 0 || held_for != self.requests() || self.in_flight() > 0 {
            return false;
        }
        self.held_for.store(0, Ordering::Relaxed);
        true
    }
}

/// An exchange in flight, until dropped.
#[derive(Debug)]
pub(super) struct InFlight(Arc<State>);

impl InFlight {
    pub(super) fn state(&self) -> &State {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.bounds.requests.leave();
    }
}
