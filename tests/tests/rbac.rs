//! The control plane with exactly the roles that it prints: nothing that it does is refused, and nothing
//! that it may do is left unused.
#![allow(clippy::unwrap_used)] // In helpers of tests too.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http::Method;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use weft_control_plane::cluster::rbac;
use weft_control_plane::policy::schema;
use weft_proto::names::{CONTROL_PLANE_SERVICE_ACCOUNT, cluster, env};
use weft_tests::apiserver::{ApiServer, User};

const PATIENCE: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "mesh";
const WEFT: &str = env!("CARGO_BIN_EXE_weft-under-test");

/// What a run of this test does not use, as verb and resource, with the reason.
const UNUSED: &[(&str, &str, &str)] = &[
    (
        "create",
        "tokenreviews.authentication.k8s.io",
        "no sidecar connects here",
    ),
    (
        "create",
        "subjectaccessreviews.authorization.k8s.io",
        "nobody with a token asks here",
    ),
];

struct ControlPlane {
    child: Child,
    admin: u16,
}

impl ControlPlane {
    fn start(dir: &Path, kubeconfig: &str) -> Self {
        let file = dir.join("kubeconfig");
        std::fs::write(&file, kubeconfig).unwrap();
        // Taken again below; whoever takes it in between makes the test fail, not pass.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let admin = free.local_addr().unwrap().port();
        drop(free);
        let child = Command::new(WEFT)
            .args([
                "internal",
                "control-plane",
                "serve",
                "--listen",
                "127.0.0.1:0",
            ])
            .args(["--admin", &format!("127.0.0.1:{admin}")])
            .env("KUBECONFIG", file)
            .env(env::NAMESPACE, NAMESPACE)
            .env(env::POD_NAME, "control-plane-1")
            .env(env::POD_IP, "127.0.0.1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, admin }
    }

    /// Code and body of an admin page; code 0 while nobody answers.
    async fn page(&self, path: &str) -> (u16, String) {
        self.ask(path).await.unwrap_or_default()
    }

    async fn ask(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let tcp = TcpStream::connect(("127.0.0.1", self.admin)).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
        tokio::spawn(connection);
        let request = http::Request::get(path).header("host", "admin");
        let answer = sender
            .send_request(request.body(Empty::<bytes::Bytes>::new())?)
            .await?;
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        Ok((code, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Waits for a page of which this is true.
    async fn until(&self, path: &str, is_so: impl Fn(u16, &str) -> bool) -> String {
        let mut last = (0, String::new());
        let waiting = async {
            loop {
                last = self.page(path).await;
                if is_so(last.0, &last.1) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let came = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(came.is_ok(), "{path} is at last {last:?}");
        last.1
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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

/// A server with Weft's kinds and the control plane's account, where only roles allow anything.
async fn server(roles: &[Value]) -> (ApiServer, String) {
    let server = ApiServer::start().await.unwrap();
    let policies: Value = serde_saphyr::from_str(&schema::crd()).unwrap();
    server.put(&policies).await.unwrap();
    for (kind, plural) in [
        ("HTTPRoute", "httproutes"),
        ("GRPCRoute", "grpcroutes"),
        ("ReferenceGrant", "referencegrants"),
    ] {
        server.put(&definition(kind, plural)).await.unwrap();
    }
    let own = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": CONTROL_PLANE_SERVICE_ACCOUNT, "namespace": NAMESPACE},
    });
    for object in [own, account].iter().chain(roles) {
        server.put(object).await.unwrap();
    }
    let account = (NAMESPACE, CONTROL_PLANE_SERVICE_ACCOUNT);
    let token = server.mint_token(account, &[], Duration::from_secs(3600), None);
    let kubeconfig = server.kubeconfig_with_token(&token);
    server.enforce_roles();
    (server, kubeconfig)
}

/// A namespace whose pods get sidecars, or no longer.
fn namespace(name: &str, wants_sidecars: bool) -> Value {
    let word = if wants_sidecars {
        "enabled"
    } else {
        "disabled"
    };
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"weft.dev/inject": word}},
    })
}

/// Something of each kind that is read, and something to change of each that is written.
async fn populate(server: &ApiServer) {
    let meta = |name: &str| json!({"name": name, "namespace": "default"});
    for object in [
        namespace("shop", true),
        namespace("bank", true),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {cluster::TRUST_BUNDLE_KEY: "old"},
            "metadata": {"name": cluster::TRUST_BUNDLE, "namespace": "shop"}}),
        json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "data": {"tls.crt": "YQ==", "tls.key": "YQ=="},
            "metadata": {"name": cluster::WEBHOOK_SECRET, "namespace": NAMESPACE,
                "labels": {cluster::MANAGED_BY_LABEL: cluster::MANAGED_BY}}}),
        json!({"apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": cluster::WEBHOOK_CONFIGURATION},
            "webhooks": [{"name": "a.weft.dev", "sideEffects": "None", "rules": [],
                "admissionReviewVersions": ["v1"],
                "clientConfig": {"service": {"namespace": NAMESPACE,
                    "name": cluster::WEBHOOK_SERVICE}}}]}),
    ] {
        server.put(&object).await.unwrap();
    }
    for object in [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta("web"),
            "spec": {"clusterIP": "10.96.0.9", "ports": [{"name": "http", "port": 80},
                {"name": "grpc", "port": 81}]}}),
        json!({"apiVersion": "weft.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": meta("web"),
            "spec": {"targetRefs": [{"kind": "Service", "name": "web"}], "timeouts": {"request": "1s"}}}),
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": meta("web"),
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80}],
                "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}}),
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GRPCRoute",
            "metadata": meta("rpc"),
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 81}],
                "rules": [{"backendRefs": [{"name": "web", "port": 81}]}]}}),
        // What it targets is not there, which makes an event.
        json!({"apiVersion": "weft.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": meta("lost"),
            "spec": {"targetRefs": [{"kind": "Service", "name": "lost"}], "timeouts": {"request": "1s"}}}),
    ] {
        server.put(&object).await.unwrap();
    }
}

fn wanted_at_all(asked: &BTreeSet<(&'static str, String)>, verb: &str, what: &str) -> bool {
    asked.iter().any(|it| it.0 == verb && it.1 == what)
}

/// What the control plane made and keeps, as `weft check` sees it.
async fn what_was_made_is_what_check_wants(server: &ApiServer, dir: &Path) {
    let file = dir.join("admin");
    std::fs::write(&file, server.kubeconfig().unwrap()).unwrap();
    let mut command = Command::new(WEFT);
    command.args(["check", "-o", "json", "-n", NAMESPACE, "--kubeconfig"]);
    command.arg(file);
    // The server runs on this runtime.
    let checking = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = checking.await.unwrap();
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = object["checks"].as_array().unwrap();
    for (category, check) in [
        ("control plane", "lease"),
        ("webhook", "configuration"),
        ("webhook", "ca-bundle"),
        ("certificates", "authority"),
        ("certificates", "roots"),
        ("certificates", "trust-bundles"),
        ("certificates", "webhook"),
    ] {
        let mut lines = checks.iter();
        let line = lines.find(|it| it["category"] == category && it["check"] == check);
        let line = line.unwrap_or_else(|| panic!("no {check} in {object:#}"));
        assert_eq!(line["state"], "ok", "{line:#}");
    }
}

/// Waits until the control plane has done all of these.
async fn until(server: &ApiServer, wanted: &[(&str, &str)]) {
    let user = User::service_account(NAMESPACE, CONTROL_PLANE_SERVICE_ACCOUNT).name;
    let mut missing = Vec::new();
    let waiting = async {
        loop {
            let seen = server.seen();
            let done = |(verb, what): &(&str, &str)| {
                let mut seen = seen.keys().filter(|seen| seen.user == user);
                seen.any(|seen| seen.verb == *verb && seen.resource == *what)
            };
            missing = wanted.iter().copied().filter(|it| !done(it)).collect();
            if missing.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let came = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(came.is_ok(), "it may do this and never does: {missing:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_run_needs_all_of_its_roles_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let (server, kubeconfig) = server(&rbac::manifests(NAMESPACE)).await;
    populate(&server).await;
    let control_plane = ControlPlane::start(dir.path(), &kubeconfig);
    control_plane.until("/ready", |code, _| code == 200).await;
    const METRIC: &str = "weft_control_plane_permissions_missing{";
    let asked = rbac::permissions().map(|it| (it.verb, it.resource_and_group()));
    let asked: BTreeSet<_> = asked.collect();
    let page = control_plane
        .until("/metrics", |_, page| {
            page.matches(METRIC).count() == asked.len()
        })
        .await;
    let missing = page
        .lines()
        .filter(|line| line.starts_with(METRIC) && !line.ends_with(" 0"));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&str>::new());
    until(
        &server,
        &[("create", "configmaps"), ("patch", "configmaps")],
    )
    .await;
    server.put(&namespace("bank", false)).await.unwrap();
    // Whatever is done at all is done by now, or in the next seconds.
    let excused = UNUSED.iter().map(|(verb, what, _)| (*verb, *what));
    let excused: BTreeSet<_> = excused.collect();
    let wanted = asked.iter().map(|(verb, what)| (*verb, what.as_str()));
    let wanted: Vec<_> = wanted.filter(|it| !excused.contains(it)).collect();
    until(&server, &wanted).await;

    what_was_made_is_what_check_wants(&server, dir.path()).await;
    assert_eq!(
        server.forbidden(),
        Default::default(),
        "what it did and may not do"
    );
    let user = User::service_account(NAMESPACE, CONTROL_PLANE_SERVICE_ACCOUNT).name;
    let seen = server.seen().into_keys().filter(|seen| seen.user == user);
    let used: BTreeSet<_> = seen.map(|seen| (seen.verb, seen.resource)).collect();
    let used = |verb: &'static str, what: &str| used.contains(&(verb, what.to_owned()));
    let stale: Vec<_> = excused
        .iter()
        .filter(|(verb, what)| used(verb, what))
        .collect();
    assert!(stale.is_empty(), "used, so nothing to excuse: {stale:?}");
    let needless = excused.iter();
    let needless: Vec<_> = needless
        .filter(|(verb, what)| !wanted_at_all(&asked, verb, what))
        .collect();
    assert!(
        needless.is_empty(),
        "no rules, so nothing to excuse: {needless:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_named_and_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut roles = rbac::manifests(NAMESPACE);
    let is_about = |rule: &Value, resource: &str| {
        rule["resources"]
            .as_array()
            .unwrap()
            .iter()
            .any(|it| it == resource)
    };
    for (role, resource) in [(0, "trafficpolicies"), (2, "leases")] {
        let rules = roles[role]["rules"].as_array_mut().unwrap();
        rules.retain(|rule| !is_about(rule, resource) || rule["verbs"] == json!(["create"]));
    }
    let (server, kubeconfig) = server(&roles).await;
    let mut control_plane = ControlPlane::start(dir.path(), &kubeconfig);
    let lease = format!(
        "not allowed: get leases.coordination.k8s.io {}\n",
        cluster::LEASE
    );
    let wanted = ["not allowed: list trafficpolicies.weft.dev\n", &lease];
    let page = control_plane
        .until("/ready", |_, page| {
            wanted.iter().all(|line| page.contains(line))
        })
        .await;
    assert!(page.starts_with("not ready\n"), "{page}");
    assert_eq!(page.matches("not allowed: ").count(), 4, "{page}");
    let (_, metrics) = control_plane.page("/metrics").await;
    for line in [
        r#"weft_control_plane_permissions_missing{verb="watch",resource="trafficpolicies.weft.dev"} 1"#,
        r#"weft_control_plane_permissions_missing{verb="update",resource="leases.coordination.k8s.io"} 1"#,
        r#"weft_control_plane_permissions_missing{verb="list",resource="pods"} 0"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert!(
        control_plane.child.try_wait().unwrap().is_none(),
        "it goes on"
    );
    assert!(!server.forbidden().is_empty(), "roles are enforced");
}

/// As text and as objects.
#[tokio::test]
async fn the_printed_roles_are_what_a_server_takes() {
    let printed = Command::new(WEFT)
        .args([
            "internal",
            "control-plane",
            "--print-rbac",
            "--namespace",
            NAMESPACE,
        ])
        .output()
        .unwrap();
    assert!(printed.status.success());
    let text = String::from_utf8(printed.stdout).unwrap();
    assert_eq!(text, rbac::print(NAMESPACE));
    let json = Command::new(WEFT)
        .args(["internal", "control-plane", "--print-rbac", "-o", "json"])
        .env(env::NAMESPACE, NAMESPACE)
        .output()
        .unwrap();
    let list: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(list["items"], json!(rbac::manifests(NAMESPACE)));
    let (server, _) = server(&rbac::manifests(NAMESPACE)).await;
    let (code, _) = server
        .ask(
            Method::GET,
            &format!(
                "/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/roles/{}",
                rbac::ROLE
            ),
            None,
        )
        .await;
    assert_eq!(code, 200);
}
