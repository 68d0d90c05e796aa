//! The schema of `TrafficPolicy`, made from the types, and what is made from it: the custom resource
//! definition and the reference page.
//!
//! It is structural, as Kubernetes wants it: no references, every object's fields named, no `null`.

mod crd;
mod page;
mod structural;
#[cfg(test)]
mod tests;
pub(crate) mod words;

use std::sync::LazyLock;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};
use weft_proto::names;

use super::spec::TrafficPolicySpec;
use super::status::TrafficPolicyStatus;
pub use crd::crd;
pub use page::page;

/// The schema of `spec`, with what this crate keeps in it for itself.
pub(super) static SPEC: LazyLock<Value> = LazyLock::new(of::<TrafficPolicySpec>);
/// The schema of `status`.
static STATUS: LazyLock<Value> = LazyLock::new(of::<TrafficPolicyStatus>);

/// The schema of a whole manifest: the envelope as an API server checks it, and `spec`. The status is
/// nobody's to write and not looked at.
pub(super) fn manifest() -> Value {
    let strings = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let ignored = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"type": "string", "enum": [names::API_VERSION]},
            "kind": {"type": "string", "enum": [names::TRAFFIC_POLICY_KIND]},
            "metadata": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "annotations": strings,
                    "creationTimestamp": {"type": "string"},
                    "deletionGracePeriodSeconds": {"type": "integer"},
                    "deletionTimestamp": {"type": "string"},
                    "finalizers": {"type": "array", "items": {"type": "string"}},
                    "generateName": {"type": "string"},
                    "generation": {"type": "integer"},
                    "labels": {
                        "type": "object",
                        "additionalProperties": {
                            "type": "string", "maxLength": 63, "pattern": words::LABEL_VALUE,
                        },
                    },
                    "managedFields": {"type": "array", "items": ignored},
                    "name": {"type": "string", "maxLength": 253, "pattern": words::SUBDOMAIN},
                    "namespace": {"type": "string", "maxLength": 63, "pattern": words::LABEL},
                    "ownerReferences": {"type": "array", "items": ignored},
                    "resourceVersion": {"type": "string"},
                    "selfLink": {"type": "string"},
                    "uid": {"type": "string"},
                },
            },
            "spec": *SPEC,
            "status": ignored,
        },
    })
}

fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
    });
    let mut schema = settings
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value();
    structural::rewrite(&mut schema);
    schema
}
