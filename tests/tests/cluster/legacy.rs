//! Sidecars that are containers like their application's: who waits for them, and how they end.

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::Context as _;
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
    let needs = Needs::default();
    suite.add(
        "legacy::a_sidecar_ends_with_its_application",
        needs,
        completed,
    );
    suite.add(
        "legacy::who_waits_is_told_what_is_missing",
        needs,
        never_ready,
    );
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
    let mesh = client_and("legacy", [])
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
            let status = ended.with_context(|| format!("{name} goes on"))?;
            assert_eq!(status.code(), Some(0), "{name}");
        }
        wait_for("the native sidecar to know", CHANGE, async || {
            let known = config(mesh, "native").await?;
            Ok(known.contains("application_ended: true").then_some(()))
        })
        .await?;
        tokio::time::sleep(NOT_WITHIN).await;
        for name in ["native", "failed", "client"] {
            let ended = mesh.sidecar(name)?.ended()?;
            assert!(ended.is_none(), "{name}: {ended:?}");
        }
        let failed = config(mesh, "failed").await?;
        assert!(failed.contains("application_ended: false"), "{failed}");
        Ok(())
    })
    .await
}

/// While the control plane is away, `await` says in vain what the sidecar lacks; told to end then, it fails,
/// so that a kubelet starts it again. One that was ready ends well, and while it is, `await` does at once.
async fn never_ready(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    let short = Duration::from_millis(400);
    let mesh = client_and("waits", [])
        .workload(job(http_app("api-1"), "legacy", "OnFailure").drain_timeout(short));
    cx.on(&cluster, mesh, async |mesh| {
        let ready = awaits(mesh, "api-1", "30s").await?;
        assert_eq!(
            (ready.status.code(), said(&ready)),
            (Some(0), String::new())
        );
        let first = mesh.sidecar("api-1")?;
        mesh.stop_sidecar("api-1").await?;
        assert_eq!(first.ended()?.and_then(|status| status.code()), Some(0));
        let nobody = awaits(mesh, "api-1", "300ms").await?;
        assert_eq!(nobody.status.code(), Some(1));
        assert!(
            said(&nobody).contains("does not answer"),
            "{}",
            said(&nobody)
        );

        mesh.kill_control_plane().await?;
        let looks = async {
            // It starts at the same time.
            let lacking = wait_for("what is missing", CHANGE, async || {
                let lacking = awaits(mesh, "api-1", "300ms").await?;
                Ok(said(&lacking).contains("missing: ").then_some(lacking))
            });
            let lacking = lacking.await?;
            assert_eq!(lacking.status.code(), Some(1));
            assert!(said(&lacking).contains("certificate"), "{}", said(&lacking));
            let sidecar = mesh.sidecar("api-1")?;
            sidecar.terminate()?;
            sidecar.wait(CHANGE).await?.context("it goes on")
        };
        let status = tokio::select! {
            // An error is that it was told to end, which whoever looks sees too.
            Ok(()) = mesh.start_sidecar("api-1") => anyhow::bail!("ready without a control plane"),
            status = looks => status?,
        };
        assert_eq!(status.code(), Some(1));
        mesh.start_control_plane().await?;
        mesh.start_sidecar("api-1").await?;
        assert!(awaits(mesh, "api-1", "30s").await?.status.success());
        Ok(())
    })
    .await
}

/// `weft-proxy await` in a pod.
async fn awaits(mesh: &Mesh, workload: &str, patience: &str) -> anyhow::Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft-under-test"));
    command.args(["internal", "proxy", "await", "--timeout", patience]);
    Ok(mesh.pod(workload).output(command).await?)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
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
