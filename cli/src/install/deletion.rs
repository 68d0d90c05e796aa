//! What goes when a mesh goes: its objects' names, in the order in which they are to be deleted.
//!
//! * The webhook's configuration is first: no pod is refused for a webhook that nobody serves.
//! * What the control plane makes in its namespace comes after its permissions, so that it is not made again.
//! * The namespace is last, with whatever else is in it.
//! * Definitions stay, and so does every policy.

use std::fmt::Write as _;

use serde_json::Value;
use weft_proto::names::cluster;

use super::rendering::{HIGHLY_AVAILABLE, PLAIN, rendered};
use super::values::Values;

/// What a definition is, which is kept.
const DEFINITION: &str = "CustomResourceDefinition";
const WEBHOOK_CONFIGURATION: &str = "MutatingWebhookConfiguration";

/// Which object is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) name: String,
    /// None of what belongs to the cluster.
    pub(super) namespace: Option<String>,
}

impl Identity {
    /// Of an object as a manifest has it.
    pub(super) fn of(object: &Value) -> Option<Self> {
        let text = |pointer: &str| object.pointer(pointer)?.as_str().map(str::to_owned);
        Some(Self {
            api_version: text("/apiVersion")?,
            kind: text("/kind")?,
            name: text("/metadata/name")?,
            namespace: text("/metadata/namespace"),
        })
    }

    fn of_namespace(name: &str) -> Self {
        Self {
            api_version: "v1".to_owned(),
            kind: "Namespace".to_owned(),
            name: name.to_owned(),
            namespace: None,
        }
    }

    fn document(&self) -> String {
        let mut text = format!(
            "---\napiVersion: {}\nkind: {}\nmetadata:\n  name: {}\n",
            self.api_version, self.kind, self.name
        );
        if let Some(namespace) = &self.namespace {
            let _ = writeln!(text, "  namespace: {namespace}");
        }
        text
    }
}

/// YAML documents with nothing but names.
pub(super) fn manifest(values: &Values, keeps_namespace: bool) -> String {
    let doomed = doomed(values, keeps_namespace);
    doomed.iter().map(Identity::document).collect()
}

/// Everything that either rendering has and what the control plane makes itself, in order.
pub(super) fn doomed(values: &Values, keeps_namespace: bool) -> Vec<Identity> {
    let mut doomed: Vec<Identity> = Vec::new();
    for rendering in [HIGHLY_AVAILABLE, PLAIN] {
        // The other way round than they are made.
        for object in objects(&rendered(rendering, values)).iter().rev() {
            let identity = Identity::of(object).expect("a rendering has named objects");
            if identity.kind != DEFINITION && !doomed.contains(&identity) {
                doomed.push(identity);
            }
        }
    }
    doomed.sort_by_key(|identity| identity.kind != WEBHOOK_CONFIGURATION);
    doomed.extend(made_by_the_control_plane(&values.namespace));
    if !keeps_namespace {
        doomed.push(Identity::of_namespace(&values.namespace));
    }
    doomed
}

/// What no manifest has. In other namespaces than its own, where no list can name them, there are more
/// trust bundles.
fn made_by_the_control_plane(namespace: &str) -> impl Iterator<Item = Identity> {
    let made = [
        ("coordination.k8s.io/v1", "Lease", cluster::LEASE),
        ("v1", "Secret", cluster::WEBHOOK_SECRET),
        ("v1", "Secret", cluster::AUTHORITY_SECRET),
        ("v1", "ConfigMap", cluster::TRUST_BUNDLE),
    ];
    made.into_iter()
        .map(move |(api_version, kind, name)| Identity {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            namespace: Some(namespace.to_owned()),
        })
}

/// The objects of a manifest of ours.
pub(super) fn objects(manifest: &str) -> Vec<Value> {
    let objects: Vec<Value> =
        serde_saphyr::from_multiple(manifest).expect("a rendering is YAML, as tests see");
    let objects = objects.into_iter();
    objects.filter(|object| !object.is_null()).collect()
}
