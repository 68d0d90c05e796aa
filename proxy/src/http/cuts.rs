//! The exchanges of one connection, so that some of them can be ended by what they asked for.
//!
//! An exchange [begins](Cuts::begin) before it is decided whether it may be made, so that none slips
//! between a decision and the change that revokes it. Whoever carries it asks [`Cuttable::poll_cut`];
//! dropping it is its end. Cutting wakes, and decides nothing of how an exchange ends.
//!
//! There are as many exchanges at most as the connection has streams.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use http::uri::PathAndQuery;
use http::{Method, Uri};
use parking_lot::Mutex;

/// All exchanges of a connection that are in flight.
#[derive(Debug, Default)]
pub struct Cuts(Mutex<Slots>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Cuttable {
    cuts: Arc<Cuts>,
    at: usize,
}

#[derive(Debug, Default)]
struct Slots {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Slot {
    method: Method,
    target: Option<PathAndQuery>,
    cut: bool,
    waker: Option<Waker>,
}

impl Cuts {
    /// An exchange has begun that asks for this.
    pub fn begin(self: &Arc<Self>, method: &Method, uri: &Uri) -> Cuttable {
        let slot = Slot {
            method: method.clone(),
            target: uri.path_and_query().cloned(),
            cut: false,
            waker: None,
        };
        let mut slots = self.0.lock();
        let at = slots.free.pop().unwrap_or(slots.slots.len());
        if at == slots.slots.len() {
            slots.slots.push(Some(slot));
        } else {
            slots.slots[at] = Some(slot);
        }
        let cuts = Arc::clone(self);
        Cuttable { cuts, at }
    }

    /// Cuts those exchanges whose method and path are chosen.
    pub fn cut_where(&self, chosen: impl Fn(&Method, &str) -> bool) {
        let mut wakers = Vec::new();
        for slot in self.0.lock().slots.iter_mut().flatten() {
            let path = slot.target.as_ref().map_or("", PathAndQuery::path);
            if !slot.cut && chosen(&slot.method, path) {
                slot.cut = true;
                wakers.extend(slot.waker.take());
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Whether an exchange that was cut is still there.
    pub fn has_cut(&self) -> bool {
        self.0.lock().slots.iter().flatten().any(|slot| slot.cut)
    }
}

impl Cuttable {
    /// Ready once it was cut; else the task is woken then.
    pub fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut slots = self.cuts.0.lock();
        let slot = slots.slots[self.at].as_mut();
        let slot = slot.expect("emptied when this is dropped");
        if slot.cut {
            return Poll::Ready(());
        }
        match &mut slot.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Cuttable {
    fn drop(&mut self) {
        let mut slots = self.cuts.0.lock();
        slots.slots[self.at] = None;
        slots.free.push(self.at);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use bytes::Bytes;

    use super::*;

    /// What one request pays for being among those that can be ended: it begins, waits for the application,
    /// has its body polled twice, and ends. `cargo test --release -p weft-proxy --lib cost_of_a_request --
    /// --ignored --nocapture` prints it.
    #[test]
    #[ignore = "a measurement, for a release build"]
    fn cost_of_a_request() {
        const TIMES: u32 = 2_000_000;
        // As hyper makes it: a part of what was read.
        let target = Bytes::from(b"/orders/1234?full=true".to_vec());
        let uri = Uri::from_maybe_shared(target.slice(..)).unwrap();
        let cuts = Arc::new(Cuts::default());
        let mut cx = Context::from_waker(Waker::noop());
        for others in [0, 100] {
            let _others: Vec<_> = (0..others).map(|_| cuts.begin(&Method::GET, &uri)).collect();
            let start = std::time::Instant::now();
            for _ in 0..TIMES {
                let exchange = std::hint::black_box(&cuts).begin(&Method::GET, &uri);
                for _ in 0..3 {
                    assert!(exchange.poll_cut(&mut cx).is_pending());
                }
            }
            let each = start.elapsed() / TIMES;
            println!("{each:?} a request beside {others} others");
        }
    }

    #[tokio::test]
    async fn what_is_chosen_is_cut_and_woken() {
        let cuts = Arc::new(Cuts::default());
        let begin = |path: &'static str| cuts.begin(&Method::GET, &Uri::from_static(path));
        let (events, other) = (begin("/events?x=1"), begin("/other"));
        let waiting = tokio::spawn({
            let events = events;
            async move { poll_fn(|cx| events.poll_cut(cx)).await }
        });
        tokio::task::yield_now().await;
        cuts.cut_where(|method, path| *method == Method::GET && path == "/events");
        assert!(cuts.has_cut());
        waiting.await.unwrap();
        assert!(!cuts.has_cut(), "it has ended");
        let polled = poll_fn(|cx| Poll::Ready(other.poll_cut(cx))).await;
        assert!(polled.is_pending());

        // A place is taken again, without what was there before.
        let next = begin("/next");
        assert_eq!(next.at, 0);
        let polled = poll_fn(|cx| Poll::Ready(next.poll_cut(cx))).await;
        assert!(polled.is_pending());
        drop((next, other));
        assert_eq!(cuts.0.lock().slots.len(), 2);
    }
}
