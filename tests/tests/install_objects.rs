//! `weft install`, `weft upgrade` and `weft uninstall` with `kubectl` between them and an API server: what is
//! there afterwards, and what is not. What there is is asked of the server, and not of `kubectl`.
#![allow(clippy::unwrap_used)] // In helpers of tests too.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use weft_proto::names::CONTROL_PLANE_SERVICE_ACCOUNT;
use weft_tests::apiserver::{ApiServer, User};

const WEFT: &str = env!("CARGO_BIN_EXE_weft-under-test");
const PATIENCE: Duration = Duration::from_secs(60);
const WEBHOOKS: &str =
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/weft-injector";
const POLICY: &str = "/apis/weft.dev/v1alpha1/namespaces/shop/trafficpolicies/web";

/// What a command said.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    /// What it printed, where it was content.
    fn well(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self.out
    }
}

/// An API server, and whoever uses it from a shell.
struct World {
    server: ApiServer,
    dir: tempfile::TempDir,
}

impl World {
    /// None where there is no `kubectl`. CI has it.
    async fn new(test: &str) -> Option<Self> {
        let version = Command::new("kubectl")
            .args(["version", "--client"])
            .output();
        if version.is_err() {
            assert!(std::env::var_os("CI").is_none(), "CI has kubectl");
            eprintln!("{test}: left out, as there is no kubectl");
            return None;
        }
        let server = ApiServer::start().await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config");
        std::fs::write(config, server.kubeconfig().unwrap()).unwrap();
        Some(Self { server, dir })
    }

    /// Runs a line of `kubectl`'s arguments.
    async fn kubectl(&self, line: &str, input: &str) -> Said {
        let mut command = Command::new("kubectl");
        command
            .args(line.split_whitespace())
            .env("KUBECONFIG", self.dir.path().join("config"))
            // It keeps what it has discovered there.
            .env("HOME", self.dir.path());
        run(command, input).await
    }

    async fn at(&self, path: &str) -> Option<Value> {
        let (code, object) = self.server.ask(Method::GET, path, None).await;
        (code == 200).then_some(object)
    }

    /// A namespace of an application that wants sidecars, and a policy in it.
    async fn shop(&self) -> Value {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "shop", "labels": {"weft.dev/inject": "enabled"}},
        });
        self.server.put(&namespace).await.unwrap();
        let policy = json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "TrafficPolicy",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"targetRefs": [{"kind": "Service", "name": "web"}],
                "timeouts": {"request": "3s"}},
        });
        self.kubectl("apply -f -", &policy.to_string()).await.well();
        self.at(POLICY).await.unwrap()
    }

    /// Every object of every kind that the server tells of, as `KIND NAMESPACE/NAME`.
    async fn everything(&self) -> BTreeSet<String> {
        let groups = self.at("/apis").await.unwrap();
        let groups = groups["groups"].as_array().unwrap().clone();
        let versions = groups
            .iter()
            .map(|group| &group["preferredVersion"]["groupVersion"]);
        let mut roots: Vec<_> = versions
            .map(|version| format!("/apis/{}", version.as_str().unwrap()))
            .collect();
        roots.push("/api/v1".to_owned());
        let mut found = BTreeSet::new();
        for root in roots {
            let resources = self.at(&root).await.unwrap();
            for resource in resources["resources"].as_array().unwrap() {
                let verbs = resource["verbs"].as_array().unwrap();
                if !verbs.contains(&"list".into()) {
                    continue;
                }
                let path = format!("{root}/{}", resource["name"].as_str().unwrap());
                let list = self.at(&path).await.unwrap();
                let kind = resource["kind"].as_str().unwrap();
                for object in list["items"].as_array().unwrap() {
                    found.insert(line(kind, &object["metadata"]));
                }
            }
        }
        // Two groups have them.
        found.retain(|line| !line.starts_with("Event "));
        found
    }
}

/// A control plane that runs as a process, with the rights that the manifest gives to its service account.
struct ControlPlane(Child);

impl ControlPlane {
    fn start(world: &World, namespace: &str) -> Self {
        let file = world.dir.path().join("control-plane");
        let user = User::service_account(namespace, CONTROL_PLANE_SERVICE_ACCOUNT);
        std::fs::write(&file, world.server.kubeconfig_of(&user).unwrap()).unwrap();
        let log = std::fs::File::create(world.dir.path().join("log")).unwrap();
        let child = Command::new(WEFT)
            .args(["internal", "control-plane", "serve"])
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .env("KUBECONFIG", file)
            .env("WEFT_NAMESPACE", namespace)
            .env("WEFT_POD_NAME", "control-plane-1")
            .env("WEFT_POD_IP", "127.0.0.1")
            .env("WEFT_LEASE_DURATION", "3s")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
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

async fn run(mut command: Command, input: &str) -> Said {
    let input = input.to_owned();
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let ran = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    });
    let output = ran.await.unwrap();
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs `weft` with a line of arguments.
async fn weft(line: &str) -> Said {
    let mut command = Command::new(WEFT);
    command.args(line.split_whitespace());
    run(command, "").await
}

fn line(kind: &str, metadata: &Value) -> String {
    let text = |name: &str| metadata[name].as_str().unwrap_or_default();
    format!("{kind} {}/{}", text("namespace"), text("name"))
}

/// The objects of a manifest, as [`World::everything`] has them.
fn lines(manifest: &str) -> Vec<String> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(manifest).unwrap();
    let objects = objects.iter().filter(|object| !object.is_null());
    objects
        .map(|object| line(object["kind"].as_str().unwrap(), &object["metadata"]))
        .collect()
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_is_not_understood_prints_no_manifest() {
    for (line, why) in [
        (
            "install --set injector.replicas=3",
            "use helm with charts/weft",
        ),
        (
            "install --set namespace=kube-system",
            "a namespace of its own",
        ),
        (
            "upgrade --set image=a --set image=b",
            "--set image is there twice",
        ),
        ("upgrade --set trustDomain=Prod", "a trust domain is"),
        ("uninstall --set image=a", "nothing but namespace"),
        ("uninstall --ha", "unexpected argument"),
    ] {
        let said = weft(line).await;
        assert_eq!((said.code, said.out.as_str()), (Some(64), ""), "{line}");
        assert!(said.err.contains(why), "{line}: {}", said.err);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_object_is_created() {
    for (set, apply) in [
        ("", "apply -f -"),
        ("--ha", "apply -f -"),
        (
            "--ha --set namespace=mesh,trustDomain=prod.example.org --set image=registry.example:5000/a",
            "apply --server-side -f -",
        ),
    ] {
        let Some(world) = World::new("every_object_is_created").await else {
            return;
        };
        let before = world.everything().await;
        let said = weft(&format!("install {set}")).await;
        assert!(said.err.contains("weft check"), "{}", said.err);
        let manifest = said.well();
        world.kubectl(apply, &manifest).await.well();
        let mut wanted = lines(&manifest);
        let namespace = wanted[0].trim_start_matches("Namespace /").to_owned();
        // Every namespace has it.
        wanted.push(format!("ServiceAccount {namespace}/default"));
        let wanted: BTreeSet<_> = wanted.into_iter().collect();
        let after = world.everything().await;
        let made: BTreeSet<_> = after.difference(&before).cloned().collect();
        assert_eq!(made, wanted, "{set}");
        world.server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_version_keeps_policies_and_the_webhooks_trust() {
    for apply in ["apply -f -", "apply --server-side -f -"] {
        let Some(world) = World::new("a_newer_version_keeps_policies").await else {
            return;
        };
        let old = weft("install").await.well();
        world.kubectl(apply, &old).await.well();
        let policy = world.shop().await;
        world.server.enforce_roles();
        let control_plane = ControlPlane::start(&world, "weft");
        let bundles = async || {
            let configuration = world.at(WEBHOOKS).await.unwrap();
            let webhooks = configuration["webhooks"].as_array().unwrap().clone();
            let bundles = webhooks
                .iter()
                .map(|one| one["clientConfig"]["caBundle"].clone());
            bundles.collect::<Vec<_>>()
        };
        until("both webhooks are trusted", async || {
            bundles().await.iter().all(Value::is_string)
        })
        .await;
        let trusted = bundles().await;
        assert_eq!(trusted.len(), 2);
        // Nothing may write it again: what is there afterwards is what the newer manifest left.
        drop(control_plane);
        let service = "/api/v1/namespaces/weft/services/weft-control-plane";
        let address = world.at(service).await.unwrap()["spec"]["clusterIP"].clone();

        let new = weft("upgrade").await.well();
        assert_eq!(new, old, "of one version");
        let newer = new
            .replace("\"0.1.0\"", "\"0.2.0\"")
            .replace(":0.1.0\"", ":0.2.0\"")
            .replace("failureThreshold: 60", "failureThreshold: 90")
            .replace("timeoutSeconds: 5", "timeoutSeconds: 6");
        let newer = newer.replace(
            "  replicas: 2\n",
            "  replicas: 2\n  revisionHistoryLimit: 3\n",
        );
        assert!(newer != new);
        let said = world.kubectl(apply, &newer).await;
        assert_eq!(said.err, "", "nothing to complain about");
        said.well();
        let deployment = "/apis/apps/v1/namespaces/weft/deployments/weft-control-plane";
        let deployment = world.at(deployment).await.unwrap();
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["image"], "weft:0.2.0");
        assert_eq!(container["startupProbe"]["failureThreshold"], 90);
        assert_eq!(deployment["spec"]["revisionHistoryLimit"], 3);
        assert_eq!(
            deployment["metadata"]["labels"]["app.kubernetes.io/version"],
            "0.2.0"
        );
        let configuration = world.at(WEBHOOKS).await.unwrap();
        assert_eq!(configuration["webhooks"][0]["timeoutSeconds"], 6);
        assert_eq!(bundles().await, trusted, "it stays");
        assert_eq!(
            world.at(service).await.unwrap()["spec"]["clusterIP"],
            address
        );
        let kept = world.at(POLICY).await.unwrap();
        for part in ["uid", "generation"] {
            assert_eq!(kept["metadata"][part], policy["metadata"][part], "{part}");
        }
        assert_eq!(kept["spec"], policy["spec"]);

        // Once more changes nothing at all, whatever kubectl says: a budget is always "configured" to it, as its
        // selector is one that patches replace.
        let revision = async || world.at("/api/v1/namespaces").await.unwrap()["metadata"].clone();
        let settled = revision().await;
        let said = world.kubectl(apply, &newer).await.well();
        assert_eq!(revision().await, settled, "{said}");
        world.server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_the_cluster_is_left_but_the_definition() {
    let Some(world) = World::new("nothing_of_the_cluster_is_left").await else {
        return;
    };
    let before = world.everything().await;
    let manifest = weft("install --set namespace=mesh").await.well();
    world.kubectl("apply -f -", &manifest).await.well();
    let policy = world.shop().await;
    world.server.enforce_roles();
    let control_plane = ControlPlane::start(&world, "mesh");
    let in_shop = "/api/v1/namespaces/shop/configmaps/weft-trust-bundle";
    let bundle = async || world.at(in_shop).await.is_some();
    until("a trust bundle for shop", bundle).await;
    let certificate = "/api/v1/namespaces/mesh/secrets/weft-injector-certificate";
    until("a certificate", async || {
        world.at(certificate).await.is_some()
    })
    .await;

    // The control plane runs on until its pods are ended, and makes nothing again.
    let said = weft("uninstall --set namespace=mesh").await;
    let left = said.err.clone();
    let list = said.well();
    let deleted = world
        .kubectl("delete --timeout=60s -f -", &list)
        .await
        .well();
    assert!(
        deleted.starts_with("mutatingwebhookconfiguration."),
        "{deleted}"
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    drop(control_plane);
    let after = world.everything().await;
    let rest: BTreeSet<_> = after.difference(&before).map(String::as_str).collect();
    let kept = BTreeSet::from([
        "CustomResourceDefinition /trafficpolicies.weft.dev",
        "TrafficPolicy shop/web",
        "ConfigMap shop/weft-trust-bundle",
        "Namespace /shop",
        "ServiceAccount shop/default",
    ]);
    assert_eq!(rest, kept);
    let now = world.at(POLICY).await.unwrap();
    assert_eq!(now["metadata"]["uid"], policy["metadata"]["uid"]);
    assert_eq!(now["spec"], policy["spec"]);

    // A mesh that is installed anew finds its policies; its authority is another one, whose roots go where the
    // former one's were left.
    let roots = async || world.at(in_shop).await.unwrap()["data"].clone();
    let former = roots().await;
    world.kubectl("apply -f -", &manifest).await.well();
    let control_plane = ControlPlane::start(&world, "mesh");
    until("the new roots", async || roots().await != former).await;
    let now = world.at(POLICY).await.unwrap();
    assert_eq!(now["metadata"]["uid"], policy["metadata"]["uid"]);
    drop(control_plane);

    // It says what is left, and how the rest is removed.
    assert!(
        left.contains("Kept: CustomResourceDefinition trafficpolicies.weft.dev"),
        "{left}"
    );
    // The second time there is nothing, and nothing needs to be there.
    for _ in 0..2 {
        let deleting = world.kubectl("delete --ignore-not-found -f -", &list);
        deleting.await.well();
    }
    let commands = left
        .lines()
        .filter_map(|line| line.trim().strip_prefix("kubectl "));
    // No workload is there that could be restarted.
    let commands: Vec<_> = commands.filter(|line| !line.contains("rollout")).collect();
    assert_eq!(commands.len(), 3, "{left}");
    for command in commands {
        world.kubectl(command, "").await.well();
    }
    let shop = world.at("/api/v1/namespaces/shop").await.unwrap();
    assert!(shop["metadata"]["labels"]["weft.dev/inject"].is_null());
    let after = world.everything().await;
    let rest: Vec<_> = after.difference(&before).map(String::as_str).collect();
    assert_eq!(rest, ["Namespace /shop", "ServiceAccount shop/default"]);
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_namespace_is_empty() {
    let Some(world) = World::new("a_kept_namespace_is_empty").await else {
        return;
    };
    let manifest = weft("install --ha").await.well();
    world.kubectl("apply -f -", &manifest).await.well();
    world.server.enforce_roles();
    let control_plane = ControlPlane::start(&world, "weft");
    let certificate = "/api/v1/namespaces/weft/secrets/weft-injector-certificate";
    until("a certificate", async || {
        world.at(certificate).await.is_some()
    })
    .await;
    let bundle = "/api/v1/namespaces/weft/configmaps/weft-trust-bundle";
    until("a trust bundle", async || world.at(bundle).await.is_some()).await;
    let list = weft("uninstall --keep-namespace").await.well();
    world
        .kubectl("delete --timeout=60s -f -", &list)
        .await
        .well();
    drop(control_plane);
    let rest = world.everything().await;
    let rest: Vec<_> = rest.iter().filter(|line| line.contains(" weft/")).collect();
    assert_eq!(rest, ["ServiceAccount weft/default"]);
    assert!(world.at("/api/v1/namespaces/weft").await.is_some());
    world.server.stop().await;
}
