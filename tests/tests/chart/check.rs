//! `weft check` as `helm test` runs it: under the roles that the chart gives it, and no others.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use weft_proto::names::{INJECT_ENABLED, INJECT_LABEL};
use weft_tests::apiserver::{ApiServer, User};
use weft_tests::gateway_crds;

use crate::python::{Python, WEFT};

const NAMESPACE: &str = "weft";
const ACCOUNT: &str = "weft-check";

/// Nothing is asked for that it may not read but the certificate authority's Secret, and nothing is allowed
/// that is not asked for.
pub(crate) fn the_charts_test_may_read_what_it_needs(python: &Python) {
    let objects = python.rendered();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(judged(&objects));
}

async fn judged(objects: &[Value]) {
    let server = ApiServer::start().await.unwrap();
    gateway_crds::install(&server).await.unwrap();
    for (name, label) in [
        (NAMESPACE, json!({})),
        ("shop", json!({INJECT_LABEL: INJECT_ENABLED})),
    ] {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": label},
        });
        server.put(&namespace).await.unwrap();
    }
    for object in objects {
        server.put(object).await.unwrap();
    }
    let token = server.mint_token((NAMESPACE, ACCOUNT), &[], Duration::from_secs(600), None);
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    std::fs::write(&kubeconfig, server.kubeconfig_with_token(&token)).unwrap();
    server.enforce_roles();

    let pod = objects.iter().find(|it| it["kind"] == "Pod").unwrap();
    let command = pod["spec"]["containers"][0]["command"].as_array().unwrap();
    let arguments: Vec<_> = command
        .iter()
        .skip(1)
        .map(|it| it.as_str().unwrap().to_owned())
        .collect();
    let mut check = Command::new(WEFT);
    check.args(arguments).env("KUBECONFIG", &kubeconfig);
    // The server runs on this runtime.
    let output = tokio::task::spawn_blocking(move || check.output().unwrap());
    let output = output.await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    // No control plane runs here, which it finds.
    assert_eq!(output.status.code(), Some(2), "{said}");

    let forbidden: BTreeSet<_> = server
        .forbidden()
        .into_keys()
        .map(|seen| (seen.verb, seen.resource))
        .collect();
    let authority = BTreeSet::from([("get", "secrets".to_owned())]);
    assert_eq!(forbidden, authority, "{said}");
    let user = User::service_account(NAMESPACE, ACCOUNT).name;
    let seen: BTreeSet<_> = server
        .seen()
        .into_keys()
        .filter(|seen| seen.user == user)
        .map(|seen| (seen.verb.to_owned(), seen.resource))
        .collect();
    let needless: Vec<_> = allowed(objects)
        .into_iter()
        .filter(|it| !seen.contains(it))
        .collect();
    assert!(needless.is_empty(), "allowed and never done: {needless:?}");
}

/// Verb and resource of every rule of the roles.
fn allowed(objects: &[Value]) -> BTreeSet<(String, String)> {
    let roles = objects
        .iter()
        .filter(|it| it["metadata"]["name"] == ACCOUNT);
    let rules = roles.flat_map(|role| role["rules"].as_array().into_iter().flatten());
    let texts = |value: &Value| -> Vec<String> {
        let texts = value.as_array().unwrap().iter();
        texts.map(|it| it.as_str().unwrap().to_owned()).collect()
    };
    let mut all = BTreeSet::new();
    for rule in rules {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                let dot = if group.is_empty() { "" } else { "." };
                for verb in texts(&rule["verbs"]) {
                    all.insert((verb, format!("{resource}{dot}{group}")));
                }
            }
        }
    }
    all
}
