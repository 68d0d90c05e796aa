//! What this sidecar has subscribed to.
//!
//! Workers ask by key and get the one cell of that key; the first to ask subscribes. The table is
//! bounded: when it is full, what nobody holds makes place, longest unused first, and only while the
//! control plane is there to tell it again. Where nothing can go, the newcomer gets a cell that never
//! fills.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;
use weft_proto::discovery::Version;

use super::key::Key;
use super::watched::Watched;
use crate::policy::{EndpointInfo, InboundPolicy, OutboundTarget};

/// Most subscriptions of one sidecar.
pub const MAX_SUBSCRIPTIONS: usize = 10_000;
/// How many go at once when the table is full, so that looking for them is rare.
const EVICT_AT_ONCE: usize = 500;

/// A set of endpoints by address, so that deltas find what they change.
pub(super) type EndpointSet = BTreeMap<SocketAddr, EndpointInfo>;

/// What workers ask and the control task answers.
pub(super) struct Table {
    slots: RwLock<HashMap<Key, Arc<Slot>>>,
    capacity: usize,
    /// Bounded by the table: a key is sent once when it comes and once when it goes.
    changes: mpsc::UnboundedSender<Change>,
    /// Counts uses, as a clock for "longest unused".
    uses: AtomicU64,
    refused: AtomicU64,
    evicted: AtomicU64,
}

/// A change of the table that the control plane should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Subscribe(Key),
    Unsubscribe(Key),
}

/// One subscription.
pub(super) struct Slot {
    pub(super) cell: AnyCell,
    used: AtomicU64,
    /// Only the control task writes.
    pub(super) record: Mutex<Record>,
}

/// A cell by what it holds.
pub(super) enum AnyCell {
    Endpoints(Watched<Vec<EndpointInfo>>),
    Inbound(Watched<InboundPolicy>),
    Outbound(Watched<OutboundTarget>),
    TrustBundle,
}

/// What the control task knows about a subscription.
#[derive(Default)]
pub(super) struct Record {
    /// Of the value in force.
    pub(super) version: Option<Version>,
    /// The endpoints in force, for endpoint subscriptions.
    pub(super) endpoints: EndpointSet,
    /// What the control plane sent last on this stream was applied, so that a delta fits.
    pub(super) in_step: bool,
    /// What a replica that lags behind sent on this stream.
    pub(super) lagging: Option<Lagging>,
    /// The value is the namespace's default, for an own port that nobody declared.
    pub(super) by_default: bool,
    /// Why the newest version was refused.
    pub(super) refused: Option<String>,
}

/// An older version than the one in force.
pub(super) struct Lagging {
    pub(super) version: Version,
    pub(super) value: super::session::Value,
}

impl Lagging {
    /// How long a replica may lag before it is believed.
    pub(super) const PATIENCE: Duration = Duration::from_secs(10);
}

impl Table {
    pub(super) fn new(capacity: usize) -> (Self, mpsc::UnboundedReceiver<Change>) {
        let (changes, receiver) = mpsc::unbounded_channel();
        let table = Self {
            slots: RwLock::default(),
            capacity,
            changes,
            uses: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
        };
        (table, receiver)
    }

    /// The cell of an outbound destination or authority.
    pub(super) fn outbound(
        &self,
        key: Key,
        may_evict: impl Fn() -> bool,
    ) -> Watched<OutboundTarget> {
        let pick = |cell: &AnyCell| match cell {
            AnyCell::Outbound(cell) => Some(cell.clone()),
            _ => None,
        };
        self.watched(key, AnyCell::Outbound, pick, may_evict)
    }

    /// The cell of a service port's endpoints.
    pub(super) fn endpoints(
        &self,
        key: Key,
        may_evict: impl Fn() -> bool,
    ) -> Watched<Vec<EndpointInfo>> {
        let pick = |cell: &AnyCell| match cell {
            AnyCell::Endpoints(cell) => Some(cell.clone()),
            _ => None,
        };
        self.watched(key, AnyCell::Endpoints, pick, may_evict)
    }

    /// The cell of an own port.
    pub(super) fn inbound(&self, key: Key, may_evict: impl Fn() -> bool) -> Watched<InboundPolicy> {
        let pick = |cell: &AnyCell| match cell {
            AnyCell::Inbound(cell) => Some(cell.clone()),
            _ => None,
        };
        self.watched(key, AnyCell::Inbound, pick, may_evict)
    }

    /// Subscribes to the trust bundle.
    pub(super) fn trust_bundle(&self) {
        let wrap = |_: Watched<()>| AnyCell::TrustBundle;
        self.watched(Key::TrustBundle, wrap, |_| None, || false);
    }

    /// The subscription of a key that has one.
    pub(super) fn get(&self, key: &Key) -> Option<Arc<Slot>> {
        self.slots.read().get(key).cloned()
    }

    /// Every subscription. `receiver` is emptied in the same moment, so that each change is either
    /// in the list or still to come.
    pub(super) fn all(
        &self,
        receiver: Option<&mut mpsc::UnboundedReceiver<Change>>,
    ) -> Vec<(Key, Arc<Slot>)> {
        let slots = self.slots.read();
        if let Some(receiver) = receiver {
            while receiver.try_recv().is_ok() {}
        }
        let mut all: Vec<_> = slots
            .iter()
            .map(|(key, slot)| (key.clone(), Arc::clone(slot)))
            .collect();
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    /// Subscriptions that were wanted while the table was full.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Subscriptions that made place for others.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// The one cell of a key. It is cloned under the lock: between finding and holding it, nobody
    /// can take it for idle.
    fn watched<T: Send + Sync + 'static>(
        &self,
        key: Key,
        wrap: impl FnOnce(Watched<T>) -> AnyCell,
        pick: impl Fn(&AnyCell) -> Option<Watched<T>>,
        may_evict: impl Fn() -> bool,
    ) -> Watched<T> {
        let now = self.uses.fetch_add(1, Ordering::Relaxed);
        let known = |slot: &Slot| {
            slot.used.store(now, Ordering::Relaxed);
            pick(&slot.cell).unwrap_or_else(Watched::empty)
        };
        if let Some(slot) = self.slots.read().get(&key) {
            return known(slot);
        }

        let mut slots = self.slots.write();
        if let Some(slot) = slots.get(&key) {
            return known(slot);
        }
        let cell = Watched::empty();
        if slots.len() >= self.capacity && may_evict() {
            self.evict(&mut slots);
        }
        if slots.len() >= self.capacity {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return cell;
        }
        let slot = Slot {
            cell: wrap(cell.clone()),
            used: AtomicU64::new(now),
            record: Mutex::default(),
        };
        slots.insert(key.clone(), Arc::new(slot));
        // Fails only when the control task has ended, and then nothing changes any more.
        let _ = self.changes.send(Change::Subscribe(key));
        cell
    }

    fn evict(&self, slots: &mut HashMap<Key, Arc<Slot>>) {
        let mut idle: Vec<_> = slots
            .iter()
            .filter(|(_, slot)| slot.cell.is_idle())
            .map(|(key, slot)| (slot.used.load(Ordering::Relaxed), key.clone()))
            .collect();
        idle.sort_unstable();
        for (_, key) in idle.into_iter().take(EVICT_AT_ONCE) {
            slots.remove(&key);
            self.evicted.fetch_add(1, Ordering::Relaxed);
            let _ = self.changes.send(Change::Unsubscribe(key));
        }
    }
}

impl AnyCell {
    /// Whether nobody but the table holds it. The trust bundle is always needed.
    fn is_idle(&self) -> bool {
        match self {
            Self::Endpoints(cell) => cell.holders() == 1,
            Self::Inbound(cell) => cell.holders() == 1,
            Self::Outbound(cell) => cell.holders() == 1,
            Self::TrustBundle => false,
        }
    }
}
