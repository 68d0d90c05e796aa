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
mod tests;
