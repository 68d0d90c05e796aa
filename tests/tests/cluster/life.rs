//! Pods come and go, services change their name: nobody's request fails.

use std::net::SocketAddr;
use std::time::Duration;

use weft_sandbox::client::Answer;
use weft_sandbox::mesh::Builder;
use weft_sandbox::{Mesh, Pod};
use weft_tests::counts::{add, assert_all_served_once, assert_no_failure, last_stats, wait_for};

use crate::common::{
    CHANGE, Cluster, Cx, PORT, client_and, count, http_app, load, moved_to, policy, reaches,
    reaches_within, service, stats,
};
use crate::{Needs, Suite};

/// How long a control plane may take to be one again.
const RETURN: Duration = Duration::from_secs(20);

pub(crate) fn register(suite: &mut Suite) {
    suite.add("life::scaled_up_and_down", Needs::default(), scaled);
    let needs = Needs {
        kubectl: true,
        ..Needs::default()
    };
    suite.add("life::a_deleted_pod_gets_nothing_more", needs, deleted);
    suite.add("life::a_service_is_renamed", Needs::default(), renamed);
    suite.add(
        "life::the_control_plane_is_another_one",
        Needs::default(),
        restarted,
    );
}

/// `api` with two pods behind it, and `steady`, which nothing happens to.
fn api_and_steady(name: &str) -> Builder {
    client_and(name, ["api-1", "api-2"])
        .workload(http_app("steady-1"))
        .service(service("steady", ["steady-1"]))
}

/// From two pods to four, and to one: those that go announce it, so nothing of either service fails, and
/// every request was served once.
async fn scaled(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    cx.on(&cluster, api_and_steady("scale"), async |mesh| {
        let steady = load(mesh, "steady");
        let api = load(mesh, "api");
        reaches(&api, "api-1").await?;
        mesh.add_workload(http_app("api-3")).await?;
        mesh.add_workload(http_app("api-4")).await?;
        mesh.set_endpoints("api", ["api-1", "api-2", "api-3", "api-4"])?;
        let added = reaches(&api, "api-3").await?;
        reaches(&api, "api-4").await?;

        let mut seen = weft_sandbox::app::Stats::default();
        for name in ["api-1", "api-2", "api-3"] {
            let app = mesh.app_process(name)?;
            mesh.remove_workload(name).await?;
            add(&mut seen, &last_stats(&app)?);
        }
        reaches(&api, "api-4").await?;
        let (api, steady) = (api.stop().await, steady.stop().await);
        add(&mut seen, &stats(mesh, ["api-4"]).await?);
        assert_all_served_once(&api, &seen);
        assert_all_served_once(&steady, &stats(mesh, ["steady-1"]).await?);
        cx.measured(format!(
            "{} and {} requests; a new pod after {added:.1?}",
            api.sent, steady.sent
        ));
        assert_eq!(pods(&cluster, mesh).await?, ["api-4", "client", "steady-1"]);
        Ok(())
    })
    .await
}

/// `kubectl delete pod`: it gets nothing more once it is terminating, though its slice still says that it
/// is ready; then its processes end, and with them the Pod.
async fn deleted(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    cx.on(&cluster, api_and_steady("delete"), async |mesh| {
        let steady = load(mesh, "steady");
        let api = load(mesh, "api");
        reaches(&api, "api-1").await?;
        let namespace = mesh.namespace();
        let arguments = ["-n", namespace, "delete", "pod", "api-1", "--wait=false"];
        cluster.kubectl(&arguments, "").await?;
        let pod = pod_api(&cluster, mesh).get("api-1").await?;
        assert!(pod.metadata.deletion_timestamp.is_some());

        // So many answers by the other one alone: the balancer would have chosen both.
        const IN_A_ROW: u64 = 40;
        let mut known = api.look(|report| (count(report, "api-1"), count(report, "api-2")));
        wait_for("an end of the traffic to the pod", CHANGE, async || {
            let now = api.look(|report| (count(report, "api-1"), count(report, "api-2")));
            if now.0 != known.0 {
                known = now;
            }
            Ok((now.1 - known.1 >= IN_A_ROW).then_some(()))
        })
        .await?;
        let app = mesh.app_process("api-1")?;
        let before = mesh.app("api-1").stats().await?.requests;
        mesh.remove_workload("api-1").await?;
        let mut seen = last_stats(&app)?;
        assert_eq!(seen.requests, before, "requests that came after that");
        assert!(pod_api(&cluster, mesh).get_opt("api-1").await?.is_none());
        reaches(&api, "api-2").await?;

        let (api, steady) = (api.stop().await, steady.stop().await);
        add(&mut seen, &stats(mesh, ["api-2"]).await?);
        assert_all_served_once(&api, &seen);
        assert_all_served_once(&steady, &stats(mesh, ["steady-1"]).await?);
        Ok(())
    })
    .await
}

/// A Service's name is its identity: the new one is another one, with another address. The policy that
/// names it acts from its beginning; the old name leads nowhere.
async fn renamed(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    cx.on(&cluster, api_and_steady("rename"), async |mesh| {
        let namespace = mesh.namespace();
        let steady = load(mesh, "steady");
        let client = mesh.pod("client");
        let old = mesh.addr("api", PORT);
        let answer = client.get(old, "/").await?;
        assert_eq!(answer.status, 200);
        // Of a service that is not there yet.
        let moved = policy(namespace, "shop", "shop", &moved_to("steady"));
        cluster.create_policy(namespace, &moved).await?;
        mesh.rename_service("api", "shop")?;
        let new = mesh.addr("shop", PORT);
        assert_ne!(old, new);
        wait_for("the new name's policy", CHANGE, async || {
            let answer = soon(&client, new, "/shop").await;
            Ok((answer.as_ref().and_then(by) == Some("steady-1".to_owned())).then_some(()))
        })
        .await?;
        wait_for("the old name's end", CHANGE, async || {
            let answer = soon(&client, old, "/old").await;
            Ok(answer
                .is_none_or(|answer| answer.status != 200)
                .then_some(()))
        })
        .await?;
        cluster.delete_policy(namespace, "shop").await?;
        wait_for("the pods behind the new name", CHANGE, async || {
            let by = soon(&client, new, "/shop").await.as_ref().and_then(by);
            Ok(by.is_some_and(|by| by.starts_with("api-")).then_some(()))
        })
        .await?;

        let steady = steady.stop().await;
        let mut seen = stats(mesh, ["steady-1"]).await?;
        let ours = seen.routes.remove("GET /shop").unwrap_or(0);
        seen.requests -= ours;
        assert_all_served_once(&steady, &seen);
        Ok(())
    })
    .await
}

/// The control plane is killed and another one is started, which knows what the cluster keeps: the
/// authority, so that sidecars of before and after believe each other, and what changed meanwhile.
async fn restarted(cx: Cx) -> anyhow::Result<()> {
    let cluster = cx.cluster().await?;
    cx.on(&cluster, api_and_steady("restart"), async |mesh| {
        let namespace = mesh.namespace();
        let steady = load(mesh, "steady");
        let api = load(mesh, "api");
        reaches(&api, "api-1").await?;
        mesh.kill_control_plane().await?;
        let moved = policy(namespace, "api", "api", &moved_to("steady"));
        cluster.create_policy(namespace, &moved).await?;
        reaches(&api, "api-2").await?;
        mesh.start_control_plane().await?;
        let back = reaches_within(&api, "steady-1", RETURN).await?;
        cluster.delete_policy(namespace, "api").await?;
        // Its certificate is the new control plane's, the client's the old one's.
        mesh.add_workload(http_app("api-3")).await?;
        mesh.set_endpoints("api", ["api-3"])?;
        reaches(&api, "api-3").await?;

        let (api, steady) = (api.stop().await, steady.stop().await);
        cx.measured(format!(
            "{} requests; the change meanwhile acted {back:.1?} after the return",
            api.sent + steady.sent
        ));
        assert_no_failure(&api);
        assert_no_failure(&steady);
        let seen = stats(mesh, ["api-1", "api-2", "api-3", "steady-1"]).await?;
        assert_eq!(seen.repeated_ids(), 0);
        assert_eq!(seen.requests, api.sent + steady.sent);
        Ok(())
    })
    .await
}

/// An answer within a second: what no mesh knows is an address that nobody has, and nothing comes back.
async fn soon(pod: &Pod, to: SocketAddr, path: &str) -> Option<Answer> {
    let asked = tokio::time::timeout(Duration::from_secs(1), pod.get(to, path));
    asked.await.ok()?.ok()
}

fn by(answer: &Answer) -> Option<String> {
    answer.served_by().map(str::to_owned)
}

fn pod_api(cluster: &Cluster, mesh: &Mesh) -> kube::Api<k8s_openapi::api::core::v1::Pod> {
    kube::Api::namespaced(cluster.client.clone(), mesh.namespace())
}

async fn pods(cluster: &Cluster, mesh: &Mesh) -> anyhow::Result<Vec<String>> {
    let api = pod_api(cluster, mesh);
    let pods = api.list(&kube::api::ListParams::default()).await?;
    let names = pods.items.into_iter();
    Ok(names.filter_map(|pod| pod.metadata.name).collect())
}
