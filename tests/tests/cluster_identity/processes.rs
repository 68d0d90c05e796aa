//! Whole processes of the control plane.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::*;
use crate::webhook::{ca_bundle, webhooks};
use http::Method;
use serde_json::{Value, json};
use weft_tests::apiserver::ApiServer;

/// A control plane as a process of its own. Killed when dropped.
struct Process(Child);

impl Process {
    fn start(server: &ApiServer, directory: &Path, pod: &str) -> Self {
        let kubeconfig = directory.join("kubeconfig");
        std::fs::write(&kubeconfig, server.kubeconfig().unwrap()).unwrap();
        let log = std::fs::File::create(directory.join(format!("{pod}.log"))).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_weft-under-test"))
            .args(["internal", "control-plane", "serve"])
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .arg("--port-file")
            .arg(directory.join(format!("{pod}.ports")))
            .env("KUBECONFIG", kubeconfig)
            .env("WEFT_POD_NAME", pod)
            .env("WEFT_POD_IP", "127.0.0.1")
            .env("WEFT_LEASE_DURATION", "3s")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child)
    }

    /// SIGTERM, then its end: whether it ended well, and how long that took.
    async fn end(mut self) -> (bool, Duration) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            if let Some(status) = self.0.try_wait().unwrap() {
                return (status.success(), since.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("it does not end");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn definition() -> Value {
    let chart = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/weft/templates/crds");
    let text = std::fs::read_to_string(chart.join("trafficpolicies.yaml")).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

#[tokio::test]
async fn replicas_share_an_authority_and_one_leads() {
    let server = server().await;
    server.put(&definition()).await.unwrap();
    server.put(&webhooks(1)).await.unwrap();
    namespace(&server, "shop", true).await;
    let directory = tempfile::tempdir().unwrap();
    let start = |pod: &str| Process::start(&server, directory.path(), pod);
    let first = start("cp-1");
    let second = start("cp-2");
    let path = format!("{LEASES}/weft-control-plane");
    let led_by = async || {
        at(&server, &path)
            .await
            .map(|lease| holder(&lease))
            .unwrap_or_default()
    };
    let listens = |pod: &str| directory.path().join(format!("{pod}.ports")).exists();
    until("both serve", async || listens("cp-1") && listens("cp-2")).await;
    let root = at(&server, &format!("{SECRETS}/weft-authority"))
        .await
        .unwrap();
    let in_shop = "/api/v1/namespaces/shop/configmaps/weft-trust-bundle";
    until("the trust bundle", async || {
        at(&server, in_shop).await.is_some()
    })
    .await;
    until("the webhook's roots", async || {
        ca_bundle(&server).await.is_some()
    })
    .await;
    let own = at(&server, &format!("{MAPS}/weft-trust-bundle")).await;
    assert!(own.is_some(), "its own namespace has one too");
    // Where only a pod has a sidecar, which waits for it.
    namespace(&server, "lone", false).await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asks", "namespace": "lone"},
        "spec": {"containers": [{"name": "weft-proxy", "image": "a:1"}, {"name": "b", "image": "b:1"}]},
    });
    server.put(&pod).await.unwrap();
    let in_lone = "/api/v1/namespaces/lone/configmaps/weft-trust-bundle";
    until("the trust bundle for a pod", async || {
        at(&server, in_lone).await.is_some()
    })
    .await;
    server
        .ask(
            Method::DELETE,
            "/api/v1/namespaces/lone/pods/asks?gracePeriodSeconds=0",
            None,
        )
        .await;
    until("it is gone with the pod", async || {
        at(&server, in_lone).await.is_none()
    })
    .await;

    // The one that leads is killed: the other one takes over, and corrects what is wrong.
    let (leader, other, leader_pod) = if led_by().await.starts_with("cp-1_") {
        (first, second, "cp-1_")
    } else {
        (second, first, "cp-2_")
    };
    drop(leader);
    server.ask(Method::DELETE, in_shop, None).await;
    let killed = Instant::now();
    until("the other leads", async || {
        let holder = led_by().await;
        !holder.is_empty() && !holder.starts_with(leader_pod)
    })
    .await;
    let took = killed.elapsed();
    assert!(took < LEASE * 3, "{took:?}");
    until("it writes", async || at(&server, in_shop).await.is_some()).await;

    // An orderly end gives the lease back, within a second.
    let third = start("cp-3");
    until("the third serves", async || listens("cp-3")).await;
    let (well, took) = other.end().await;
    assert!(well && took < Duration::from_secs(2), "{took:?}");
    until("the third leads", async || {
        led_by().await.starts_with("cp-3_")
    })
    .await;
    let (well, _) = third.end().await;
    assert!(well);
    assert_eq!(led_by().await, "");
    let now = at(&server, &format!("{SECRETS}/weft-authority"))
        .await
        .unwrap();
    assert_eq!(now["data"], root["data"], "one authority for all of them");

    // What it cannot mend it says, and ends.
    server
        .ask(Method::DELETE, &format!("{SECRETS}/weft-authority"), None)
        .await;
    let mut fourth = start("cp-4");
    until("it ends", async || !listens("cp-4")).await;
    let status = tokio::task::spawn_blocking(move || fourth.0.wait().unwrap())
        .await
        .unwrap();
    assert_eq!(status.code(), Some(1));
    let log = std::fs::read_to_string(directory.path().join("cp-4.log")).unwrap();
    assert!(log.contains("the authority's secret was lost"), "{log}");
    assert_eq!(led_by().await, "", "and it does not keep the lease");
    server.stop().await;
}
