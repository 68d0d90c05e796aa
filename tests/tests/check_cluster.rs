//! `weft check` and `weft explain` against a cluster, as a user runs them: a kubeconfig in, a report and an
//! exit code out.
#![allow(clippy::unwrap_used)] // In helpers of tests too.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};
use weft_control_plane::policy::schema;
use weft_proto::names::{CONTROL_PLANE_SERVICE_ACCOUNT, cluster};
use weft_tests::apiserver::{ApiServer, User};

const WEFT: &str = env!("CARGO_BIN_EXE_weft-under-test");
const DAY: Duration = Duration::from_secs(24 * 3600);

struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

struct World {
    server: ApiServer,
    dir: tempfile::TempDir,
}

impl World {
    /// A cluster in which nobody has installed anything.
    async fn bare() -> Self {
        Self {
            server: ApiServer::start().await.unwrap(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// One with Weft and nothing wrong, as far as the control plane makes and keeps it.
    async fn installed() -> Self {
        let world = Self::bare().await;
        let policies: Value = serde_saphyr::from_str(&schema::crd()).unwrap();
        world.put(policies).await;
        world.put(definition("HTTPRoute", "httproutes")).await;
        world.put(definition("GRPCRoute", "grpcroutes")).await;
        for name in ["weft", "shop", "bank"] {
            let mut namespace = json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name},
            });
            if name != "weft" {
                namespace["metadata"]["labels"] = json!({"weft.dev/inject": "enabled"});
            }
            world.put(namespace).await;
            world.put(bundle(name, &root("1"))).await;
        }
        for name in ["control-plane-1", "control-plane-2"] {
            let mut pod = pod("weft", name, "weft-control-plane:0.1.0");
            pod["spec"]["serviceAccountName"] = CONTROL_PLANE_SERVICE_ACCOUNT.into();
            world.put(pod).await;
        }
        for service in [cluster::CONTROL_PLANE_SERVICE, cluster::WEBHOOK_SERVICE] {
            world
                .put(slice(
                    "weft",
                    service,
                    &[("10.0.0.1", None), ("10.0.0.2", None)],
                ))
                .await;
        }
        let renewed = k8s_openapi::jiff::Timestamp::now();
        world
            .put(json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": cluster::LEASE, "namespace": "weft"},
                // Long, so that a slow machine changes nothing.
                "spec": {"holderIdentity": "control-plane-1", "leaseDurationSeconds": 3600,
                    "renewTime": format!("{renewed:.6}")},
            }))
            .await;
        let authority = json!({cluster::AUTHORITY_KEY: STANDARD.encode("secret")});
        let mut authority = secret(cluster::AUTHORITY_SECRET, &authority);
        let now = renewed.as_second();
        let year = 365 * DAY.as_secs() as i64;
        let standing = json!({
            "issuerNotBefore": now, "issuerNotAfter": now + year - 60,
            "rotation": null, "phase": null, "since": null,
        });
        authority["metadata"]["annotations"] = json!({cluster::STANDING: standing.to_string()});
        world.put(authority).await;
        let (age, left) = (3 * DAY + HOUR, 362 * DAY + HOUR);
        let leaf = certificate("weft-injector.weft.svc", age, left);
        let certificate = json!({
            "tls.crt": STANDARD.encode(leaf), "tls.key": STANDARD.encode("secret"),
            "ca.crt": STANDARD.encode("the webhook's authority"),
        });
        world
            .put(secret(cluster::WEBHOOK_SECRET, &certificate))
            .await;
        world.put(webhook("the webhook's authority")).await;
        world
            .put(json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": "web", "namespace": "shop"},
                "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80, "appProtocol": "http"}]},
            }))
            .await;
        let web = pod("shop", "web-1", "weft-proxy:0.1.0");
        let address = web["status"]["podIP"].as_str().unwrap();
        let endpoints = [(address, Some("web-1"))];
        world.put(slice("shop", "web", &endpoints)).await;
        world.put(web).await;
        world
            .put(json!({
                "apiVersion": "weft.dev/v1alpha1", "kind": "TrafficPolicy",
                "metadata": {"name": "web", "namespace": "shop"},
                "spec": {"targetRefs": [{"kind": "Service", "name": "web"}],
                    "timeouts": {"request": "3s"}},
            }))
            .await;
        world
    }

    /// With its status where a pod has one, which is written apart.
    async fn put(&self, object: Value) {
        let put = self.server.put(&object).await;
        put.unwrap_or_else(|error| panic!("{error}: {object}"));
        if object["kind"] == "Pod" {
            let text = |key: &str| object["metadata"][key].as_str().unwrap().to_owned();
            let (namespace, name) = (text("namespace"), text("name"));
            let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/status");
            let status = json!({"status": object["status"]});
            let (code, answer) = self.server.ask(Method::PATCH, &path, Some(&status)).await;
            assert_eq!(code, 200, "{answer}");
        }
    }

    fn kubeconfig(&self, user: &User) -> PathBuf {
        let file = self.dir.path().join(format!("kubeconfig-{}", user.name));
        std::fs::write(&file, self.server.kubeconfig_of(user).unwrap()).unwrap();
        file
    }

    /// As a user runs it, by KUBECONFIG.
    async fn weft(&self, args: &[&str]) -> Ended {
        let kubeconfig = self.kubeconfig(&User::admin());
        run(args, &[("KUBECONFIG", kubeconfig.to_str().unwrap())]).await
    }
}

const HOUR: Duration = Duration::from_secs(3600);

async fn run(args: &[&str], env: &[(&str, &str)]) -> Ended {
    let mut command = Command::new(WEFT);
    command.args(args).stdin(Stdio::null());
    command.env("HOME", "/nonexistent").env_remove("KUBECONFIG");
    command
        .env_remove("KUBERNETES_SERVICE_HOST")
        .envs(env.iter().copied());
    // The server runs on this runtime.
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended {
        code: output.status.code(),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}

/// A definition that lets every object of the kind be.
fn definition(kind: &str, plural: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.gateway.networking.k8s.io")},
        "spec": {
            "group": "gateway.networking.k8s.io", "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {
                    "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                }},
            }],
        },
    })
}

/// A pod that is ready, with one container, called as the image is.
fn pod(namespace: &str, name: &str, image: &str) -> Value {
    // One for each pod.
    let sum: u32 = name.bytes().map(u32::from).sum();
    let address = format!("10.0.1.{}", sum % 250);
    let (container, _) = image.split_once(':').unwrap();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
        "spec": {"serviceAccountName": "default",
            "containers": [{"name": container, "image": format!("registry.test/{image}")}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn slice(namespace: &str, service: &str, endpoints: &[(&str, Option<&str>)]) -> Value {
    let endpoints = endpoints.iter().map(|(address, pod)| {
        let mut endpoint = json!({"addresses": [address], "conditions": {"ready": true}});
        if let Some(pod) = pod {
            endpoint["targetRef"] = json!({"kind": "Pod", "name": pod, "namespace": namespace});
        }
        endpoint
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-1"), "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

fn secret(name: &str, data: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "data": data,
        "metadata": {"name": name, "namespace": "weft"},
    })
}

fn webhook(ca: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": cluster::WEBHOOK_CONFIGURATION},
        "webhooks": [{
            "name": "namespaces.weft.dev", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"caBundle": STANDARD.encode(ca),
                "service": {"namespace": "weft", "name": cluster::WEBHOOK_SERVICE}},
            // Nothing here is to call it.
            "rules": [],
        }],
    })
}

fn bundle(namespace: &str, pem: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {cluster::TRUST_BUNDLE_KEY: pem},
        "metadata": {"name": cluster::TRUST_BUNDLE, "namespace": namespace},
    })
}

/// The same for the whole test.
fn root(name: &str) -> String {
    static ROOTS: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let root = || certificate("weft root", DAY, 3_650 * DAY + HOUR);
    match name {
        "1" => ROOTS.get_or_init(root).clone(),
        _ => root(),
    }
}

fn certificate(name: &str, age: Duration, left: Duration) -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now();
    params.not_before = (now - age).into();
    params.not_after = (now + left).into();
    params
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap()
        .pem()
}

/// What the page shows is what users see.
#[test]
fn the_page_has_the_real_output() {
    let page = include_str!("../../docs/check.md");
    for golden in [
        include_str!("check_cluster/bare.txt"),
        include_str!("check_cluster/faults.txt"),
    ] {
        assert!(page.contains(&format!("```text\n{golden}```")), "{golden}");
    }
}

fn assert_golden(out: &str, golden: &str) {
    assert_eq!(out, golden, "\n{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bare_cluster() {
    let world = World::bare().await;
    let ended = world.weft(&["check", "--pre"]).await;
    assert_golden(&ended.out, include_str!("check_cluster/bare.txt"));
    assert_eq!((ended.code, ended.err.as_str()), (Some(1), ""));

    // The routes are all that was missed.
    world.put(definition("HTTPRoute", "httproutes")).await;
    world.put(definition("GRPCRoute", "grpcroutes")).await;
    let ended = world.weft(&["check", "--pre"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.out);

    // Nothing is installed.
    let ended = world.weft(&["check", "-o", "json"]).await;
    assert_eq!(ended.code, Some(2));
    let object: Value = serde_json::from_str(&ended.out).unwrap();
    let failed: Vec<_> = object["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|line| line["state"] == "failed")
        .map(|line| {
            assert!(!line["hint"].as_str().unwrap().is_empty(), "{line}");
            format!("{}/{}", line["category"], line["check"]).replace('"', "")
        })
        .collect();
    assert_eq!(
        failed,
        [
            "definitions/traffic-policy",
            "control plane/pods",
            "control plane/service",
            "control plane/lease",
            "webhook/configuration",
            "certificates/authority",
            "certificates/roots",
        ]
    );
    assert_eq!(object["failed"], failed.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_with_three_faults_and_without() {
    let world = World::installed().await;
    let ended = world.weft(&["check"]).await;
    assert_eq!(
        (ended.code, ended.err.as_str()),
        (Some(0), ""),
        "{}",
        ended.out
    );
    assert_golden(&ended.out, include_str!("check_cluster/installed.txt"));

    world.put(webhook("another authority")).await;
    world.put(pod("bank", "ledger-7d9f", "ledger:2")).await;
    world.put(bundle("bank", &root("2"))).await;
    let ended = world.weft(&["check"]).await;
    assert_golden(&ended.out, include_str!("check_cluster/faults.txt"));
    assert_eq!((ended.code, ended.err.as_str()), (Some(2), ""));
    assert!(!ended.out.contains("secret"), "no key is shown");
}

/// What may not be read is said, and what is there is judged all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_who_may_read_nothing_but_pods() {
    let world = World::installed().await;
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "pods"},
        "rules": [{"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["list"]}],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "pods"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "pods"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "mallory"}],
    });
    for object in [role, binding] {
        world.put(object).await;
    }
    world.server.enforce_roles();
    let kubeconfig = world.kubeconfig(&User::new("mallory", &["developers"]));
    let kubeconfig = kubeconfig.to_str().unwrap();
    let ended = run(&["check", "-o", "json", "--kubeconfig", kubeconfig], &[]).await;
    let object: Value = serde_json::from_str(&ended.out).unwrap();
    let of = |state: &str| -> Vec<String> {
        let all = object["checks"].as_array().unwrap().iter();
        let all = all.filter(|line| line["state"] == state);
        all.map(|line| line["check"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        (ended.code, of("failed")),
        (Some(0), vec![]),
        "{}",
        ended.out
    );
    let ok = [
        "api-server",
        "version",
        "pod-security",
        "other-meshes",
        "pods",
        "injected",
        "versions",
    ];
    assert_eq!(of("ok"), ok);
    assert!(of("skipped").contains(&"authority".to_owned()));
    let before = run(&["check", "--pre", "--kubeconfig", kubeconfig], &[]).await;
    assert_eq!(before.code, Some(2));
    assert!(
        before.out.contains("you may not create 11 kinds"),
        "{}",
        before.out
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_that_are_not_there() {
    let none = run(&["check"], &[]).await;
    assert_eq!((none.code, none.out.as_str()), (Some(64), ""));
    assert!(
        none.err.starts_with("weft check: no cluster is known: "),
        "{}",
        none.err
    );

    let World { server, dir } = World::bare().await;
    let file = dir.path().join("kubeconfig");
    std::fs::write(&file, server.kubeconfig().unwrap()).unwrap();
    let file = file.to_str().unwrap();
    let context = run(
        &["check", "--kubeconfig", file, "--context", "nowhere"],
        &[],
    )
    .await;
    assert_eq!((context.code, context.out.as_str()), (Some(64), ""));
    assert!(context.err.contains("nowhere"), "{}", context.err);
    let named = run(
        &["check", "--pre", "--kubeconfig", file, "--context", "test"],
        &[],
    )
    .await;
    assert_eq!(named.code, Some(1), "{}", named.out);

    server.stop().await;
    let away = run(&["check", "--kubeconfig", file], &[]).await;
    assert_eq!(away.code, Some(2), "{}", away.err);
    assert!(
        away.out
            .contains("the API server's version could not be read"),
        "{}",
        away.out
    );
    assert!(away.out.ends_with("1 check: 1 failed.\n"), "{}", away.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_of_a_cluster_is_explained() {
    let world = World::installed().await;
    let args = ["explain", "service/web", "-n", "shop", "-o", "json"];
    let ended = world.weft(&args).await;
    assert_eq!(
        (ended.code, ended.err.as_str()),
        (Some(0), ""),
        "{}",
        ended.out
    );
    let object: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(object["ports"].as_array().unwrap().len(), 1);
    assert!(ended.out.contains("\"3s\""), "{}", ended.out);

    let none = world
        .weft(&["explain", "service/nothing", "-n", "shop"])
        .await;
    assert_eq!((none.code, none.out.as_str()), (Some(2), ""));
    let nowhere = run(&["explain", "service/web"], &[]).await;
    assert_eq!(nowhere.code, Some(64));
    assert!(
        nowhere.err.contains("no cluster is known"),
        "{}",
        nowhere.err
    );
}
