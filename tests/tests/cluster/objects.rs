//! Policies made and changed as people and programs do it: traffic follows.

use serde_json::json;
use weft_sandbox::mesh::Builder;
use weft_tests::counts::assert_all_served_once;

use crate::common::{
    Cx, client_and, count, http_app, load, moved_to, policy, reaches, service, stats,
};
use crate::{Needs, Suite};

pub(crate) fn register(suite: &mut Suite) {
    suite.add("objects::kube_rs", Needs::default(), kube_rs);
    let needs = Needs {
        kubectl: true,
        ..Needs::default()
    };
    suite.add("objects::kubectl", needs, kubectl);
}

/// A client, `api` and two more services to move its traffic to.
fn three_services(name: &str) -> Builder {
    client_and(name, ["api-1"])
        .workload(http_app("blue-1"))
        .workload(http_app("green-1"))
        .service(service("blue", ["blue-1"]))
        .service(service("green", ["green-1"]))
}

/// A policy is created, patched and deleted through kube-rs: every request is served once, by whom the
/// policy says.
async fn kube_rs(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    cx.on(&cluster, three_services("kube"), async |mesh| {
        let namespace = mesh.namespace();
        let load = load(mesh, "api");
        reaches(&load, "api-1").await?;
        let made = policy(namespace, "api", "api", &moved_to("blue"));
        cluster.create_policy(namespace, &made).await?;
        let created = reaches(&load, "blue-1").await?;
        let split = json!({"spec": {"split": {"backends": [{"name": "green", "weight": 1}]}}});
        cluster.merge_policy(namespace, "api", &split).await?;
        let changed = reaches(&load, "green-1").await?;
        cluster.delete_policy(namespace, "api").await?;
        let deleted = reaches(&load, "api-1").await?;

        let report = load.stop().await;
        cx.measured(format!(
            "created {created:.1?}, changed {changed:.1?}, deleted {deleted:.1?} until traffic followed"
        ));
        let seen = stats(mesh, ["api-1", "blue-1", "green-1"]).await?;
        assert_all_served_once(&report, &seen);
        for app in ["api-1", "blue-1", "green-1"] {
            let at_server = mesh.app(app).stats().await?.requests;
            assert_eq!(at_server, count(&report, app), "requests that {app} saw");
        }
        Ok(())
    })
    .await
}

/// The same with `kubectl apply`, `patch`, `get` and `delete`.
async fn kubectl(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    cx.on(&cluster, three_services("kubectl"), async |mesh| {
        let namespace = mesh.namespace();
        let load = load(mesh, "api");
        reaches(&load, "api-1").await?;
        let made = policy(namespace, "api", "api", &moved_to("blue"));
        let said = cluster.kubectl(&["apply", "-f", "-"], &made).await?;
        assert!(said.contains("created"), "{said}");
        reaches(&load, "blue-1").await?;
        let made = policy(namespace, "api", "api", &moved_to("green"));
        let said = cluster.kubectl(&["apply", "-f", "-"], &made).await?;
        assert!(said.contains("configured"), "{said}");
        reaches(&load, "green-1").await?;
        let patch = json!({"spec": {"split": {"backends": [{"name": "blue", "weight": 1}]}}});
        let arguments = ["-n", namespace, "patch", "tp", "api", "--type=merge", "-p"];
        let patch = patch.to_string();
        let arguments: Vec<&str> = arguments.into_iter().chain([&*patch]).collect();
        cluster.kubectl(&arguments, "").await?;
        reaches(&load, "blue-1").await?;
        let arguments = ["-n", namespace, "get", "tp", "api", "-o", "json"];
        let said = cluster.kubectl(&arguments, "").await?;
        let said: serde_json::Value = serde_json::from_str(&said)?;
        assert_eq!(said["spec"]["split"]["backends"][0]["name"], "blue");
        let arguments = ["-n", namespace, "delete", "tp", "api"];
        cluster.kubectl(&arguments, "").await?;
        reaches(&load, "api-1").await?;

        let report = load.stop().await;
        let seen = stats(mesh, ["api-1", "blue-1", "green-1"]).await?;
        assert_all_served_once(&report, &seen);
        Ok(())
    })
    .await
}
