//! What becomes of pods.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::common::*;
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use weft_control_plane::cluster::rbac;
use weft_control_plane::policy::schema;
use weft_proto::names::{CONTROL_PLANE_SERVICE_ACCOUNT, env};

/// A whole control plane, with its own roles. Killed when dropped.
struct ControlPlane(Child);

impl ControlPlane {
    async fn start(scene: &Scene) -> Self {
        let policies: Value = serde_saphyr::from_str(&schema::crd()).unwrap();
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": CONTROL_PLANE_SERVICE_ACCOUNT, "namespace": "weft"}});
        for object in [policies, account].iter().chain(&rbac::manifests("weft")) {
            scene.server.put(object).await.unwrap();
        }
        let directory: &Path = scene.directory.path();
        let file = directory.join("control-plane");
        std::fs::write(&file, scene.account(CONTROL_PLANE_SERVICE_ACCOUNT)).unwrap();
        let child = Command::new(WEFT)
            .args(["internal", "control-plane", "serve"])
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .env("KUBECONFIG", file)
            .env(env::POD_NAME, "control-plane-1")
            .env(env::POD_IP, "127.0.0.1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes a pod as a controller does: what the server has then, or what it says against it.
async fn make(client: &kube::Client, namespace: &str, pod: &Value) -> Result<Value, (u16, String)> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pod: Pod = serde_json::from_value(pod.clone()).unwrap();
    match api.create(&PostParams::default(), &pod).await {
        Ok(pod) => Ok(serde_json::to_value(pod).unwrap()),
        Err(kube::Error::Api(status)) => Err((status.code, status.message.clone())),
        Err(other) => panic!("{other}"),
    }
}

fn containers(pod: &Value) -> Vec<&str> {
    let spec = &pod["spec"];
    let lists = [&spec["initContainers"], &spec["containers"]];
    let all = lists.into_iter().filter_map(Value::as_array).flatten();
    all.map(|container| container["name"].as_str().unwrap())
        .collect()
}

const PATCHED: [&str; 3] = ["weft-init", "weft-proxy", "app"];

fn with(mut pod: Value, place: &str, value: Value) -> Value {
    let (parent, key) = place.rsplit_once('/').unwrap();
    pod.pointer_mut(parent).unwrap()[key] = value;
    pod
}

/// Events about a ReplicaSet, as reason and words.
async fn events(scene: &Scene, namespace: &str, owner: &str) -> Vec<(String, String)> {
    let path = format!("/api/v1/namespaces/{namespace}/events");
    let all = scene.at(&path).await.unwrap();
    let all = all["items"].as_array().unwrap().iter();
    let about = all.filter(|event| {
        event["involvedObject"]["kind"] == "ReplicaSet" && event["involvedObject"]["name"] == owner
    });
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    about
        .map(|event| (text(&event["reason"]), text(&event["message"])))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labelled_ones_get_a_sidecar_and_others_are_left_alone() {
    let scene = Scene::new().await;
    let _control_plane = ControlPlane::start(&scene).await;
    scene.server.put(&configuration()).await.unwrap();
    let injector = scene.injector().await;
    injector.until_ready().await;
    let client = client(&scene.server).await;
    namespace(&scene.server, "shop", Some("enabled")).await;
    namespace(&scene.server, "plain", None).await;

    let made = make(&client, "shop", &pod("web")).await.unwrap();
    assert_eq!(containers(&made), PATCHED);
    let sidecar = &made["spec"]["initContainers"][1];
    assert_eq!(sidecar["image"], "registry.example/weft-proxy:1.2.3");
    assert_eq!(sidecar["imagePullPolicy"], "IfNotPresent");
    let init = made["spec"]["initContainers"][0]["command"].to_string();
    assert!(init.contains("--skip-subnets=10.96.0.1/32"), "{init}");
    let labelled = |word: &str| {
        let mut pod = pod("web");
        pod["metadata"]["labels"]["weft.dev/inject"] = json!(word);
        pod
    };
    let made = make(&client, "plain", &labelled("enabled")).await.unwrap();
    assert_eq!(containers(&made), PATCHED, "labelled itself");
    assert_eq!(injector.count("patched", "asked").await, 2);
    for (namespace, pod) in [("shop", labelled("disabled")), ("plain", pod("web"))] {
        let made = make(&client, namespace, &pod).await.unwrap();
        assert_eq!(containers(&made), ["app"], "{namespace}");
    }
    let (_, page) = injector.page("/metrics").await;
    let skipped = page
        .lines()
        .filter(|line| line.contains("outcome=\"skipped\""));
    assert_eq!(skipped.count(), 0, "nobody asks about those: {page}");

    // Asked for and not to be had: it runs without, and its owner is told.
    let on_node = with(pod("agent"), "/spec/hostNetwork", json!(true));
    assert_eq!(
        containers(&make(&client, "shop", &on_node).await.unwrap()),
        ["app"]
    );
    assert_eq!(injector.count("skipped", "host_network").await, 1);
    until("an event about it", async || {
        let events = events(&scene, "shop", "agent").await;
        events.len() == 1 && events[0].0 == "InjectionSkipped"
    })
    .await;

    // Nothing of all this was more than it may do, and it could do with nothing less.
    let (mut caller, _) = Caller::connect(injector.webhook, &scene.roots().await, Http::Two)
        .await
        .unwrap();
    let answer = caller
        .review(&review("nowhere", &pod("web"), false))
        .await
        .unwrap();
    assert_eq!(
        (&answer["allowed"], &answer["status"]["code"]),
        (&json!(false), &json!(403))
    );
    let message = answer["status"]["message"].as_str().unwrap();
    assert!(message.contains("\"nowhere\": there is none"), "{message}");
    assert_eq!(injector.count("failed", "namespace_unknown").await, 1);
    assert_eq!(scene.server.forbidden(), Default::default());
    let asked = scene.asked();
    let roles = roles();
    let rules = roles
        .iter()
        .flat_map(|role| role["rules"].as_array().into_iter().flatten());
    for rule in rules {
        let group = rule["apiGroups"][0].as_str().unwrap();
        let dot = if group.is_empty() { "" } else { "." };
        for verb in rule["verbs"].as_array().unwrap() {
            let what = format!("{}{dot}{group}", rule["resources"][0].as_str().unwrap());
            let used = asked.iter().any(|it| it.0 == verb && it.1 == what);
            assert!(used, "it may {verb} {what} and never does");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_ones_are_refused_and_their_owner_is_told_once() {
    let scene = Scene::new().await;
    let injector = scene.ready().await;
    let client = client(&scene.server).await;
    namespace(&scene.server, "shop", Some("enabled")).await;
    let wrong = |owner: &str| {
        let annotations = json!({"config.weft.dev/proxy-cpu-limit": "much"});
        with(pod(owner), "/metadata/annotations", annotations)
    };
    for _ in 0..5 {
        let (code, message) = make(&client, "shop", &wrong("web")).await.unwrap_err();
        assert_eq!(code, 422, "{message}");
        for words in [
            "admission webhook \"namespace.injector.weft.dev\" denied the request",
            "config.weft.dev/proxy-cpu-limit of the pod is \"much\"",
            "give an amount such as 100m",
        ] {
            assert!(message.contains(words), "{words}: {message}");
        }
    }
    assert_eq!(injector.count("refused", "invalid").await, 5);

    // A dry run is answered alike, and leaves nothing behind.
    let (mut caller, _) = Caller::connect(injector.webhook, &scene.roots().await, Http::One)
        .await
        .unwrap();
    for (owner, dry_run) in [("dry", true), ("last", false)] {
        let answer = caller
            .review(&review("shop", &wrong(owner), dry_run))
            .await
            .unwrap();
        assert_eq!(
            (&answer["allowed"], &answer["status"]["code"]),
            (&json!(false), &json!(422))
        );
    }
    // Events are made one by one.
    until("the last event", async || {
        !events(&scene, "shop", "last").await.is_empty()
    })
    .await;
    let told = events(&scene, "shop", "web").await;
    assert_eq!(told.len(), 1, "once for five tries: {told:?}");
    assert_eq!(told[0].0, "InjectionRefused");
    assert!(
        told[0].1.starts_with("pod web-") && told[0].1.contains("much"),
        "{told:?}"
    );
    assert_eq!(events(&scene, "shop", "dry").await, []);
    assert_eq!(scene.server.forbidden(), Default::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_namespace_says_holds_at_once() {
    let scene = Scene::new().await;
    let injector = scene.ready().await;
    let client = client(&scene.server).await;
    // The very moment after: the webhook may not know of it yet, and then asks.
    for index in 0..20 {
        let name = format!("new-{index}");
        namespace(&scene.server, &name, Some("enabled")).await;
        let made = make(&client, &name, &pod("web")).await.unwrap();
        assert_eq!(containers(&made), PATCHED, "{name}");
    }
    for index in 0..20 {
        let name = format!("old-{index}");
        namespace(&scene.server, &name, None).await;
        make(&client, &name, &pod("web")).await.unwrap();
        let label = json!({"metadata": {"labels": {"weft.dev/inject": "enabled"}}});
        let path = format!("/api/v1/namespaces/{name}");
        scene.server.ask(Method::PATCH, &path, Some(&label)).await;
        let made = make(&client, &name, &pod("web")).await.unwrap();
        assert_eq!(containers(&made), PATCHED, "{name}");
    }
    assert_eq!(injector.count("patched", "asked").await, 40);

    let annotate = json!({"metadata": {"annotations": {"config.weft.dev/log-level": "debug"}}});
    scene
        .server
        .ask(Method::PATCH, "/api/v1/namespaces/new-0", Some(&annotate))
        .await;
    until("its annotation holds", async || {
        let made = make(&client, "new-0", &pod("web")).await.unwrap();
        let variables = made["spec"]["initContainers"][1]["env"].as_array().unwrap();
        let level = json!({"name": "WEFT_LOG_LEVEL", "value": "debug"});
        variables.contains(&level)
    })
    .await;
}
