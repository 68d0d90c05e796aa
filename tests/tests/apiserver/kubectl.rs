//! What `kubectl` does, against the server.

use std::process::Command;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use weft_tests::apiserver::ApiServer;

use super::{definition, policy, until};

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
