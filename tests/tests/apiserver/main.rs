//! The API server for tests, with the clients that it is made for: kube-rs and `kubectl`.
#![allow(clippy::unwrap_used)] // In helpers of tests too.

mod access;
mod kubectl;
mod objects;
mod watches;
mod webhooks;

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use weft_tests::apiserver::ApiServer;

const PATIENCE: Duration = Duration::from_secs(20);

async fn client(kubeconfig: &str) -> Client {
    let config = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(config, &options)
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

async fn server() -> (ApiServer, Client) {
    let server = ApiServer::start().await.unwrap();
    let client = client(&server.kubeconfig().unwrap()).await;
    (server, client)
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    read(json!({"metadata": {"name": name, "labels": {"app": name}}, "data": {"a": value}}))
}

fn code<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> (u16, String) {
    match result.unwrap_err() {
        kube::Error::Api(status) => (status.code, status.reason),
        other => panic!("{other}"),
    }
}

/// What a test waits for.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let came = tokio::time::timeout(PATIENCE, waiting).await;
    came.unwrap_or_else(|_| panic!("never: {what}"));
}

fn policy(extra: &Value) -> Value {
    let mut spec = json!({"targetRefs": [{"name": "a"}]});
    for (name, value) in extra.as_object().unwrap() {
        spec[name] = value.clone();
    }
    json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "TrafficPolicy",
        "metadata": {"name": "p"}, "spec": spec,
    })
}

/// The definition of `TrafficPolicy`, as the chart has it.
fn definition() -> Value {
    let chart = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/weft/templates/crds");
    let text = std::fs::read_to_string(chart.join("trafficpolicies.yaml")).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}
