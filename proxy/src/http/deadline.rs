//! Timers that cost nothing while nobody waits.
//!
//! Registering a timer with the runtime takes its lock and may wake its driver: too much for each
//! request. So a deadline is a plain instant; a timer is borrowed from a pool of this thread only
//! when something is really pending, and goes back without being deregistered. A borrowed timer
//! that is armed for an earlier instant than needed stays as it is: it fires once for nothing and
//! is armed anew then. With a steady flow of requests nearly no timer is ever touched.
//!
//! Nothing fires early, and nothing fires later than the runtime's own timers would.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::time::{Instant, Sleep};

/// Timers kept by one thread; more are dropped when given back.
const POOL_LIMIT: usize = 1_024;
/// How many pooled timers are looked at for one that need not be armed anew.
const POOL_PROBES: usize = 4;

/// A deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("deadline passed")]
pub struct Elapsed;

/// Runs `future` until `deadline`, or for ever where there is none. The future is polled first: one
/// that is ready costs no timer, even when the deadline has passed already.
pub async fn before<F: Future>(
    deadline: Option<Instant>,
    future: F,
) -> Result<F::Output, Elapsed> {
    let Some(deadline) = deadline else {
        return Ok(future.await);
    };
    let mut future = pin!(future);
    let mut alarm = Alarm::default();
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        alarm.poll_at(cx, deadline).map(|()| Err(Elapsed))
    })
    .await
}

/// The later of two deadlines is the one that does not matter.
pub fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// A timer that is borrowed when first needed. The instant may change from poll to poll.
#[derive(Debug, Default)]
pub struct Alarm(Option<Timer>);

impl Alarm {
    /// Ready once `at` has passed; else the task is woken at `at`, or earlier for nothing.
    pub fn poll_at(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        if Instant::now() >= at {
            return Poll::Ready(());
        }
        let timer = self.0.get_or_insert_with(|| Timer::borrow(at));
        if timer.sleep.deadline() > at {
            timer.sleep.as_mut().reset(at);
        }
        while timer.sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= at {
                return Poll::Ready(());
            }
            timer.sleep.as_mut().reset(at);
        }
        Poll::Pending
    }

    /// Ready once `duration` has passed since `since`.
    pub fn poll_after(
        &mut self,
        cx: &mut Context<'_>,
        since: Instant,
        duration: Duration,
    ) -> Poll<()> {
        // A duration too long to be an instant never passes.
        since
            .checked_add(duration)
            .map_or(Poll::Pending, |at| self.poll_at(cx, at))
    }

    /// Gives the timer back.
    pub fn disarm(&mut self) {
        self.0 = None;
    }
}

/// A timer of the pool, together with the runtime that drives it.
#[derive(Debug)]
struct Timer {
    /// `Some` until dropped.
    sleep: Pin<Box<Sleep>>,
    runtime: Id,
}

thread_local! {
    static POOL: RefCell<Vec<(Pin<Box<Sleep>>, Id)>> = const { RefCell::new(Vec::new()) };
}

impl Timer {
    fn borrow(at: Instant) -> Self {
        todo!()
    }
}
