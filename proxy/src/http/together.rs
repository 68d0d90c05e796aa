//! An HTTP/2 connection and all that the library spawns for it, in one task.
//!
//! The library wants a task for each exchange, and at the client's side one more for the connection. Each
//! costs an allocation that is aligned to cache lines, and a turn through the runtime's queue before what
//! it writes is seen by the connection. Here they are polled by the task that polls the connection, just
//! before and just after it: what exchanges write in one turn leaves in one write ([`cork`](super::cork)).
//!
//! Invariants:
//! * Whatever is woken is polled: during a turn by one more round of it, else by one more turn. What was
//!   spawned goes on when the connection has ended, for as long as it is polled.
//! * A turn ends: after [`MAX_ROUNDS`] rounds the runtime's other tasks come first.
//! * What was spawned ends when [`Together`] is dropped.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use futures_util::task::AtomicWaker;
use hyper::rt::Executor;
use parking_lot::Mutex;

use super::client::BoxFuture;

/// Rounds of one turn.
const MAX_ROUNDS: usize = 8;

/// What the library spawns with. Only to be used during a turn, or before the first one.
#[derive(Clone, Default)]
pub(super) struct Spawner(Arc<Mutex<Vec<BoxFuture<()>>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Spawner {
    fn execute(&self, spawned: F) {
        self.0.lock().push(Box::pin(spawned));
    }
}

/// What was spawned for one connection.
pub(super) struct Together {
    spawner: Spawner,
    spawned: FuturesUnordered<BoxFuture<()>>,
    turn: Arc<Turn>,
    waker: Waker,
}

/// Whom to wake: nobody while a turn is under way, which then has one more round.
#[derive(Default)]
struct Turn {
    task: AtomicWaker,
    is_under_way: AtomicBool,
    again: AtomicBool,
}

impl Together {
    /// For the connection that has this spawner.
    pub(super) fn new(spawner: Spawner) -> Self {
        let turn = Arc::new(Turn::default());
        Self {
            spawner,
            spawned: FuturesUnordered::new(),
            waker: Waker::from(Arc::clone(&turn)),
            turn,
        }
    }

    /// One turn: polls what was spawned and `connection`, until nothing is woken any more.
    pub(super) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut connection: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.turn.task.register(cx.waker());
        self.turn.is_under_way.store(true, Ordering::SeqCst);
        let waker = self.waker.clone();
        let mut own = Context::from_waker(&waker);
        let mut polled = Poll::Pending;
        for _ in 0..MAX_ROUNDS {
            self.poll_spawned(&mut own);
            // Whatever that woke is polled right now.
            self.turn.again.store(false, Ordering::SeqCst);
            polled = connection(&mut own);
            if polled.is_ready() {
                // It may have spawned something, and what was woken before it is forgotten by now.
                self.turn.again.store(true, Ordering::SeqCst);
                break;
            }
            self.poll_spawned(&mut own);
            if !self.turn.again.load(Ordering::SeqCst) {
                break;
            }
        }
        self.turn.is_under_way.store(false, Ordering::SeqCst);
        if self.turn.again.swap(false, Ordering::SeqCst) {
            cx.waker().wake_by_ref();
        }
        polled
    }

    /// Whether all that was spawned has ended.
    pub(super) fn is_empty(&self) -> bool {
        self.spawned.is_empty() && self.spawner.0.lock().is_empty()
    }

    fn poll_spawned(&mut self, cx: &mut Context<'_>) {
        loop {
            self.spawned.extend(self.spawner.0.lock().drain(..));
            let polled = self.spawned.poll_next_unpin(cx);
            let has_more = !self.spawner.0.lock().is_empty();
            match polled {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) | Poll::Pending if has_more => {}
                Poll::Ready(None) | Poll::Pending => return,
            }
        }
    }
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.again.store(true, Ordering::SeqCst);
        if !self.is_under_way.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests;
