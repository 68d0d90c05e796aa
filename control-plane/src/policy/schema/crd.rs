//! The custom resource definition.

use serde_json::{Value, json};
use weft_proto::names;

use super::words::OWN;
use super::{SPEC, STATUS};

/// Says who wrote the file; the first line of it.
const HEAD: &str = "# Made from the types in control-plane/src/policy by `weft internal crd`; not edited by hand.\n";

/// The custom resource definition as YAML. It has no `{{`, so that it can be a template of a chart.
pub fn crd() -> String {
    let options = serde_saphyr::ser_options! {
        prefer_block_scalars: false,
    };
    let mut text = HEAD.to_owned();
    serde_saphyr::to_fmt_writer_with_options(&mut text, &definition(), options)
        .expect("JSON can always be written as YAML");
    text
}

fn definition() -> Value {
    let column = |name: &str, kind: &str, path: &str, priority: u8| {
        let mut column = json!({"name": name, "type": kind, "jsonPath": path});
        if priority > 0 {
            column["priority"] = priority.into();
        }
        column
    };
    let condition =
        |name: &str, part: &str| format!(r#".status.conditions[?(@.type=="{name}")].{part}"#);
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("trafficpolicies.{}", names::API_GROUP),
            "labels": {"gateway.networking.k8s.io/policy": "Inherited"},
            "annotations": {"helm.sh/resource-policy": "keep"},
        },
        "spec": {
            "group": names::API_GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names::TRAFFIC_POLICY_KIND,
                "listKind": "TrafficPolicyList",
                "plural": "trafficpolicies",
                "singular": "trafficpolicy",
                "shortNames": ["tp"],
                "categories": ["mesh", "gateway-api"],
            },
            "versions": [{
                "name": "v1alpha1",
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    column("Kind", "string", ".spec.targetRefs[0].kind", 1),
                    column("Target", "string", ".spec.targetRefs[0].name", 0),
                    column("mTLS", "string", ".spec.mtls.mode", 1),
                    column("Accepted", "string", &condition("Accepted", "status"), 0),
                    column("Programmed", "string", &condition("Programmed", "status"), 0),
                    column("Reason", "string", &condition("Accepted", "reason"), 1),
                    column("Proxies", "integer", ".status.proxies.acknowledged", 1),
                    column("Age", "date", ".metadata.creationTimestamp", 0),
                ],
                "schema": {"openAPIV3Schema": {
                    "description":
                        "TrafficPolicy shapes, protects and secures traffic to the services that it targets.",
                    "type": "object",
                    "required": ["spec"],
                    "properties": {
                        "apiVersion": {"type": "string"},
                        "kind": {"type": "string"},
                        "metadata": {"type": "object"},
                        "spec": public(&SPEC),
                        "status": public(&STATUS),
                    },
                }},
            }],
        },
    })
}

/// A schema without what this crate keeps in it for itself.
fn public(schema: &Value) -> Value {
    match schema {
        Value::Object(object) => {
            let fields = object.iter().filter(|(key, _)| !key.starts_with(OWN));
            let fields = fields.map(|(key, value)| {
                let value = match key.as_str() {
                    "x-kubernetes-validations" => without_mends(value),
                    // Values, not schemas.
                    "default" | "enum" | "required" => value.clone(),
                    _ => public(value),
                };
                (key.clone(), value)
            });
            Value::Object(fields.collect())
        }
        Value::Array(items) => items.iter().map(public).collect(),
        other => other.clone(),
    }
}

fn without_mends(rules: &Value) -> Value {
    let rules = rules.as_array().into_iter().flatten();
    let rules = rules.filter_map(Value::as_object).map(|rule| {
        let parts = rule.iter().filter(|(key, _)| *key != "mend");
        let parts = parts.map(|(key, value)| (key.clone(), value.clone()));
        Value::Object(parts.collect())
    });
    rules.collect()
}
