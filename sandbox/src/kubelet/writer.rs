//! What a kubelet writes about a pod to the API server, again and again until it takes it.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};

use super::{Shared, key_of};

/// Pause before something is written again that could not be.
pub(super) const WRITE_PAUSE: Duration = Duration::from_millis(200);

/// Writes to the pod's object.
pub(super) struct Writer {
    api: Api<core::Pod>,
    name: String,
    uid: Option<String>,
}

impl Writer {
    pub(super) fn new(shared: &Shared, object: &core::Pod) -> Self {
        let (namespace, name) = key_of(object);
        Self {
            api: Api::namespaced(shared.client.clone(), &namespace),
            name,
            uid: object.metadata.uid.clone(),
        }
    }

    pub(super) async fn write(&self, status: &Value) -> Result<(), kube::Error> {
        let merge = Patch::Merge(json!({"metadata": {"uid": self.uid}, "status": status}));
        let params = PatchParams::default();
        let written = self.api.patch_status(&self.name, &params, &merge).await;
        written.map(|_| ())
    }

    /// Until it is written, or there is nothing to write to.
    pub(super) async fn insist(&self, status: &Value) {
        while let Err(error) = self.write(status).await {
            if is_gone(&error) {
                return;
            }
            tokio::time::sleep(WRITE_PAUSE).await;
        }
    }

    /// Takes the pod away, which has ended.
    pub(super) async fn remove(&self) {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: self.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        while let Err(error) = self.api.delete(&self.name, &params).await {
            if is_gone(&error) {
                return;
            }
            tokio::time::sleep(WRITE_PAUSE).await;
        }
    }
}

/// Whether the object is not there any more, or is another one of the same name.
fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if [404, 409].contains(&status.code))
}
