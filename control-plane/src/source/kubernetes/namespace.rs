//! Namespaces, of which only their metadata is asked for.

use k8s_openapi::api::core::v1;
use kube::core::PartialObjectMeta;
use weft_proto::names::{INJECT_ENABLED, INJECT_LABEL};

use super::event::{Trimmed, name_of};
use crate::index::Name;

/// A namespace that is not like others, which are not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Namespace {
    /// Its pods get sidecars, by a label of its own.
    Labelled,
    /// It is being removed: nothing can be created in it any more.
    Ending,
}

impl Namespace {
    pub(super) fn trim(namespace: PartialObjectMeta<v1::Namespace>) -> (Name, Option<Self>) {
        let metadata = namespace.metadata;
        let name = name_of(&metadata);
        if metadata.deletion_timestamp.is_some() {
            return (name, Some(Self::Ending));
        }
        let labels = metadata.labels.unwrap_or_default();
        let wanted = labels.get(INJECT_LABEL).map(String::as_str) == Some(INJECT_ENABLED);
        (name, wanted.then_some(Self::Labelled))
    }
}

impl Trimmed for Namespace {}
