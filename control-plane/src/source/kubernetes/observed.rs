//! Objects with a status, as the API server has them: what whoever writes statuses compares with.
//!
//! [`Observed`] holds the newest version of each, of whose status the model knows nothing;
//! [`Readings`] says which version of each the model was made of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::core::DynamicObject;
use parking_lot::RwLock;
use serde_json::Value;
use tokio::sync::watch;

use super::event::name_of;
use crate::index::Name;
use crate::policy::Violation;

/// The kinds whose status is written here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StatusKind {
    /// `TrafficPolicy`.
    TrafficPolicy,
    /// `HTTPRoute`.
    HttpRoute,
    /// `GRPCRoute`.
    GrpcRoute,
}

/// What the API server has of an object, beside its spec.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedObject {
    /// Its uid.
    pub uid: String,
    /// Rises with its spec.
    pub generation: i64,
    /// Of its newest version.
    pub resource_version: String,
    /// Its status; null where there is none.
    pub status: Value,
}

/// All of them, as the watches said it last. What a watch lost stays until a new list is complete.
#[derive(Debug)]
pub struct Observed {
    objects: RwLock<BTreeMap<(StatusKind, Name), Arc<ObservedObject>>>,
    changed: watch::Sender<u64>,
}

/// Which version of each object with a status a model was made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Readings {
    /// The model's revision.
    pub revision: u64,
    /// Every object that was there.
    pub objects: BTreeMap<(StatusKind, Name), Reading>,
}

/// What was read of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The object's uid.
    pub uid: String,
    /// The generation that was read; 0 where it has none.
    pub generation: i64,
    /// Why that generation is not in force; `None` where it was read.
    pub refused: Option<Arc<Refused>>,
    /// Whether an earlier version is in force instead of a refused one. The model then speaks of that.
    pub last_good_stays: bool,
}

/// A version that could not be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// What is wrong with it.
    pub violations: Vec<Violation>,
    /// As much of the manifest as its status needs: `metadata.name`, `.namespace`, `.generation` and,
    /// of a route, `spec.parentRefs` as written.
    pub manifest: Value,
}

impl Observed {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self {
            objects: RwLock::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// An object as it was seen last.
    pub fn find(&self, kind: StatusKind, name: &Name) -> Option<Arc<ObservedObject>> {
        self.objects.read().get(&(kind, name.clone())).cloned()
    }

    /// All objects of a kind, by name.
    pub fn all(&self, kind: StatusKind) -> Vec<(Name, Arc<ObservedObject>)> {
        let objects = self.objects.read();
        let of_kind = objects.iter().filter(|((known, _), _)| *known == kind);
        of_kind
            .map(|((_, name), object)| (name.clone(), Arc::clone(object)))
            .collect()
    }

    /// Told after every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// An object is there, or has changed.
    pub fn put(&self, kind: StatusKind, name: Name, object: ObservedObject) {
        self.objects.write().insert((kind, name), Arc::new(object));
        self.changed.send_modify(|count| *count += 1);
    }

    /// An object is gone.
    pub fn remove(&self, kind: StatusKind, name: &Name) {
        self.objects.write().remove(&(kind, name.clone()));
        self.changed.send_modify(|count| *count += 1);
    }

    /// These are all objects of a kind: others are gone.
    pub fn keep_only(&self, kind: StatusKind, names: &BTreeSet<Name>) {
        let mut objects = self.objects.write();
        objects.retain(|(known, name), _| *known != kind || names.contains(name));
        drop(objects);
        self.changed.send_modify(|count| *count += 1);
    }
}

impl Default for Observed {
    fn default() -> Self {
        Self::new()
    }
}

/// Takes over what one watch sees, before it is trimmed.
pub(super) struct Sight {
    observed: Arc<Observed>,
    kind: StatusKind,
    /// The names of a list that is not complete yet.
    listed: BTreeSet<Name>,
}

impl Sight {
    pub(super) fn new(observed: Arc<Observed>, kind: StatusKind) -> Self {
        Self {
            observed,
            kind,
            listed: BTreeSet::new(),
        }
    }

    pub(super) fn restarted(&mut self) {
        self.listed.clear();
    }

    pub(super) fn listed(&mut self, object: &mut DynamicObject) {
        self.listed.insert(name_of(&object.metadata));
        self.applied(object);
    }

    pub(super) fn complete(&mut self) {
        let listed = std::mem::take(&mut self.listed);
        self.observed.keep_only(self.kind, &listed);
    }

    /// The status is taken out of the object: nobody behind this needs it.
    pub(super) fn applied(&self, object: &mut DynamicObject) {
        let metadata = &object.metadata;
        let seen = ObservedObject {
            uid: metadata.uid.clone().unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            resource_version: metadata.resource_version.clone().unwrap_or_default(),
            status: object
                .data
                .get_mut("status")
                .map_or(Value::Null, Value::take),
        };
        self.observed.put(self.kind, name_of(metadata), seen);
    }

    pub(super) fn deleted(&self, name: &Name) {
        self.observed.remove(self.kind, name);
    }
}
