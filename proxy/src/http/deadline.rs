//! Timers that cost nothing while nobody waits.
//!
//! Registering a timer with the runtime takes its lock and may wake its driver: too much for each
//! request. So a deadline is a plain value; a timer is borrowed from a pool of this thread only
//! when something is really pending, and goes back without being deregistered. A borrowed timer
//! that is armed for an earlier instant than needed stays as it is: it fires once for nothing and
//! is armed anew then. With a steady flow of requests nearly no timer is ever touched.
//!
//! Nothing fires early, and nothing fires later than the runtime's own timers would.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::runtime::{Handle, Id};
use tokio::time::{Instant, Sleep};

use crate::resilience::deadline::Deadline;

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
pub fn before<F: Future>(deadline: Deadline, future: F) -> Before<F> {
    Before {
        future,
        deadline: deadline.instant().map(Instant::from_std),
        alarm: Alarm::default(),
    }
}

pin_project! {
    /// See [`before`]. Not an `async fn`, which would have room for the future twice.
    #[must_use = "nothing runs until it is awaited"]
    pub struct Before<F> {
        #[pin]
        future: F,
        deadline: Option<Instant>,
        alarm: Alarm,
    }
}

impl<F: Future> Future for Before<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        match *this.deadline {
            Some(deadline) => this.alarm.poll_at(cx, deadline).map(|()| Err(Elapsed)),
            None => Poll::Pending,
        }
    }
}

/// A timer that is borrowed when first needed. The instant may change from poll to poll.
#[derive(Debug, Default)]
pub struct Alarm(Option<Borrowed>);

impl Alarm {
    /// Ready once `at` has passed; else the task is woken at `at`, or earlier for nothing.
    pub fn poll_at(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        if Instant::now() >= at {
            return Poll::Ready(());
        }
        let sleep = self.0.get_or_insert_with(|| Borrowed::new(at)).sleep();
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
        Poll::Pending
    }

    /// Gives the timer back.
    pub fn disarm(&mut self) {
        self.0 = None;
    }
}

/// A timer of the pool, together with the runtime that drives it.
#[derive(Debug)]
struct Timer {
    sleep: Pin<Box<Sleep>>,
    runtime: Id,
}

/// A borrowed timer; goes back when dropped.
#[derive(Debug)]
struct Borrowed(Option<Timer>);

thread_local! {
    static POOL: RefCell<Vec<Timer>> = const { RefCell::new(Vec::new()) };
}

impl Borrowed {
    fn new(at: Instant) -> Self {
        let runtime = Handle::current().id();
        let pooled = POOL.with_borrow_mut(|pool| {
            // One that is armed, and not later than needed, is as good as new without a touch.
            let mut probes = pool.iter().enumerate().rev().take(POOL_PROBES);
            let armed = probes.find(|(_, timer)| {
                timer.runtime == runtime
                    && !timer.sleep.is_elapsed()
                    && timer.sleep.deadline() <= at
            });
            match armed.map(|(index, _)| index) {
                Some(index) => Some(pool.swap_remove(index)),
                None => pool.pop(),
            }
        });
        // A timer of another runtime, which may have ended, is useless here.
        let timer = pooled.filter(|timer| timer.runtime == runtime);
        Self(Some(timer.unwrap_or_else(|| Timer {
            sleep: Box::pin(tokio::time::sleep_until(at)),
            runtime,
        })))
    }

    fn sleep(&mut self) -> &mut Pin<Box<Sleep>> {
        let timer = self.0.as_mut().expect("taken only when dropped");
        &mut timer.sleep
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let Some(timer) = self.0.take() else { return };
        // While its thread ends there is no pool any more.
        let _ = POOL.try_with(|pool| {
            if let Ok(mut pool) = pool.try_borrow_mut()
                && pool.len() < POOL_LIMIT
            {
                pool.push(timer);
            }
        });
    }
}

#[cfg(test)]
mod tests;
