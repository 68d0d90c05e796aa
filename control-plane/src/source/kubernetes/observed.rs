//! Objects with a status, as the API server has them: what whoever writes statuses compares with.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde_json::Value;
use tokio::sync::watch;

use crate::index::Name;

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
}

impl Default for Observed {
    fn default() -> Self {
        Self::new()
    }
}
