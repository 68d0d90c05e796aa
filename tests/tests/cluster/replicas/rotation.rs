//! A rotation of the root while the replica that leads is killed: another one goes on where it was.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde_json::Value;
use weft_proto::names::{cluster, env, ports};
use weft_sandbox::Mesh;
use weft_sandbox::process::Program;
use weft_tests::counts::wait_for;

use super::scene::Scene;
use super::{LEASE, leader_and_other, replicated};
use crate::common::Cx;

/// So short that each phase takes seconds.
const LEAF: &str = "8s";
/// What one phase may take on a busy machine.
const PHASE: Duration = Duration::from_secs(50);

/// "Rotation under load with two control-plane replicas: 0 failed; the old root gone at the end." It is asked
/// for at the replica that does not lead, and the one that leads is killed as soon as the new root is
/// published.
pub(super) async fn leader_killed(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    let builder = replicated("rotation", LEASE).control_plane_env(env::LEAF_LIFETIME, LEAF);
    cx.on(&cluster, builder, async |mesh| {
        let mut scene = Scene::begin(&cluster, mesh).await?;
        scene.expect_renewals();
        let (leader, other) = leader_and_other(&cluster, mesh).await?;
        let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), mesh.namespace());
        let bundle = async || -> anyhow::Result<String> {
            let map = maps.get(cluster::TRUST_BUNDLE).await?;
            let text = map.data.and_then(|mut data| data.remove(cluster::TRUST_BUNDLE_KEY));
            text.context("no bundle")
        };
        let (old_bundle, old_root) = (bundle().await?, root(mesh, &other).await?);
        let begin = Instant::now();
        let said = rotate(mesh, &other).await?;
        assert!(said.contains("the replica that leads begins it"), "{said}");
        in_phase(mesh, &other, Some("publish")).await?;
        mesh.kill_replica(&leader).await?;
        let published = begin.elapsed();
        // Nothing is skipped for that, and nobody who signs begins before the others know.
        mesh.start_replica(&leader)?;
        mesh.wait_for_replica(&leader).await?;
        in_phase(mesh, &other, Some("sign")).await?;
        let signs = begin.elapsed();
        assert_eq!(bundle().await?.matches("BEGIN CERTIFICATE").count(), 2);
        in_phase(mesh, &other, None).await?;
        let ended = begin.elapsed();

        for replica in [&leader, &other] {
            in_phase(mesh, replica, None).await?;
            assert_ne!(root(mesh, replica).await?, old_root);
        }
        let new_root = root(mesh, &other).await?;
        wait_for("the bundle of the new root", PHASE, async || {
            let now = bundle().await?;
            Ok((now != old_bundle && now.matches("BEGIN CERTIFICATE").count() == 1).then_some(()))
        })
        .await?;
        wait_for("sidecars that trust the new root only", PHASE, async || {
            let mut all = true;
            for workload in mesh.workloads() {
                let answer = mesh.admin_get(&workload, "/config").await?;
                let config: Value = serde_json::from_slice(&answer.body)?;
                let roots = &config["health"]["identity"]["rootFingerprints"];
                all &= *roots == serde_json::json!([new_root]);
            }
            Ok(all.then_some(()))
        })
        .await?;
        let age = scene.end(&cx).await?;
        cx.measured(format!(
            "published and the leader killed after {published:.1?}, signing after {signs:.1?}, the old root \
             gone after {ended:.1?}; configuration at most {age:.1} s old"
        ));
        Ok(())
    })
    .await
}

async fn identity(mesh: &Mesh, replica: &str) -> anyhow::Result<Value> {
    let answer = mesh.replica_get(replica, "/identity").await?;
    anyhow::ensure!(answer.status == 200, "{}", answer.text());
    Ok(serde_json::from_slice(&answer.body)?)
}

async fn in_phase(mesh: &Mesh, replica: &str, phase: Option<&str>) -> anyhow::Result<()> {
    wait_for(&format!("{phase:?} at {replica}"), PHASE, async || {
        // Right after its start it has none.
        let Ok(identity) = identity(mesh, replica).await else {
            return Ok(None);
        };
        let now = identity["rotation"]["phase"].as_str();
        Ok((now == phase).then_some(()))
    })
    .await
}

/// The root that signs.
async fn root(mesh: &Mesh, replica: &str) -> anyhow::Result<String> {
    let identity = identity(mesh, replica).await?;
    let root = identity["certificates"][0]["fingerprint"].as_str();
    Ok(root.context("no root")?.to_owned())
}

async fn rotate(mesh: &Mesh, replica: &str) -> anyhow::Result<String> {
    let pod = mesh.replica_pod(replica)?;
    let server = format!("http://127.0.0.1:{}", ports::ADMIN);
    let command = Program::new(env!("CARGO_BIN_EXE_weft-under-test"))
        .args(["identity", "rotate", "root", "--yes", "--server", &server])
        .command();
    let output = pod.output(command).await?;
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{error}");
    Ok(String::from_utf8(output.stdout)?)
}
