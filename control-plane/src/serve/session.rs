//! What one stream has subscribed to and what it still has to be told: pure bookkeeping.
//!
//! A resource waits at most once, by its key: whatever happens while the stream is slow, the newest
//! content is looked up at the moment of sending, and only that is sent.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use prost::Message;
use weft_proto::discovery::{Held, ResourceKey, Version};

use super::memo::{Compiled, ContentHash};

/// Subscriptions per stream.
pub(super) const MAX_SUBSCRIPTIONS: usize = 10_000;
/// The longest key that is taken, encoded; authorities are at most 253 bytes and a port.
pub(super) const MAX_KEY_LEN: usize = 1024;
/// Resources looked at in one step, so that one stream does not keep a thread to itself.
const MAX_LOOKS: usize = 64;

/// The state of one stream.
pub(super) struct Session {
    /// What the sidecar said that it has, until it subscribes.
    held: HashMap<ResourceKey, Version>,
    subscriptions: HashMap<ResourceKey, Subscription>,
    pending: VecDeque<ResourceKey>,
    waiting: Vec<ResourceKey>,
    /// Until when what the sidecar holds may be newer than the model here.
    patience: Instant,
}

/// More than [`MAX_SUBSCRIPTIONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {MAX_SUBSCRIPTIONS} subscriptions on one stream")]
pub(super) struct TooMany;

/// What there is to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// This message.
    Send(Bytes),
    /// Perhaps something: ask again after others had their turn.
    More,
    /// Nothing until something changes.
    Idle,
}

#[derive(Default)]
struct Subscription {
    known: Option<Known>,
    /// Its key is in `pending` (once).
    queued: bool,
}

/// What the sidecar has of a resource.
enum Known {
    /// From an earlier stream.
    Held(Version),
    /// Sent on this stream: a delta may build on it.
    Sent(Arc<Compiled>),
}

impl Session {
    /// Begins with what the sidecar still holds. Until `patience` ends, a resource whose held
    /// version is newer than the model is left alone.
    pub(super) fn new(held: Vec<Held>, patience: Instant) -> Result<Self, TooMany> {
        if held.len() > MAX_SUBSCRIPTIONS {
            return Err(TooMany);
        }
        let held = held
            .into_iter()
            .filter_map(|held| Some((held.key?, held.version?)))
            .collect();
        Ok(Self {
            held,
            subscriptions: HashMap::new(),
            pending: VecDeque::new(),
            waiting: Vec::new(),
            patience,
        })
    }

    /// The version that the sidecar has of a resource which it has not subscribed to yet.
    pub(super) fn held(&self, key: &ResourceKey) -> Option<&Version> {
        self.held.get(key)
    }

    /// Starts a subscription; one that is there already stays as it is. `false`: the key is not one
    /// that this build knows, or is over-long, and is ignored.
    pub(super) fn subscribe(&mut self, key: ResourceKey) -> Result<bool, TooMany> {
        if key.kind.is_none() || key.encoded_len() > MAX_KEY_LEN {
            return Ok(false);
        }
        if self.subscriptions.contains_key(&key) {
            return Ok(true);
        }
        if self.subscriptions.len() >= MAX_SUBSCRIPTIONS {
            return Err(TooMany);
        }
        let subscription = Subscription {
            known: self.held.remove(&key).map(Known::Held),
            queued: true,
        };
        self.subscriptions.insert(key.clone(), subscription);
        self.pending.push_back(key);
        Ok(true)
    }

    /// Ends a subscription.
    pub(super) fn unsubscribe(&mut self, key: &ResourceKey) {
        let Some(ended) = self.subscriptions.remove(key) else {
            return;
        };
        // Linear, but else a key that comes and goes would pile up.
        if ended.queued {
            self.pending.retain(|pending| pending != key);
        }
        self.waiting.retain(|waiting| waiting != key);
    }

    /// Whether a resource is subscribed to.
    pub(super) fn has(&self, key: &ResourceKey) -> bool {
        self.subscriptions.contains_key(key)
    }

    /// There is a newer model, in which these may be different. What waits for the model to catch up is
    /// looked at again.
    pub(super) fn touch_changed(&mut self, may_differ: impl Fn(&ResourceKey) -> bool) {
        for key in std::mem::take(&mut self.waiting) {
            self.touch(&key);
        }
        for (key, subscription) in &mut self.subscriptions {
            if !subscription.queued && may_differ(key) {
                subscription.queued = true;
                self.pending.push_back(key.clone());
            }
        }
    }

    /// One resource may have changed.
    pub(super) fn touch(&mut self, key: &ResourceKey) {
        if let Some(subscription) = self.subscriptions.get_mut(key)
            && !subscription.queued
        {
            subscription.queued = true;
            self.pending.push_back(key.clone());
        }
    }

    /// When resources that wait for the model to catch up wait no longer; `None` where none waits.
    pub(super) fn patience_ends(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then_some(self.patience)
    }

    /// Waits no longer for the model to catch up. Returns how many resources are followed back.
    pub(super) fn lose_patience(&mut self) -> usize {
        let waiting = std::mem::take(&mut self.waiting);
        for key in &waiting {
            self.touch(key);
        }
        waiting.len()
    }

    /// Whether [`Session::next`] has something to look at.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The next message. `look_up` gives the newest content of a resource and the model's revision.
    pub(super) fn next(
        &mut self,
        now: Instant,
        mut look_up: impl FnMut(&ResourceKey) -> (Arc<Compiled>, u64),
    ) -> Step {
        for _ in 0..MAX_LOOKS {
            let Some(key) = self.pending.pop_front() else {
                return Step::Idle;
            };
            let Some(subscription) = self.subscriptions.get_mut(&key) else {
                continue;
            };
            subscription.queued = false;

            let (compiled, revision) = look_up(&key);
            let known = subscription.known.as_ref();
            if known.is_some_and(|known| known.hash() == compiled.hash) {
                continue;
            }
            let ahead = matches!(known, Some(Known::Held(held)) if held.source_revision > revision);
            if ahead && now < self.patience {
                self.waiting.push(key);
                continue;
            }
            let message = choose(known, &compiled);
            subscription.known = Some(Known::Sent(compiled));
            return Step::Send(message);
        }
        if self.has_pending() {
            Step::More
        } else {
            Step::Idle
        }
    }
}

impl Known {
    fn hash(&self) -> &[u8] {
        match self {
            Self::Held(version) => &version.content_hash,
            Self::Sent(compiled) => &compiled.hash,
        }
    }
}

fn choose(known: Option<&Known>, compiled: &Compiled) -> Bytes {
    let builds_on =
        |from: &ContentHash| matches!(known, Some(Known::Sent(sent)) if sent.hash == *from);
    match &compiled.delta {
        Some(delta) if builds_on(&delta.from) => delta.message.clone(),
        _ => compiled.full.clone(),
    }
}
