//! Definitions of the Gateway API's kinds that the mesh reads, as small as they can be: everything in
//! `spec` and `status` is kept as it is written, and nothing is judged. For any API server, a real one
//! among them.

use serde_json::{Value, json};

use crate::apiserver::ApiServer;

/// The group of all of them.
pub const GROUP: &str = "gateway.networking.k8s.io";

/// `HTTPRoute`, `GRPCRoute` and `ReferenceGrant`.
pub fn all() -> [Value; 3] {
    [http_routes(), grpc_routes(), reference_grants()]
}

/// `HTTPRoute` v1.
pub fn http_routes() -> Value {
    definition("HTTPRoute", &["v1"], true)
}

/// `GRPCRoute` v1.
pub fn grpc_routes() -> Value {
    definition("GRPCRoute", &["v1"], true)
}

/// `ReferenceGrant` v1beta1, which has no status.
pub fn reference_grants() -> Value {
    definition("ReferenceGrant", &["v1beta1"], false)
}

/// `ReferenceGrant` as v1 too, which the newest of these definitions have.
pub fn newer_reference_grants() -> Value {
    definition("ReferenceGrant", &["v1", "v1beta1"], false)
}

/// The name of a kind's definition.
pub fn name_of(kind: &str) -> String {
    format!("{}s.{GROUP}", kind.to_lowercase())
}

/// Creates all of them.
///
/// # Errors
/// What the server says against one.
pub async fn install(server: &ApiServer) -> anyhow::Result<()> {
    for definition in all() {
        server.put(&definition).await?;
    }
    Ok(())
}

/// The first version is the one that is stored.
fn definition(kind: &str, versions: &[&str], has_status: bool) -> Value {
    let singular = kind.to_lowercase();
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let subresources = if has_status {
        json!({"status": {}})
    } else {
        json!({})
    };
    let versions = versions.iter().enumerate().map(|(at, version)| {
        json!({
            "name": version, "served": true, "storage": at == 0,
            "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": open, "status": open},
            }},
            "subresources": subresources,
        })
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": name_of(kind),
            // Without it no cluster takes a definition for this group.
            "annotations": {"api-approved.kubernetes.io": "unapproved, made for tests"},
        },
        "spec": {
            "group": GROUP, "scope": "Namespaced",
            "names": {"kind": kind, "listKind": format!("{kind}List"), "singular": singular,
                      "plural": format!("{singular}s")},
            "versions": versions.collect::<Vec<_>>(),
        },
    })
}
