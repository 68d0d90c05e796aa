//! One write of a status.

use std::time::Duration;

use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::timeout;
use weft_proto::names::{API_VERSION, TRAFFIC_POLICY_KIND};

use super::schedule::Outcome;
use crate::index::Name;
use crate::route::RouteKind;
use crate::source::kubernetes::observed::{ObservedObject, StatusKind};

/// How long the API server may take for one.
const PATIENCE: Duration = Duration::from_secs(10);
/// Who manages the fields.
const MANAGER: &str = "weft-control-plane";
/// The API version of routes.
const ROUTES: &str = "gateway.networking.k8s.io/v1";

/// The API version and kind of what has a status.
pub(super) fn type_of(kind: StatusKind) -> (&'static str, &'static str) {
    match kind {
        StatusKind::TrafficPolicy => (API_VERSION, TRAFFIC_POLICY_KIND),
        StatusKind::HttpRoute => (ROUTES, RouteKind::Http.as_str()),
        StatusKind::GrpcRoute => (ROUTES, RouteKind::Grpc.as_str()),
    }
}

/// Writes a status over one version of an object, and says what there is then, or what went wrong.
pub(super) async fn write(
    client: Client,
    kind: StatusKind,
    name: Name,
    version: String,
    status: Value,
) -> Result<ObservedObject, (Outcome, String)> {
    let (api_version, word) = type_of(kind);
    let (group, api_version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, api_version, word));
    let api: Api<DynamicObject> = Api::namespaced_with(client, &name.namespace, &resource);
    let patch = Patch::Merge(json!({
        "metadata": {"resourceVersion": version},
        "status": status,
    }));
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let written = timeout(PATIENCE, api.patch_status(&name.name, &params, &patch));
    let written = written.await.map_err(|_| {
        let why = format!("no answer within {} s", PATIENCE.as_secs());
        (Outcome::Unreachable, why)
    })?;
    let mut object = written.map_err(|error| {
        let outcome = match &error {
            kube::Error::Api(status) => match status.code {
                404 => Outcome::Gone,
                409 => Outcome::Conflict,
                429 | 500.. => Outcome::Unreachable,
                _ => Outcome::Refused,
            },
            _ => Outcome::Unreachable,
        };
        (outcome, error.to_string())
    })?;
    let status = object.data.get_mut("status");
    Ok(ObservedObject {
        status: status.map_or(Value::Null, Value::take),
        uid: object.metadata.uid.unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
        resource_version: object.metadata.resource_version.unwrap_or_default(),
    })
}
