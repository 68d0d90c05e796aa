//! What is known of the cluster: a pure state machine over what the watches say.

use std::collections::BTreeMap;

use super::event::{Event, Trimmed, Urgency};
use super::pod::Pod;
use super::policy::Policy;
use super::service::Service;
use super::slice::Slice;
use super::{Kind, assemble};
use crate::index::{MeshSettings, Name, Objects};

/// Everything that is watched. It holds what the cluster holds: how many objects these are is bounded
/// there, and each is trimmed.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    pub(super) services: Table<Service>,
    pub(super) slices: Table<Slice>,
    pub(super) pods: Table<Pod>,
    pub(super) policies: Table<Policy>,
}

/// What one of the watches says.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Service(Event<Service>),
    Slice(Event<Slice>),
    Pod(Event<Pod>),
    Policy(Event<Policy>),
}

/// The objects of one kind.
#[derive(Debug)]
pub(super) struct Table<T> {
    /// What is in force.
    pub(super) held: BTreeMap<Name, T>,
    /// A list that is not complete yet.
    arriving: Option<BTreeMap<Name, T>>,
    synced: bool,
}

impl Cluster {
    /// Takes over what a watch says, and says how soon it matters.
    pub(super) fn take(&mut self, change: Change) -> Urgency {
        match change {
            Change::Service(event) => self.services.take(event),
            Change::Slice(event) => self.slices.take(event),
            Change::Pod(event) => self.pods.take(event),
            Change::Policy(event) => self.policies.take(event),
        }
    }

    /// Whether all objects of every kind have been listed once.
    pub(super) fn has_synced(&self) -> bool {
        Kind::ALL.into_iter().all(|kind| match kind {
            Kind::Service => self.services.synced,
            Kind::EndpointSlice => self.slices.synced,
            Kind::Pod => self.pods.synced,
            Kind::TrafficPolicy => self.policies.synced,
        })
    }

    /// Everything that is in force.
    pub(super) fn objects(&self, settings: &MeshSettings) -> Objects {
        assemble::objects(self, settings)
    }
}

impl<T: Trimmed> Table<T> {
    fn take(&mut self, event: Event<T>) -> Urgency {
        match event {
            Event::Restarted => {
                self.arriving = Some(BTreeMap::new());
                Urgency::Nothing
            }
            Event::Listed(name, object) => {
                if let Some(mut object) = object {
                    if let Some(before) = self.held.get(&name) {
                        object.inherit(before);
                    }
                    let arriving = self.arriving.get_or_insert_default();
                    arriving.insert(name, object);
                }
                Urgency::Nothing
            }
            Event::Complete => {
                let next = self.arriving.take().unwrap_or_default();
                let before = std::mem::replace(&mut self.held, next);
                let first = !std::mem::replace(&mut self.synced, true);
                if first || before != self.held {
                    Urgency::Now
                } else {
                    Urgency::Nothing
                }
            }
            Event::Applied(name, Some(mut object)) => {
                let urgency = match self.held.get(&name) {
                    Some(before) => {
                        object.inherit(before);
                        if *before == object {
                            return Urgency::Nothing;
                        }
                        before.change(&object)
                    }
                    None => Urgency::Soon,
                };
                self.held.insert(name, object);
                urgency
            }
            Event::Applied(name, None) | Event::Deleted(name) => match self.held.remove(&name) {
                Some(_) => Urgency::Now,
                None => Urgency::Nothing,
            },
        }
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            held: BTreeMap::new(),
            arriving: None,
            synced: false,
        }
    }
}
