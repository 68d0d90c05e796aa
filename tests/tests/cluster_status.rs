//! Statuses and events as the API server gets them: a source that watches it, and the writer. What is
//! written is counted at the server.
#![allow(clippy::unwrap_used)] // In helpers of tests too.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use weft_control_plane::cluster::status::{COUNTS_EVERY, Known, StatusWriter};
use weft_control_plane::index::{MeshSettings, Name};
use weft_control_plane::serve::counts::{Count, Counts};
use weft_control_plane::source::kubernetes::watch_cluster;
use weft_control_plane::source::progress::Progress;
use weft_tests::apiserver::{ApiServer, Outage};

const PATIENCE: Duration = Duration::from_secs(40);
/// How long nothing must happen where nothing may.
const QUIET: Duration = Duration::from_millis(1500);
const POLICIES: &str = "trafficpolicies/status.weft.dev";
const ROUTES: &str = "httproutes/status.gateway.networking.k8s.io";

/// A control plane as far as statuses are concerned; it ends when it is dropped.
struct Writer {
    server: Arc<ApiServer>,
    counts: watch::Sender<Arc<Counts>>,
    leading: watch::Sender<bool>,
    task: JoinHandle<()>,
    _end: DropGuard,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn client(server: &ApiServer) -> Client {
    let config = Kubeconfig::from_yaml(&server.kubeconfig().unwrap()).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(config, &options);
    Client::try_from(config.await.unwrap()).unwrap()
}

/// A server with our definition, one like HTTPRoute's, and services `a`, `b` and `c`.
async fn server() -> Arc<ApiServer> {
    let server = ApiServer::start().await.unwrap();
    let chart = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/weft/templates/crds");
    let text = std::fs::read_to_string(chart.join("trafficpolicies.yaml")).unwrap();
    let definition: Value = serde_saphyr::from_str(&text).unwrap();
    server.put(&definition).await.unwrap();
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "httproutes.gateway.networking.k8s.io",
            "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
        },
        "spec": {
            "group": "gateway.networking.k8s.io",
            "scope": "Namespaced",
            "names": {"kind": "HTTPRoute", "listKind": "HTTPRouteList", "plural": "httproutes", "singular": "httproute"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": open},
            }],
        },
    });
    server.put(&definition).await.unwrap();
    for name in ["a", "b", "c"] {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": {"ports": [{"name": "http", "port": 80}]},
        });
        server.put(&service).await.unwrap();
    }
    Arc::new(server)
}

async fn writer(server: &Arc<ApiServer>, leads: bool) -> Writer {
    let settings = MeshSettings {
        trust_domain: "cluster.local".to_owned(),
        networks: Vec::new(),
        server_first_ports: Vec::new(),
        minimum_mtls: None,
        default_authorization: weft_control_plane::policy::DefaultAuthorization::AllowAll,
    };
    let client = client(server).await;
    let end = CancellationToken::new();
    let progress = Progress::default();
    let following = watch_cluster(client.clone(), settings, progress, end.clone());
    let following = following.await.unwrap();
    let (counts, counted) = watch::channel(Arc::default());
    let (leading, leads) = watch::channel(leads);
    let known = Known {
        models: following.models,
        readings: following.readings,
        observed: following.observed,
        leading: leads,
    };
    let writer = StatusWriter::new(client, "weft-control-plane-0".to_owned(), known);
    Writer {
        server: Arc::clone(server),
        counts,
        leading,
        task: tokio::spawn(writer.run(counted)),
        _end: end.drop_guard(),
    }
}

impl Writer {
    fn count(&self, policy: &str, generation: i64, acknowledged: u32, total: u32) {
        let count = Count {
            generation: Some(generation),
            acknowledged,
            total,
            refused: Vec::new(),
        };
        let name = Name::new("default", policy);
        self.counts.send_modify(|counts| {
            let mut next: BTreeMap<_, _> = (**counts).clone();
            next.insert(name, count);
            *counts = Arc::new(next);
        });
    }

    fn written(&self, resource: &str) -> u64 {
        self.server.count("patch", resource)
    }
}

fn policy(name: &str, target: &str, spec: &Value) -> Value {
    let mut policy = json!({
        "apiVersion": "weft.dev/v1alpha1",
        "kind": "TrafficPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"targetRefs": [{"kind": "Service", "name": target}]},
    });
    for (stanza, value) in spec.as_object().unwrap() {
        policy["spec"][stanza] = value.clone();
    }
    policy
}

fn timeouts() -> Value {
    json!({"timeouts": {"request": "1s"}})
}

fn policy_path(name: &str) -> String {
    format!("/apis/weft.dev/v1alpha1/namespaces/default/trafficpolicies/{name}")
}

async fn status(server: &ApiServer, path: &str) -> Value {
    server.ask(Method::GET, path, None).await.1["status"].clone()
}

/// `Accepted=True/Accepted`, or nothing.
fn condition(status: &Value, kind: &str) -> String {
    let conditions = status["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    let found = conditions.find(|condition| condition["type"] == kind);
    found.map_or_else(String::new, |it| {
        let text = |field: &str| it[field].as_str().unwrap_or_default().to_owned();
        format!("{}={}/{}", kind, text("status"), text("reason"))
    })
}

/// The status once a condition is so.
async fn until(server: &ApiServer, path: &str, wanted: &str) -> Value {
    let kind = wanted.split('=').next().unwrap();
    let waiting = async {
        loop {
            let status = status(server, path).await;
            if condition(&status, kind) == wanted {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let came = tokio::time::timeout(PATIENCE, waiting).await;
    let Ok(status) = came else {
        panic!("never {wanted}: {:#}", status(server, path).await)
    };
    status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_is_written_at_once_and_its_sidecars_seldom() {
    let server = server().await;
    let writer = writer(&server, true).await;
    server.put(&policy("p", "c", &timeouts())).await.unwrap();
    let path = policy_path("p");
    let begun = std::time::Instant::now();
    let status = until(&server, &path, "Accepted=True/Accepted").await;
    assert!(begun.elapsed() < COUNTS_EVERY / 2);
    assert_eq!(
        condition(&status, "ResolvedRefs"),
        "ResolvedRefs=True/ResolvedRefs"
    );
    assert_eq!(
        condition(&status, "Programmed"),
        "Programmed=False/Reconciling"
    );
    assert_eq!(status["conditions"][0]["observedGeneration"], 1);
    assert_eq!(
        status["ancestors"][0]["controllerName"],
        "weft.dev/controller"
    );
    assert_eq!(
        status["ancestors"][0]["ancestorRef"],
        json!({"group": "", "kind": "Service", "namespace": "default", "name": "c"})
    );
    assert_eq!(writer.written(POLICIES), 1);

    // One sidecar after another: they go into one write.
    for acknowledged in 0..=30 {
        writer.count("p", 1, acknowledged.min(12), 12);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(writer.written(POLICIES), 1);
    let status = until(&server, &path, "Programmed=True/Programmed").await;
    assert!(begun.elapsed() >= COUNTS_EVERY);
    assert_eq!(status["proxies"], json!({"acknowledged": 12, "total": 12}));
    assert_eq!(
        status["conditions"][2]["message"],
        "12/12 sidecars run generation 1"
    );
    tokio::time::sleep(QUIET).await;
    assert_eq!(
        writer.written(POLICIES),
        2,
        "what says so already is not written"
    );

    // Labels are none of the status's business.
    let label = json!({"metadata": {"labels": {"team": "shop"}}});
    let (code, _) = server.ask(Method::PATCH, &path, Some(&label)).await;
    assert_eq!(code, 200);
    tokio::time::sleep(QUIET).await;
    assert_eq!(writer.written(POLICIES), 2);

    // A new generation is written at once, whatever was written a moment ago.
    let begun = std::time::Instant::now();
    server
        .put(&policy("p", "c", &json!({"timeouts": {"request": "2s"}})))
        .await
        .unwrap();
    let status = until(&server, &path, "Programmed=False/Reconciling").await;
    assert!(begun.elapsed() < COUNTS_EVERY / 2);
    assert_eq!(status["conditions"][0]["observedGeneration"], 2);
    assert_eq!(status["proxies"], json!({"acknowledged": 0, "total": 12}));
    assert_eq!(writer.written(POLICIES), 3);

    // So is what becomes of its target.
    let service = "/api/v1/namespaces/default/services/c";
    let (code, _) = server.ask(Method::DELETE, service, None).await;
    assert_eq!(code, 200);
    let status = until(&server, &path, "Accepted=False/TargetNotFound").await;
    assert_eq!(
        condition(&status, "Programmed"),
        "Programmed=False/TargetNotFound"
    );
    assert_eq!(writer.written(POLICIES), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_leader_writes_and_what_others_say_stays() {
    let server = server().await;
    let writer = writer(&server, false).await;
    server.put(&policy("p", "c", &timeouts())).await.unwrap();
    let path = policy_path("p");
    let foreign = json!({
        "ancestorRef": {"group": "", "kind": "Service", "name": "c"},
        "controllerName": "example.com/other",
        "conditions": [{
            "type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    });
    let theirs = json!({"status": {"ancestors": [foreign]}});
    let (code, said) = server
        .ask(Method::PATCH, &format!("{path}/status"), Some(&theirs))
        .await;
    assert_eq!(code, 200, "{said}");
    let before = writer.written(POLICIES);
    tokio::time::sleep(QUIET).await;
    assert_eq!(writer.written(POLICIES), before, "it does not lead");

    writer.leading.send_replace(true);
    let status = until(&server, &path, "Accepted=True/Accepted").await;
    assert_eq!(status["ancestors"].as_array().unwrap().len(), 2);
    assert!(status["ancestors"].as_array().unwrap().iter().any(|it| {
        it["controllerName"] == "example.com/other" && it["conditions"][0]["reason"] == "Accepted"
    }));
    assert_eq!(writer.written(POLICIES), before + 1);

    writer.leading.send_replace(false);
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.put(&policy("q", "c", &timeouts())).await.unwrap();
    tokio::time::sleep(QUIET).await;
    assert_eq!(writer.written(POLICIES), before + 1);

    // Another one takes over: only what differs is written.
    let other = self::writer(&server, true).await;
    until(&server, &policy_path("q"), "Accepted=False/Conflicted").await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(other.written(POLICIES), before + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicts_and_outages_lose_nothing() {
    let server = server().await;
    let writer = writer(&server, false).await;
    // The other one has changed the object meanwhile, says the server.
    server.refuse("patch", POLICIES, 1, 409);
    server.put(&policy("p", "c", &timeouts())).await.unwrap();
    writer.leading.send_replace(true);
    until(&server, &policy_path("p"), "Accepted=True/Accepted").await;
    assert_eq!(
        writer.written(POLICIES),
        2,
        "one that conflicted, and one that did not"
    );
    writer.leading.send_replace(false);

    for name in ["q", "r", "s"] {
        server.put(&policy(name, "c", &timeouts())).await.unwrap();
    }
    tokio::time::sleep(QUIET).await;
    server.set_outage(Outage::Away);
    writer.leading.send_replace(true);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(writer.written(POLICIES), 2);
    server.set_outage(Outage::None);
    for name in ["q", "r", "s"] {
        until(&server, &policy_path(name), "Accepted=False/Conflicted").await;
    }
    tokio::time::sleep(QUIET).await;
    assert_eq!(writer.written(POLICIES), 5, "exactly what differs");
}

fn route(weight: u32, backend: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "a", "namespace": "default"},
        "spec": {
            "parentRefs": [{"group": "core", "kind": "Service", "name": "a", "namespace": "default", "port": 80}],
            "rules": [{"backendRefs": [
                {"name": "b", "port": 80, "weight": 100 - weight},
                {"name": backend, "port": 80, "weight": weight},
            ]}],
        },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_reads_as_canary_tools_read_it() {
    let server = server().await;
    let writer = writer(&server, true).await;
    let path = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes/a";
    for (step, weight) in [0, 10, 20, 30, 100, 0].into_iter().enumerate() {
        let made = server.put(&route(weight, "c")).await.unwrap();
        let generation = made["metadata"]["generation"].as_i64().unwrap();
        assert_eq!(generation, step as i64 + 1);
        let wanted = &made["spec"]["parentRefs"][0];
        let accepted = async {
            loop {
                let status = status(&server, path).await;
                let parents = status["parents"].as_array().cloned().unwrap_or_default();
                let own = parents.iter().find(|parent| parent["parentRef"] == *wanted);
                let conditions = own.and_then(|own| own["conditions"].as_array());
                let observed = conditions.into_iter().flatten().any(|it| {
                    it["type"] == "Accepted"
                        && it["status"] == "True"
                        && it["observedGeneration"].as_i64() >= Some(generation)
                });
                if observed {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let fast = Duration::from_secs(5);
        tokio::time::timeout(fast, accepted).await.unwrap();
        assert_eq!(
            writer.written(ROUTES),
            step as u64 + 1,
            "one write per generation"
        );
    }

    server.put(&route(10, "nobody")).await.unwrap();
    let refused = async {
        loop {
            let status = status(&server, path).await;
            if condition(&status["parents"][0], "ResolvedRefs")
                == "ResolvedRefs=False/BackendNotFound"
            {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let status = tokio::time::timeout(PATIENCE, refused).await.unwrap();
    assert_eq!(
        condition(&status["parents"][0], "Accepted"),
        "Accepted=True/Accepted"
    );
    // What cannot be read is refused at every parent, and what was before stays.
    let mut bad = route(10, "c");
    bad["spec"]["rules"][0]["backendRefs"][0]["weight"] = json!("ten");
    server.put(&bad).await.unwrap();
    let refused = async {
        loop {
            let status = self::status(&server, path).await;
            if condition(&status["parents"][0], "Accepted") == "Accepted=False/UnsupportedValue" {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let status = tokio::time::timeout(PATIENCE, refused).await.unwrap();
    let message = status["parents"][0]["conditions"][0]["message"]
        .as_str()
        .unwrap();
    assert!(
        message.ends_with("its last good version stays in force"),
        "{message}"
    );
    assert_eq!(writer.written(ROUTES), 8);
    let events = events(&server, "a").await;
    assert!(
        events.contains(&"Warning BackendNotFound".to_owned()),
        "{events:?}"
    );
}

/// Kind and reason of the events about an object, once there is one.
async fn events(server: &ApiServer, name: &str) -> Vec<String> {
    let all = "/api/v1/namespaces/default/events";
    let waiting = async {
        loop {
            let (_, list) = server.ask(Method::GET, &format!("{all}/"), None).await;
            let (_, list) = match list["items"].as_array() {
                Some(_) => (0, list),
                None => server.ask(Method::GET, all, None).await,
            };
            let items = list["items"].as_array().cloned().unwrap_or_default();
            let items = items
                .iter()
                .filter(|it| it["involvedObject"]["name"] == name);
            let found: Vec<_> = items
                .map(|it| {
                    let text = |field: &str| it[field].as_str().unwrap_or_default().to_owned();
                    format!("{} {}", text("type"), text("reason"))
                })
                .collect();
            if !found.is_empty() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_shows_what_has_become_of_policies() {
    let server = server().await;
    let writer = writer(&server, true).await;
    server
        .put(&policy("older", "c", &timeouts()))
        .await
        .unwrap();
    until(&server, &policy_path("older"), "Accepted=True/Accepted").await;
    tokio::time::sleep(Duration::from_millis(1100)).await; // Age is told in seconds.
    server
        .put(&policy("younger", "c", &timeouts()))
        .await
        .unwrap();
    until(
        &server,
        &policy_path("younger"),
        "Accepted=False/Conflicted",
    )
    .await;
    assert_eq!(events(&server, "younger").await, ["Warning Conflicted"]);
    // Mended, broken and mended again: no more is said for a while.
    for spec in [json!({"retries": {}}), timeouts(), json!({"retries": {}})] {
        let accepted = spec.get("retries").is_some();
        server.put(&policy("younger", "c", &spec)).await.unwrap();
        let wanted = if accepted {
            "Accepted=True/Accepted"
        } else {
            "Accepted=False/Conflicted"
        };
        until(&server, &policy_path("younger"), wanted).await;
    }
    tokio::time::sleep(QUIET).await;
    let mut told = events(&server, "younger").await;
    told.sort();
    assert_eq!(told, ["Normal Accepted", "Warning Conflicted"]);

    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("config");
    std::fs::write(&config, server.kubeconfig().unwrap()).unwrap();
    let kubectl = |arguments: Vec<String>| {
        let mut command = Command::new("kubectl");
        command
            .env("HOME", home.path())
            .arg("--kubeconfig")
            .arg(&config);
        command.args(arguments);
        tokio::task::spawn_blocking(move || command.output())
    };
    let Ok(Ok(_)) = kubectl(vec!["version".to_owned(), "--client".to_owned()]).await else {
        assert!(std::env::var_os("CI").is_none(), "CI has kubectl");
        return;
    };
    server
        .put(&policy("younger", "c", &timeouts()))
        .await
        .unwrap();
    until(
        &server,
        &policy_path("younger"),
        "Accepted=False/Conflicted",
    )
    .await;
    writer.count("older", 1, 3, 3);
    until(&server, &policy_path("older"), "Programmed=True/Programmed").await;

    // The definition's own columns, which this server has no tables for.
    let crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/trafficpolicies.weft.dev";
    let (_, crd) = server.ask(Method::GET, crd, None).await;
    let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"]
        .as_array()
        .unwrap();
    let columns: Vec<_> = columns
        .iter()
        .filter(|it| it["name"] != "Age")
        .map(|it| {
            format!(
                "{}:{}",
                it["name"].as_str().unwrap(),
                it["jsonPath"].as_str().unwrap()
            )
        })
        .collect();
    let columns = format!("-ocustom-columns=NAME:.metadata.name,{}", columns.join(","));
    let output = kubectl(vec!["get".to_owned(), "tp".to_owned(), columns])
        .await
        .unwrap()
        .unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    println!("{table}");
    let rows = table
        .lines()
        .map(|row| row.split_whitespace().take(7).collect());
    let rows: Vec<Vec<&str>> = rows.collect();
    assert_eq!(
        rows,
        [
            [
                "NAME",
                "Kind",
                "Target",
                "mTLS",
                "Accepted",
                "Programmed",
                "Reason"
            ],
            [
                "older", "Service", "c", "<none>", "True", "True", "Accepted"
            ],
            [
                "younger",
                "Service",
                "c",
                "<none>",
                "False",
                "False",
                "Conflicted"
            ],
        ]
    );
    assert!(
        table.lines().nth(1).is_some_and(|row| row.ends_with('3')),
        "proxies: {table}"
    );
    let described = kubectl(vec![
        "describe".to_owned(),
        "tp".to_owned(),
        "younger".to_owned(),
    ])
    .await;
    let described = String::from_utf8(described.unwrap().unwrap().stdout).unwrap();
    println!("{described}");
    let events = described.split("Events:").nth(1).unwrap();
    assert!(
        events.contains("Conflicted") && events.contains("default/older is older"),
        "{events}"
    );
}
