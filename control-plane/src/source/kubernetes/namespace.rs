//! Namespaces, of which only their metadata is asked for.

use k8s_openapi::api::core::v1;
use kube::core::PartialObjectMeta;
use weft_proto::names::{INJECT_ENABLED, INJECT_LABEL};

use super::event::{Trimmed, name_of};
use crate::index::Name;

/// A namespace whose pods get sidecars. Others are not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Injected;

impl Injected {
    pub(super) fn trim(namespace: PartialObjectMeta<v1::Namespace>) -> (Name, Option<Self>) {
        let metadata = namespace.metadata;
        let name = name_of(&metadata);
        let labels = metadata.labels.unwrap_or_default();
        let wanted = labels.get(INJECT_LABEL).map(String::as_str) == Some(INJECT_ENABLED);
        // Nothing can be created any more in one that is ending.
        let wanted = wanted && metadata.deletion_timestamp.is_none();
        (name, wanted.then_some(Self))
    }
}

impl Trimmed for Injected {}
