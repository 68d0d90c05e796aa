//! A connection's life, at the worker that it is accepted for and then perhaps at another.
//!
//! A connection is moved at most once, when it has turned out to be HTTP and [`place`](super::placement::place)
//! says another worker: its future asks for it ([`Seat::settle`]), waits, and is polled next on the other
//! worker's thread. Whoever waits for connections to end sees one throughout.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio_util::task::task_tracker::{TaskTracker, TaskTrackerToken};

use super::{ConnectionCount, HttpCount, Workers};
use crate::http::client::BoxFuture;
use crate::worker::{self, Seat, Settling};

/// No worker.
const NOWHERE: usize = usize::MAX;

/// One connection, until it ends.
pub struct Life {
    name: &'static str,
    /// Gone when another life goes on with it.
    serving: Option<BoxFuture<()>>,
    /// At the worker that runs it.
    count: Option<ConnectionCount>,
    tracked: Option<TaskTrackerToken>,
    errand: Option<Arc<Errand>>,
}

/// What a connection's future and its life know of a move.
pub struct Errand {
    workers: Workers,
    /// The number of the worker that it is to go to.
    to: AtomicUsize,
    /// Counted as long as the connection lives.
    http: OnceLock<HttpCount>,
}

impl Life {
    /// The life of a connection that `serve` serves, in the seat that it gets, and that is `count`ed at
    /// the worker that will run it. A panic in it is logged with `name`.
    pub fn new(
        name: &'static str,
        workers: &Workers,
        count: ConnectionCount,
        tracker: &TaskTracker,
        serve: impl FnOnce(Seat) -> BoxFuture<()>,
    ) -> Self {
        let errand = (workers.count() > 1).then(|| Arc::new(Errand::new(workers.clone())));
        let seat = errand
            .as_ref()
            .map_or_else(Seat::only, |errand| Seat::new(Arc::clone(errand) as _));
        Self {
            name,
            serving: Some(serve(seat)),
            count: Some(count),
            tracked: Some(tracker.token()),
            errand,
        }
    }
}

impl Future for Life {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(serving) = &mut this.serving else {
            return Poll::Ready(());
        };
        if serving.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let Some(errand) = &this.errand else {
            return Poll::Pending;
        };
        let Some(worker) = errand.wanted() else {
            return Poll::Pending;
        };
        // Before the other worker can begin: nobody sees it twice.
        drop(this.count.take());
        let next = Self {
            name: this.name,
            serving: this.serving.take(),
            count: Some(worker.count_connection()),
            tracked: this.tracked.take(),
            errand: this.errand.clone(),
        };
        worker.spawn(this.name, next);
        Poll::Ready(())
    }
}

impl Errand {
    fn new(workers: Workers) -> Self {
        Self {
            workers,
            to: AtomicUsize::new(NOWHERE),
            http: OnceLock::new(),
        }
    }

    /// Where the connection is to go, once.
    fn wanted(&self) -> Option<&super::WorkerHandle> {
        // Read first: it is asked whenever a connection waits.
        if self.to.load(Ordering::Relaxed) == NOWHERE {
            return None;
        }
        let to = self.to.swap(NOWHERE, Ordering::Relaxed);
        self.workers.iter().nth(to)
    }
}

impl Settling for Errand {
    fn settle(&self) -> bool {
        if self.http.get().is_some() {
            return false;
        }
        let (worker, count) = self.workers.place();
        let elsewhere = worker::current() != Some(worker.id());
        if elsewhere {
            self.to.store(worker.id(), Ordering::Relaxed);
        }
        let _ = self.http.set(count);
        elsewhere
    }
}
