//! Applications that end by themselves, beside sidecars that Kubernetes does not end.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use weft_proto::names::env;
use weft_sandbox::{Mesh, Workload};
use weft_tests::counts::wait_for;

use crate::common::{CHANGE, Cluster, Cx, client_and, http_app};
use crate::{Needs, Suite};

/// How long what must not happen is waited for, after the same has happened elsewhere.
const NOT_WITHIN: Duration = Duration::from_secs(2);

pub(crate) fn register(suite: &mut Suite) {
    let name = "jobs::a_legacy_sidecar_ends_with_its_application";
    suite.add(name, Needs::default(), completed);
}

fn job(workload: Workload, mode: &str, restart_policy: &str) -> Workload {
    workload
        .env(env::SIDECAR_MODE, mode)
        .restart_policy(restart_policy)
}

/// Of the sidecars of pods whose application has ended, legacy ones end with exit code 0, whether they
/// have ports or not; a native one knows and stays. So does one whose application starts again.
async fn completed(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    let mesh = client_and("jobs", [])
        .workload(job(Workload::new("once"), "legacy", "Never"))
        .workload(job(http_app("served"), "legacy", "OnFailure"))
        .workload(job(http_app("native"), "native", "Never"))
        .workload(job(http_app("failed"), "legacy", "OnFailure"));
    cx.on(&cluster, mesh, async |mesh| {
        for (name, code) in [("native", 0), ("failed", 1), ("served", 0), ("once", 7)] {
            app_ends(&cluster, mesh, name, code).await?;
        }
        for name in ["once", "served"] {
            let ended = mesh.sidecar(name)?.wait(CHANGE).await?;
            let status = ended.ok_or_else(|| anyhow::anyhow!("{name} goes on"))?;
            assert_eq!(status.code(), Some(0), "{name}");
        }
        wait_for("the native sidecar to know", CHANGE, async || {
            let known = config(mesh, "native").await?;
            Ok(known.contains("application_ended: true").then_some(()))
        })
        .await?;
        for name in ["native", "failed", "client"] {
            let ended = mesh.sidecar(name)?.wait(NOT_WITHIN).await?;
            assert!(ended.is_none(), "{name}: {ended:?}");
        }
        let failed = config(mesh, "failed").await?;
        assert!(failed.contains("application_ended: false"), "{failed}");
        Ok(())
    })
    .await
}

/// Says what a kubelet says of a pod whose application has ended.
async fn app_ends(cluster: &Cluster, mesh: &Mesh, pod: &str, code: i32) -> anyhow::Result<()> {
    let of = |name: &str, state: serde_json::Value| {
        json!({"name": name, "image": "none", "imageID": "", "ready": false, "restartCount": 0,
               "state": state})
    };
    let statuses = [
        of("app", json!({"terminated": {"exitCode": code}})),
        of("weft-proxy", json!({"running": {}})),
    ];
    let merge = Patch::Merge(json!({"status": {"containerStatuses": statuses}}));
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), mesh.namespace());
    api.patch_status(pod, &PatchParams::default(), &merge)
        .await?;
    Ok(())
}

/// What a sidecar says that it knows.
async fn config(mesh: &Mesh, workload: &str) -> anyhow::Result<String> {
    let answer = mesh.admin_get(workload, "/config").await?;
    Ok(String::from_utf8_lossy(&answer.body).into_owned())
}
