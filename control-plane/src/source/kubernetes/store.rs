//! What is known of the cluster: a pure state machine over what the watches say.

use std::collections::{BTreeMap, BTreeSet};

use super::assemble;
use super::event::{Event, Trimmed, Urgency};
use super::kind::Kind;
use super::manifest::{Grant, HeldRoute, Policy};
use super::namespace::Namespace;
use super::observed::{Readings, StatusKind};
use super::pod::Pod;
use super::service::Service;
use super::slice::Slice;
use crate::index::{MeshSettings, Name, Objects};

/// Everything that is watched. It holds what the cluster holds: how many objects these are is bounded
/// there, and each is trimmed.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    pub(super) services: Table<Service>,
    pub(super) slices: Table<Slice>,
    pub(super) pods: Table<Pod>,
    pub(super) namespaces: Table<Namespace>,
    pub(super) policies: Table<Policy>,
    pub(super) http_routes: Table<HeldRoute>,
    pub(super) grpc_routes: Table<HeldRoute>,
    pub(super) grants: Table<Grant>,
}

/// What one of the watches says.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Service(Event<Service>),
    Slice(Event<Slice>),
    Pod(Event<Pod>),
    Namespace(Event<Namespace>),
    Policy(Event<Policy>),
    HttpRoute(Event<HeldRoute>),
    GrpcRoute(Event<HeldRoute>),
    Grant(Event<Grant>),
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
            Change::Namespace(event) => self.namespaces.take(event),
            Change::Policy(event) => self.policies.take(event),
            Change::HttpRoute(event) => self.http_routes.take(event),
            Change::GrpcRoute(event) => self.grpc_routes.take(event),
            Change::Grant(event) => self.grants.take(event),
        }
    }

    /// Whether all objects of every kind have been listed once.
    pub(super) fn has_synced(&self) -> bool {
        Kind::ALL.into_iter().all(|kind| match kind {
            Kind::Service => self.services.synced,
            Kind::EndpointSlice => self.slices.synced,
            Kind::Pod => self.pods.synced,
            Kind::Namespace => self.namespaces.synced,
            Kind::TrafficPolicy => self.policies.synced,
            Kind::HttpRoute => self.http_routes.synced,
            Kind::GrpcRoute => self.grpc_routes.synced,
            Kind::ReferenceGrant => self.grants.synced,
        })
    }

    /// What the model of this revision was made of.
    pub(super) fn readings(&self, revision: u64) -> Readings {
        let policies = self.policies.held.iter();
        let policies = policies.map(|(name, it)| (StatusKind::TrafficPolicy, name, it.reading()));
        let http = self.http_routes.held.iter();
        let http = http.map(|(name, it)| (StatusKind::HttpRoute, name, it.reading()));
        let grpc = self.grpc_routes.held.iter();
        let grpc = grpc.map(|(name, it)| (StatusKind::GrpcRoute, name, it.reading()));
        let objects = policies.chain(http).chain(grpc);
        Readings {
            revision,
            objects: objects
                .map(|(kind, name, reading)| ((kind, name.clone()), reading))
                .collect(),
        }
    }

    /// The namespaces where sidecars boot: those that are labelled, and those with a pod that has one,
    /// by a label of its own or of a time when the namespace had one; unless nothing can be created there
    /// any more.
    pub(super) fn injected(&self) -> BTreeSet<String> {
        let namespaces = self.namespaces.held.iter();
        let labelled = namespaces.filter(|(_, kind)| **kind == Namespace::Labelled);
        let labelled = labelled.map(|(name, _)| name.name.as_str());
        let pods = self.pods.held.iter().filter(|(_, pod)| pod.boots_sidecar);
        let pods = pods.map(|(name, _)| name.namespace.as_str());
        let mut injected: BTreeSet<&str> = labelled.chain(pods).collect();
        for (name, kind) in &self.namespaces.held {
            if *kind == Namespace::Ending {
                injected.remove(name.name.as_str());
            }
        }
        injected.into_iter().map(str::to_owned).collect()
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
            Event::Absent => {
                self.arriving = None;
                let first = !std::mem::replace(&mut self.synced, true);
                if first || !std::mem::take(&mut self.held).is_empty() {
                    Urgency::Now
                } else {
                    Urgency::Nothing
                }
            }
            Event::Forbidden => {
                self.synced = true;
                Urgency::Nothing
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
