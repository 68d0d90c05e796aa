//! `ReferenceGrant`: who may refer to a namespace's objects from outside of it.

use serde::Deserialize;
use serde_json::Value;

use super::{BackendRef, GROUP, Route, is_core};
use crate::policy::{Metadata, Violation};

/// A grant, as far as it is about routes and services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceGrant {
    /// Whose objects may be referred to.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// From where.
    from: Vec<From>,
    /// To what.
    to: Vec<To>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct From {
    group: String,
    kind: String,
    namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct To {
    group: String,
    kind: String,
    #[serde(default)]
    name: Option<String>,
}

#[derive(Deserialize)]
struct Manifest {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    from: Vec<From>,
    to: Vec<To>,
}

impl ReferenceGrant {
    /// The kind as manifests carry it.
    pub const KIND: &str = "ReferenceGrant";

    /// Reads a manifest.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(manifest: &Value) -> Result<Self, Vec<Violation>> {
        let Manifest { metadata, spec } = Manifest::deserialize(manifest).map_err(|error| {
            vec![Violation {
                path: String::new(),
                reason: error.to_string(),
                mend: String::new(),
            }]
        })?;
        Ok(Self {
            namespace: metadata.namespace,
            name: metadata.name,
            from: spec.from,
            to: spec.to,
        })
    }

    /// Whether it lets `route` refer to `backend`.
    pub fn permits(&self, route: &Route, backend: &BackendRef) -> bool {
        let from = |from: &From| {
            from.group == GROUP
                && from.kind == route.kind.as_str()
                && from.namespace == route.namespace
        };
        let to = |to: &To| {
            let same_group =
                to.group == backend.group || (is_core(&to.group) && is_core(&backend.group));
            let named = to.name.as_ref().is_none_or(|name| *name == backend.name);
            same_group && to.kind == backend.kind && named
        };
        self.namespace == backend.namespace && self.from.iter().any(from) && self.to.iter().any(to)
    }
}
