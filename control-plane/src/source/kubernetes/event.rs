//! What watches say, and how soon it matters.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::index::Name;

/// What a watch says about objects of one kind.
#[derive(Clone, Debug)]
pub(super) enum Event<T> {
    /// All objects will be listed from the start; until they are, what is known stays.
    Restarted,
    /// One of the list.
    Listed(Name, Option<T>),
    /// That was the list: what is not in it is gone.
    Complete,
    /// It is new, or has changed. `None` where nothing of it concerns the mesh.
    Applied(Name, Option<T>),
    /// It was deleted.
    Deleted(Name),
    /// The cluster does not have this kind, and so no object of it.
    Absent,
    /// Nobody tells whether there are objects of it. What is known stays.
    Forbidden,
}

/// How soon a change must reach the sidecars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// Nothing has changed for the mesh.
    #[default]
    Nothing,
    /// It may wait for others like it.
    Soon,
    /// Requests may be going where they must not.
    Now,
}

/// An object as far as it is kept. Equal ones mean the same to the mesh.
pub(super) trait Trimmed: Sized + PartialEq {
    /// Takes over what an earlier version of it knew.
    fn inherit(&mut self, _before: &Self) {}

    /// How soon it matters that `next` is there instead.
    fn change(&self, _next: &Self) -> Urgency {
        Urgency::Now
    }
}

pub(super) fn name_of(metadata: &ObjectMeta) -> Name {
    Name::new(
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

/// A port's number, as which Kubernetes has an `int32`.
pub(super) fn port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}
