//! The API server for tests, with the clients that it is made for: kube-rs and `kubectl`.
#![allow(clippy::unwrap_used)] // In helpers of tests too.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::Method;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent,
    WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::discovery::ApiResource;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Config};
use parking_lot::Mutex;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::{Value, json};
use weft_tests::apiserver::{ApiServer, Outage, User};

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

#[tokio::test]
async fn objects_come_change_conflict_and_go() {
    let (server, client) = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let made = maps
        .create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    assert!(made.metadata.uid.is_some() && made.metadata.creation_timestamp.is_some());
    let again = maps
        .create(&PostParams::default(), &config_map("a", "1"))
        .await;
    assert_eq!(code(again), (409, "AlreadyExists".to_owned()));

    let mut one = made.clone();
    one.data
        .as_mut()
        .unwrap()
        .insert("a".to_owned(), "2".to_owned());
    let newer = maps
        .replace("a", &PostParams::default(), &one)
        .await
        .unwrap();
    let stale = maps.replace("a", &PostParams::default(), &made).await;
    assert_eq!(code(stale), (409, "Conflict".to_owned()));
    let same = maps
        .replace("a", &PostParams::default(), &newer)
        .await
        .unwrap();
    assert_eq!(
        same.metadata.resource_version, newer.metadata.resource_version,
        "no change"
    );

    let merge = json!({"data": {"a": null, "b": "3"}});
    let merged = maps
        .patch("a", &PatchParams::default(), &Patch::Merge(merge))
        .await
        .unwrap();
    assert_eq!(
        merged.data.unwrap(),
        [("b".to_owned(), "3".to_owned())].into()
    );
    assert_eq!(code(maps.get("none").await), (404, "NotFound".to_owned()));
    let elsewhere: Api<ConfigMap> = Api::namespaced(client.clone(), "nowhere");
    let lost = elsewhere
        .create(&PostParams::default(), &config_map("a", "1"))
        .await;
    assert_eq!(code(lost), (404, "NotFound".to_owned()));
    let bad = maps
        .create(&PostParams::default(), &config_map("A_", "1"))
        .await;
    assert_eq!(code(bad), (422, "Invalid".to_owned()));

    // A finalizer keeps it until it is taken away.
    let hold = json!({"metadata": {"finalizers": ["weft.dev/hold"]}});
    maps.patch("a", &PatchParams::default(), &Patch::Merge(hold))
        .await
        .unwrap();
    let kept = maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(kept.left().unwrap().metadata.deletion_timestamp.is_some());
    let free = json!({"metadata": {"finalizers": null}});
    maps.patch("a", &PatchParams::default(), &Patch::Merge(free))
        .await
        .unwrap();
    assert_eq!(code(maps.get("a").await).0, 404);

    for name in ["b", "c", "d"] {
        maps.create(&PostParams::default(), &config_map(name, "1"))
            .await
            .unwrap();
    }
    for (labels, count) in [
        ("app=b", 1),
        ("app in (b, c)", 2),
        ("app!=b", 2),
        ("!app", 0),
        ("app", 3),
    ] {
        let found = maps
            .list(&ListParams::default().labels(labels))
            .await
            .unwrap();
        assert_eq!(found.items.len(), count, "{labels}");
    }
    let found = maps
        .list(&ListParams::default().fields("metadata.name=c"))
        .await
        .unwrap();
    assert_eq!(found.items.len(), 1);
    let unknown = maps.list(&ListParams::default().fields("data.a=1")).await;
    assert_eq!(code(unknown).0, 400);
    maps.delete_collection(
        &DeleteParams::default(),
        &ListParams::default().labels("app=b"),
    )
    .await
    .unwrap();
    assert_eq!(
        maps.list(&ListParams::default()).await.unwrap().items.len(),
        2
    );
    assert_eq!(server.count("delete", "configmaps"), 1);
    assert_eq!(server.count("deletecollection", "configmaps"), 1);
    server.stop().await;
}

#[tokio::test]
async fn watches_tell_everything_or_that_they_cannot() {
    let (server, client) = server().await;
    server.bookmark_every(Duration::from_millis(50));
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    maps.create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    let listed = maps.list(&ListParams::default()).await.unwrap();
    let from = listed.metadata.resource_version.unwrap();
    for value in ["2", "3"] {
        let patch = Patch::Merge(json!({"data": {"a": value}}));
        maps.patch("a", &PatchParams::default(), &patch)
            .await
            .unwrap();
    }
    maps.create(&PostParams::default(), &config_map("b", "1"))
        .await
        .unwrap();
    // What no longer fits is gone, to those who select.
    let gone = Patch::Merge(json!({"metadata": {"labels": {"app": "other"}}}));
    maps.patch("b", &PatchParams::default(), &gone)
        .await
        .unwrap();
    maps.delete("a", &DeleteParams::default()).await.unwrap();

    let wanted = WatchParams::default().labels("app in (a, b)");
    let mut told = maps.watch(&wanted, &from).await.unwrap().boxed();
    let mut seen = Vec::new();
    loop {
        let event = tokio::time::timeout(PATIENCE, told.try_next())
            .await
            .unwrap()
            .unwrap();
        match event.unwrap() {
            WatchEvent::Added(map) => seen.push(format!("+{}", map.metadata.name.unwrap())),
            WatchEvent::Modified(map) => seen.push(format!("={}", map.data.unwrap()["a"])),
            WatchEvent::Deleted(map) => seen.push(format!("-{}", map.metadata.name.unwrap())),
            WatchEvent::Bookmark(mark) => {
                let revision: u64 = mark.metadata.resource_version.parse().unwrap();
                assert_eq!(revision, server.revision());
                break;
            }
            WatchEvent::Error(status) => panic!("{status:?}"),
        }
    }
    assert_eq!(seen, ["=2", "=3", "+b", "-b", "-a"]);
    assert_eq!(server.open_watches("configmaps"), 1);
    drop(told);
    until("the watch is closed", || {
        server.open_watches("configmaps") == 0
    })
    .await;

    server.compact();
    let mut told = maps.watch(&wanted, &from).await.unwrap().boxed();
    match told.try_next().await.unwrap().unwrap() {
        WatchEvent::Error(status) => assert_eq!((status.code, &*status.reason), (410, "Expired")),
        other => panic!("{other:?}"),
    }
    assert!(told.try_next().await.unwrap().is_none(), "the watch ends");
    server.stop().await;
}

/// A watch can begin with what there is, and say when all of it was told.
#[tokio::test]
async fn a_watch_can_begin_with_everything() {
    let (server, client) = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    for name in ["a", "b"] {
        let map = config_map(name, "1");
        maps.create(&PostParams::default(), &map).await.unwrap();
    }
    let config = watcher::Config::default().streaming_lists();
    let mut events = watcher(maps.clone(), config).boxed();
    let mut told = Vec::new();
    while told.last().is_none_or(|last| last != "c") {
        let event = tokio::time::timeout(PATIENCE, events.try_next()).await;
        match event.unwrap().unwrap().unwrap() {
            watcher::Event::Init => told.push("begins".to_owned()),
            watcher::Event::InitDone => {
                told.push("done".to_owned());
                let map = config_map("c", "1");
                maps.create(&PostParams::default(), &map).await.unwrap();
            }
            watcher::Event::InitApply(map) | watcher::Event::Apply(map) => {
                told.push(map.metadata.name.unwrap());
            }
            watcher::Event::Delete(map) => panic!("{map:?}"),
        }
    }
    assert_eq!(told, ["begins", "a", "b", "done", "c"]);
    assert_eq!(server.count("list", "configmaps"), 0);
    server.stop().await;
}

/// A reflector's watcher sees every state in the end, whatever happens to its connection.
#[tokio::test]
async fn a_watcher_survives_outages() {
    let (server, client) = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let values = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&values);
    let watching = tokio::spawn(async move {
        let events = watcher(maps, watcher::Config::default()).default_backoff();
        let mut events = events.applied_objects().boxed();
        while let Some(event) = events.next().await {
            if let Ok(map) = event {
                told.lock().push(map.data.unwrap_or_default()["a"].clone());
            }
        }
    });
    let put = async |value: &str| {
        let map = config_map("a", value);
        let mut map = serde_json::to_value(map).unwrap();
        map["apiVersion"] = "v1".into();
        map["kind"] = "ConfigMap".into();
        server.put(&map).await.unwrap();
    };
    let last = |value: &'static str| {
        let values = Arc::clone(&values);
        move || values.lock().last().is_some_and(|last| last == value)
    };
    put("1").await;
    until("1", last("1")).await;
    server.drop_watches();
    put("2").await;
    until("2", last("2")).await;
    server.set_outage(Outage::Away);
    until("the watch is closed", || {
        server.open_watches("configmaps") == 0
    })
    .await;
    put("3").await;
    server.compact();
    server.set_outage(Outage::None);
    until("3", last("3")).await;
    server.set_outage(Outage::Hang);
    put("4").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!last("4")(), "nothing is told");
    server.set_outage(Outage::None);
    until("4", last("4")).await;
    assert!(
        server.count("list", "configmaps") >= 2,
        "410 makes it list again"
    );
    watching.abort();
    server.stop().await;
}

#[tokio::test]
async fn apply_merges_lists_by_their_keys() {
    let (server, client) = server().await;
    let services: Api<Service> = Api::default_namespaced(client);
    let apply = PatchParams::apply("test").force();
    let applied = |ports: Value| {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
            "spec": {"selector": {"app": "a"}, "ports": ports},
        });
        Patch::Apply(service)
    };
    let first = applied(json!([{"name": "http", "port": 80}, {"name": "grpc", "port": 90}]));
    let made = services
        .patch("a", &apply, &first)
        .await
        .unwrap()
        .spec
        .unwrap();
    assert!(made.cluster_ip.as_ref().unwrap().starts_with("10.96."));
    let second = applied(json!([{"name": "http", "port": 80, "targetPort": 8080}]));
    let spec = services
        .patch("a", &apply, &second)
        .await
        .unwrap()
        .spec
        .unwrap();
    assert_eq!(spec.cluster_ip, made.cluster_ip);
    let ports = serde_json::to_value(spec.ports).unwrap();
    let both = json!([
        {"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"},
        {"name": "grpc", "port": 90, "targetPort": 90, "protocol": "TCP"},
    ]);
    assert_eq!(ports, both);
    let nobody = services.patch("a", &PatchParams::default(), &second).await;
    assert_eq!(code(nobody).0, 400, "without a field manager");
    server.stop().await;
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

#[tokio::test]
async fn a_definition_brings_its_kind_with_defaults_rules_and_status() {
    let (server, client) = server().await;
    let mut kind = ApiResource::erase::<Pod>(&());
    kind.group = "weft.dev".to_owned();
    kind.version = "v1alpha1".to_owned();
    kind.api_version = "weft.dev/v1alpha1".to_owned();
    kind.kind = "TrafficPolicy".to_owned();
    kind.plural = "trafficpolicies".to_owned();
    let policies: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &kind);
    assert_eq!(
        code(policies.list(&ListParams::default()).await).0,
        404,
        "not there yet"
    );
    let crd = server.put(&definition()).await.unwrap();
    assert_eq!(crd["status"]["conditions"][1]["type"], "Established");
    let groups = client.list_api_groups().await.unwrap();
    assert!(groups.groups.iter().any(|group| group.name == "weft.dev"));

    let post = PostParams::default();
    let good = policy(&json!({"retries": {}, "unknown": 1}));
    let made = policies.create(&post, &read(good)).await.unwrap();
    assert_eq!(
        made.data["spec"]["retries"]["attempts"], 2,
        "the schema's default"
    );
    assert_eq!(made.data["spec"]["targetRefs"][0]["kind"], "Service");
    assert_eq!(made.data["spec"].get("unknown"), None, "pruned");
    assert_eq!(made.metadata.generation, Some(1));

    let broken = policy(&json!({"timeouts": {"request": "1s", "perTry": "2s"}}));
    let refused = policies.create(&post, &read(broken.clone())).await;
    assert_eq!(code(refused), (409, "AlreadyExists".to_owned()));
    let refused = policies
        .patch("p", &PatchParams::default(), &Patch::Merge(broken))
        .await;
    match refused.unwrap_err() {
        kube::Error::Api(status) => {
            assert_eq!((status.code, &*status.reason), (422, "Invalid"));
            assert!(
                status
                    .message
                    .contains("perTry cannot be longer than request"),
                "{status:?}"
            );
        }
        other => panic!("{other}"),
    }
    let path = "/apis/weft.dev/v1alpha1/namespaces/default/trafficpolicies";
    let typo = policy(&json!({"retrys": {}, "retries": {}}));
    let strict = format!("{path}?fieldValidation=Strict");
    let (status, said) = server.ask(Method::POST, &strict, Some(&typo)).await;
    assert_eq!(status, 409, "{said}");
    let mut typo = typo;
    typo["metadata"]["name"] = "q".into();
    let (status, said) = server.ask(Method::POST, &strict, Some(&typo)).await;
    assert_eq!(status, 400, "{said}");
    assert!(
        said["message"]
            .as_str()
            .unwrap()
            .contains("unknown field \"spec.retrys\""),
        "{said}"
    );

    // Status and the rest are written apart, and only the rest counts generations.
    let status = json!({"spec": {"retries": {"attempts": 9}}, "status": {"ancestors": []}});
    let patched = policies
        .patch_status("p", &PatchParams::default(), &Patch::Merge(&status))
        .await;
    let patched = patched.unwrap();
    assert_eq!(patched.data["status"], json!({"ancestors": []}));
    assert_eq!(patched.data["spec"]["retries"]["attempts"], 2);
    assert_eq!(patched.metadata.generation, Some(1));
    let other = json!({"spec": {"retries": {"attempts": 3}}, "status": {"ancestors": null}});
    let patched = policies
        .patch("p", &PatchParams::default(), &Patch::Merge(&other))
        .await
        .unwrap();
    assert_eq!(patched.data["status"], json!({"ancestors": []}));
    assert_eq!(patched.metadata.generation, Some(2));

    let all: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    assert_eq!(
        all.list(&ListParams::default()).await.unwrap().items.len(),
        1
    );
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/trafficpolicies.weft.dev";
    assert_eq!(server.ask(Method::DELETE, crds, None).await.0, 200);
    assert_eq!(
        code(all.list(&ListParams::default()).await).0,
        404,
        "gone with its kind"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_pod_lingers_for_its_grace() {
    let (server, client) = server().await;
    let pods: Api<Pod> = Api::default_namespaced(client);
    let pod = |name: &str| -> Pod {
        read(json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "a"}]}}))
    };
    pods.create(&PostParams::default(), &pod("a"))
        .await
        .unwrap();
    let ready = json!({"status": {"phase": "Running", "podIP": "10.0.0.1"}});
    pods.patch_status("a", &PatchParams::default(), &Patch::Merge(ready))
        .await
        .unwrap();
    let left = pods
        .delete("a", &DeleteParams::default())
        .await
        .unwrap()
        .left()
        .unwrap();
    assert_eq!(left.metadata.deletion_grace_period_seconds, Some(30));
    assert_eq!(
        pods.get("a").await.unwrap().status.unwrap().phase.unwrap(),
        "Running"
    );
    let now = DeleteParams::default().grace_period(0);
    assert!(pods.delete("a", &now).await.unwrap().right().is_some());
    assert_eq!(code(pods.get("a").await).0, 404);

    server.end_pods_after(Duration::from_millis(30));
    pods.create(&PostParams::default(), &pod("b"))
        .await
        .unwrap();
    pods.delete("b", &DeleteParams::default()).await.unwrap();
    let gone = async {
        while pods.get_opt("b").await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn tokens_are_reviewed_with_audience_and_pod() {
    let (server, _) = server().await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "a"}]},
    });
    let pod = server.put(&pod).await.unwrap();
    let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
    let request = json!({"spec": {
        "audiences": ["weft.dev"],
        "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "a", "uid": uid},
    }});
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let (code, answer) = server.ask(Method::POST, path, Some(&request)).await;
    assert_eq!(code, 201, "{answer}");
    let token = answer["status"]["token"].as_str().unwrap().to_owned();
    let review = async |token: &str, audience: &str| {
        let review = json!({"spec": {"token": token, "audiences": [audience]}});
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        server.ask(Method::POST, path, Some(&review)).await.1["status"].clone()
    };
    let good = review(&token, "weft.dev").await;
    assert_eq!(good["authenticated"], true);
    assert_eq!(good["audiences"], json!(["weft.dev"]));
    assert_eq!(
        good["user"]["username"],
        "system:serviceaccount:default:default"
    );
    let extra = &good["user"]["extra"];
    assert_eq!(extra["authentication.kubernetes.io/pod-name"], json!(["a"]));
    assert_eq!(extra["authentication.kubernetes.io/pod-uid"], json!([uid]));
    for (token, audience) in [(&*token, "other"), ("made up", "weft.dev")] {
        let refused = review(token, audience).await;
        assert_ne!(refused["authenticated"], true, "{refused}");
        assert!(refused["error"].is_string(), "{refused}");
    }
    let short = server.mint_token(("default", "default"), &["weft.dev"], Duration::ZERO, None);
    assert_eq!(
        review(&short, "weft.dev").await["error"],
        "token has expired"
    );
    let pod = "/api/v1/namespaces/default/pods/a?gracePeriodSeconds=0";
    server.ask(Method::DELETE, pod, None).await;
    assert_eq!(
        review(&token, "weft.dev").await["error"],
        "pod has been deleted"
    );
    server.stop().await;
}

#[tokio::test]
async fn roles_decide_once_they_are_asked() {
    let (server, admin) = server().await;
    let hour = Duration::from_secs(3600);
    let token = server.mint_token(("default", "default"), &[], hour, None);
    let pod_client = client(&server.kubeconfig_with_token(&token)).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(pod_client.clone());
    maps.list(&ListParams::default()).await.unwrap();
    server.enforce_roles();
    match maps.list(&ListParams::default()).await.unwrap_err() {
        kube::Error::Api(status) => {
            assert_eq!((status.code, &*status.reason), (403, "Forbidden"));
            let message = "configmaps is forbidden: User \"system:serviceaccount:default:default\" \
                cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\"";
            assert_eq!(status.message, message);
        }
        other => panic!("{other}"),
    }
    let group = "rbac.authorization.k8s.io";
    let rule = json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]});
    for manifest in [
        json!({
            "kind": "ClusterRole", "metadata": {"name": "part", "labels": {"to": "reader"}},
            "rules": [rule],
        }),
        json!({
            "kind": "ClusterRole", "metadata": {"name": "reader"}, "rules": [],
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "reader"}}]},
        }),
        json!({
            "kind": "RoleBinding", "metadata": {"name": "reader", "namespace": "default"},
            "roleRef": {"kind": "ClusterRole", "name": "reader", "apiGroup": group},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}],
        }),
    ] {
        let mut manifest = manifest;
        manifest["apiVersion"] = format!("{group}/v1").into();
        server.put(&manifest).await.unwrap();
    }
    maps.list(&ListParams::default()).await.unwrap();
    let denied = maps
        .create(&PostParams::default(), &config_map("a", "1"))
        .await;
    assert_eq!(code(denied).0, 403);
    let all: Api<ConfigMap> = Api::all(pod_client.clone());
    assert_eq!(
        code(all.list(&ListParams::default()).await).0,
        403,
        "not beyond its namespace"
    );
    let asked = json!({"spec": {"namespace": "default"}});
    let request = http::Request::post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews");
    let request = request.body(serde_json::to_vec(&asked).unwrap()).unwrap();
    let answer: Value = pod_client.request(request).await.unwrap();
    assert_eq!(answer["status"]["resourceRules"], json!([rule]));
    let maps: Api<ConfigMap> = Api::default_namespaced(admin);
    maps.create(&PostParams::default(), &config_map("a", "1"))
        .await
        .unwrap();
    let named = client(&server.kubeconfig_of(&User::new("jo", &["team"])).unwrap()).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(named);
    assert_eq!(code(maps.list(&ListParams::default()).await).0, 403);
    let stranger = client(&server.kubeconfig_with_token("made up")).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(stranger);
    assert_eq!(
        code(maps.list(&ListParams::default()).await),
        (401, "Unauthorized".to_owned())
    );
    server.stop().await;
}

#[tokio::test]
async fn requests_are_refused_as_a_test_says() {
    let (server, client) = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    server.refuse("create", "configmaps", 1, 409);
    let create = || async {
        maps.create(&PostParams::default(), &config_map("a", "1"))
            .await
    };
    assert_eq!(code(create().await).0, 409);
    create().await.unwrap();
    server.set_outage(Outage::Failing(500));
    assert_eq!(code(maps.get("a").await), (500, "InternalError".to_owned()));
    server.set_outage(Outage::Away);
    assert!(matches!(
        maps.get("a").await,
        Err(kube::Error::HyperError(_) | kube::Error::Service(_))
    ));
    server.set_outage(Outage::None);
    until("it listens again", || {
        std::net::TcpStream::connect(server.address()).is_ok()
    })
    .await;
    maps.get("a").await.unwrap();
    server.stop().await;
}

/// A webhook that gives everything a label, over TLS of its own; and how often it was asked.
async fn webhook() -> (std::net::SocketAddr, String, Arc<Mutex<Vec<Value>>>) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["injector.weft.svc".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else {
                continue;
            };
            let told = Arc::clone(&told);
            let service = hyper::service::service_fn(
                move |request: http::Request<hyper::body::Incoming>| {
                    let told = Arc::clone(&told);
                    async move {
                        let body = request.into_body().collect().await?.to_bytes();
                        let review: Value = serde_json::from_slice(&body).unwrap();
                        let request = &review["request"];
                        let is_bad = request["object"]["metadata"]["name"] == "bad";
                        let patch = json!([{"op": "add", "path": "/metadata/labels/injected", "value": "yes"}]);
                        let mut response = json!({"uid": request["uid"], "allowed": !is_bad});
                        if is_bad {
                            response["status"] = json!({"message": "no such pod"});
                        } else {
                            response["patchType"] = "JSONPatch".into();
                            response["patch"] = STANDARD.encode(patch.to_string()).into();
                        }
                        let answer = json!({
                            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response,
                        });
                        told.lock().push(review);
                        Ok::<_, hyper::Error>(http::Response::new(Full::new(Bytes::from(
                            answer.to_string(),
                        ))))
                    }
                },
            );
            let serving = hyper::server::conn::http1::Builder::new();
            let _ = serving
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    });
    (address, cert.pem(), asked)
}

#[tokio::test]
async fn webhooks_change_pods_and_refuse_them() {
    let (server, client) = server().await;
    let (address, bundle, asked) = webhook().await;
    let configuration = |policy: &str, bundle: &str| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "injector"},
            "webhooks": [{
                "name": "inject.weft.dev", "failurePolicy": policy, "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "namespaceSelector": {"matchLabels": {"weft.dev/inject": "enabled"}},
                "objectSelector": {"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]},
                "rules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"],
                    "operations": ["CREATE"],
                }],
                "clientConfig": {
                    "caBundle": STANDARD.encode(bundle),
                    "service": {"namespace": "weft", "name": "injector", "path": "/inject"},
                },
            }],
        })
    };
    server.put(&configuration("Fail", &bundle)).await.unwrap();
    server.route_webhook(("weft", "injector"), address);
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "shop", "labels": {"weft.dev/inject": "enabled"}},
    });
    server.put(&namespace).await.unwrap();
    let pod = |name: &str, labels: Value| -> Pod {
        read(json!({
            "metadata": {"name": name, "labels": labels}, "spec": {"containers": [{"name": "a"}]},
        }))
    };
    let shop: Api<Pod> = Api::namespaced(client.clone(), "shop");
    let elsewhere: Api<Pod> = Api::default_namespaced(client);
    let post = PostParams::default();
    let injected = |pod: Pod| pod.metadata.labels.unwrap().contains_key("injected");
    assert!(injected(
        shop.create(&post, &pod("a", json!({"app": "a"})))
            .await
            .unwrap()
    ));
    assert!(!injected(
        shop.create(&post, &pod("b", json!({"skip": "1"})))
            .await
            .unwrap()
    ));
    assert!(!injected(
        elsewhere
            .create(&post, &pod("a", json!({"app": "a"})))
            .await
            .unwrap()
    ));
    match shop
        .create(&post, &pod("bad", json!({"app": "a"})))
        .await
        .unwrap_err()
    {
        kube::Error::Api(status) => {
            assert_eq!(status.code, 403);
            let message = "admission webhook \"inject.weft.dev\" denied the request: no such pod";
            assert_eq!(status.message, message);
        }
        other => panic!("{other}"),
    }
    assert_eq!(asked.lock().len(), 2);
    assert_eq!(asked.lock()[0]["request"]["operation"], "CREATE");
    // A bundle that does not vouch for it is a failure, which may be ignored.
    server
        .put(&configuration("Fail", &server.ca()))
        .await
        .unwrap();
    assert_eq!(
        code(shop.create(&post, &pod("c", json!({"app": "a"}))).await).0,
        500
    );
    server
        .put(&configuration("Ignore", &server.ca()))
        .await
        .unwrap();
    assert!(!injected(
        shop.create(&post, &pod("c", json!({"app": "a"})))
            .await
            .unwrap()
    ));
    assert_eq!(asked.lock().len(), 2);
    server.stop().await;
}

/// `kubectl` with a kubeconfig, or none where there is no such program. CI has it.
struct Kubectl {
    home: tempfile::TempDir,
}

impl Kubectl {
    fn new(server: &ApiServer, test: &str) -> Option<Self> {
        if Command::new("kubectl")
            .args(["version", "--client"])
            .output()
            .is_err()
        {
            assert!(std::env::var_os("CI").is_none(), "CI has kubectl");
            eprintln!("{test}: left out, as there is no kubectl");
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("config"), server.kubeconfig().unwrap()).unwrap();
        Some(Self { home })
    }

    /// What it says, and that it is content.
    async fn run(&self, arguments: &[&str], manifest: Option<&Value>) -> String {
        let (good, said) = self.attempt(arguments, manifest).await;
        assert!(good, "kubectl {}: {said}", arguments.join(" "));
        said
    }

    async fn attempt(&self, arguments: &[&str], manifest: Option<&Value>) -> (bool, String) {
        let mut command = Command::new("kubectl");
        command.env("HOME", self.home.path());
        command
            .arg("--kubeconfig")
            .arg(self.home.path().join("config"))
            .args(arguments);
        if let Some(manifest) = manifest {
            let file = self.home.path().join(format!("{}.json", fastrand::u64(..)));
            std::fs::write(&file, manifest.to_string()).unwrap();
            command.arg("-f").arg(file);
        }
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .unwrap()
            .unwrap();
        let said =
            [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        (output.status.success(), said.concat())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_applies_gets_patches_waits_and_deletes() {
    let server = ApiServer::start().await.unwrap();
    let Some(kubectl) = Kubectl::new(&server, "kubectl_applies_gets_patches_waits_and_deletes")
    else {
        return;
    };
    let service = |ports: Value| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": ports},
        })
    };
    let first = service(json!([{"name": "http", "port": 80}, {"name": "grpc", "port": 90}]));
    let said = kubectl.run(&["apply"], Some(&first)).await;
    assert_eq!(said.trim(), "service/web created");
    let said = kubectl.run(&["apply"], Some(&first)).await;
    assert_eq!(said.trim(), "service/web unchanged");
    let second = service(json!([{"name": "http", "port": 80, "targetPort": 8080}]));
    let said = kubectl.run(&["apply"], Some(&second)).await;
    assert_eq!(said.trim(), "service/web configured");
    let path = "-o=jsonpath={.spec.ports[*].targetPort}";
    assert_eq!(
        kubectl.run(&["get", "svc", "web", path], None).await,
        "8080"
    );

    kubectl.run(&["apply"], Some(&definition())).await;
    let name = "crd/trafficpolicies.weft.dev";
    kubectl
        .run(
            &["wait", "--for=condition=Established", "--timeout=20s", name],
            None,
        )
        .await;
    kubectl
        .run(
            &["apply"],
            Some(&policy(&json!({"retries": {"attempts": 3}}))),
        )
        .await;
    let path = "-o=jsonpath={.spec.retries.attempts}/{.metadata.generation}";
    assert_eq!(kubectl.run(&["get", "tp", "p", path], None).await, "3/1");
    kubectl
        .run(
            &["apply"],
            Some(&policy(&json!({"retries": {"attempts": 4}}))),
        )
        .await;
    assert_eq!(kubectl.run(&["get", "tp", "p", path], None).await, "4/2");
    let patch = r#"--patch={"spec":{"retries":{"attempts":5}}}"#;
    kubectl
        .run(&["patch", "tp", "p", "--type=merge", patch], None)
        .await;
    let patch = r#"--patch=[{"op":"test","path":"/spec/retries/attempts","value":5},
        {"op":"replace","path":"/spec/retries/attempts","value":6}]"#;
    kubectl
        .run(&["patch", "tp", "p", "--type=json", patch], None)
        .await;
    assert_eq!(kubectl.run(&["get", "tp", "p", path], None).await, "6/4");
    let bad = policy(&json!({"retries": {"attempts": 11}}));
    let (good, said) = kubectl.attempt(&["apply"], Some(&bad)).await;
    assert!(
        !good && said.contains("is invalid: spec.retries.attempts"),
        "{said}"
    );
    assert!(
        kubectl
            .run(&["get", "mesh", "-A"], None)
            .await
            .contains('p')
    );
    assert!(
        kubectl
            .run(&["api-resources"], None)
            .await
            .contains("trafficpolicies")
    );

    // Somebody else makes it ready while it waits.
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "a", "image": "a"}]},
    });
    kubectl.run(&["apply", "--server-side"], Some(&pod)).await;
    let arguments = ["wait", "--for=condition=Ready", "--timeout=20s", "pod/a"];
    let waiting = kubectl.run(&arguments, None);
    let making = async {
        until("kubectl watches", || server.open_watches("pods") > 0).await;
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let path = "/api/v1/namespaces/default/pods/a/status";
        assert_eq!(server.ask(Method::PATCH, path, Some(&ready)).await.0, 200);
    };
    tokio::join!(waiting, making);
    server.end_pods_after(Duration::from_millis(50));
    kubectl.run(&["label", "pod", "a", "x=y"], None).await;
    kubectl
        .run(&["delete", "pod", "a", "--timeout=20s"], None)
        .await;
    // From files, because kubectl writes what it makes itself in protobuf.
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    kubectl.run(&["create"], Some(&namespace)).await;
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "shop"},
    });
    kubectl.run(&["create"], Some(&map)).await;
    kubectl
        .run(&["delete", "namespace", "shop", "--timeout=20s"], None)
        .await;
    let (found, said) = kubectl
        .attempt(&["-n", "shop", "get", "configmap", "c"], None)
        .await;
    assert!(!found && said.contains("NotFound"), "{said}");
    kubectl
        .run(&["delete", "tp,svc", "--all", "--timeout=20s"], None)
        .await;
    server.stop().await;
}
