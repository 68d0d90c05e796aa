//! What the tests of identity in a cluster share.

use std::time::{Duration, Instant};

use http::Method;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weft_control_plane::cluster::Leading;
use weft_control_plane::cluster::authority::Home;
use weft_control_plane::cluster::lease::{Candidate, Timing};
use weft_control_plane::identity::Lifetimes;
use weft_control_plane::serve::Metrics;
use weft_tests::apiserver::ApiServer;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
/// So short that tests need not wait for long, and long enough for a busy machine.
pub(crate) const LEASE: Duration = Duration::from_secs(3);
pub(crate) const HOME: Home<'static> = Home {
    namespace: "weft",
    trust_domain: "cluster.local",
    leaf_lifetime: HOUR,
    lifetimes: Lifetimes::DEFAULT,
};
pub(crate) const SECRETS: &str = "/api/v1/namespaces/weft/secrets";
pub(crate) const MAPS: &str = "/api/v1/namespaces/weft/configmaps";
pub(crate) const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/weft/leases";

pub(crate) async fn client(server: &ApiServer) -> Client {
    let config = Kubeconfig::from_yaml(&server.kubeconfig().unwrap()).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(config, &options)
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

/// A server with the control plane's namespace.
pub(crate) async fn server() -> ApiServer {
    let server = ApiServer::start().await.unwrap();
    namespace(&server, "weft", false).await;
    server
}

pub(crate) async fn namespace(server: &ApiServer, name: &str, injected: bool) {
    let labels = if injected {
        json!({"weft.dev/inject": "enabled"})
    } else {
        json!({})
    };
    let manifest = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels},
    });
    server.put(&manifest).await.unwrap();
}

/// What there is at a path, if anything.
pub(crate) async fn at(server: &ApiServer, path: &str) -> Option<Value> {
    let (code, object) = server.ask(Method::GET, path, None).await;
    (code == 200).then_some(object)
}

/// What a test waits for.
pub(crate) async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until this candidate leads.
pub(crate) async fn leads(leading: &Leading) {
    until("it leads", async || *leading.borrow()).await;
}

/// A candidate that runs, and how to end it in order.
pub(crate) struct Running {
    pub(crate) leading: Leading,
    pub(crate) end: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

pub(crate) async fn candidate(server: &ApiServer, pod: &str) -> Running {
    let gauge = Metrics::new().gauge("weft_control_plane_leader", "");
    let timing = Timing::of(LEASE);
    let (candidate, leading) = Candidate::new(client(server).await, "weft", pod, timing, gauge);
    let end = CancellationToken::new();
    let task = tokio::spawn(candidate.run(end.clone()));
    Running { leading, end, task }
}

pub(crate) fn holder(lease: &Value) -> String {
    lease["spec"]["holderIdentity"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

pub(crate) fn always_leading() -> Leading {
    let (sender, leading) = watch::channel(true);
    // Nobody leads by the word of somebody who is gone.
    std::mem::forget(sender);
    leading
}
