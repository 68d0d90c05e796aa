//! A cluster that has nothing to do with a mesh yet, and what is done in it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use http::{Method, StatusCode};
use kube::config::Kubeconfig;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use weft_proto::names::{CONTROL_PLANE_NAMESPACE, PROXY_CONTAINER, cluster, env, ports};
use weft_sandbox::Pod;
use weft_sandbox::app::{CONTROL_PORT, Control, Stats};
use weft_sandbox::kubelet::{Event, Images, Kubelet, Settings};
use weft_sandbox::metrics::Metrics;
use weft_sandbox::pod::Forward;
use weft_sandbox::process::Program;
use weft_tests::apiserver::{ApiServer, User};
use weft_tests::counts::{self, wait_for};

use crate::Cx;
use crate::controllers::{self, is_ending, is_ready};

/// How long something may take that a loaded machine does in a second or two.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
/// What a test may take: what hangs is named instead of waited for.
const LIMIT: Duration = Duration::from_secs(120);
/// The namespace of the applications.
pub(crate) const SHOP: &str = "shop";
/// The port of every application, and of every service.
pub(crate) const APP_PORT: u16 = 8080;
pub(crate) const PORT: u16 = 80;
/// The application's container.
pub(crate) const APP: &str = "app";
/// The mesh's own namespace.
pub(crate) const WEFT: &str = CONTROL_PLANE_NAMESPACE;
const WEFT_PROGRAM: &str = env!("CARGO_BIN_EXE_weft-under-test");
/// Paths of requests that no test counts: the kubelet's, and the first ones.
const HEALTHY: &str = "/healthy";
const REACHED: &str = "/reached";
const CALLER_PROGRAM: &str = env!("CARGO_BIN_EXE_weft-caller");
/// Where the logs of failing tests are kept; nowhere without it.
const KEEP_LOGS: &str = "WEFT_TEST_LOGS";

/// A cluster of one node.
pub(crate) struct World {
    pub(crate) server: Arc<ApiServer>,
    pub(crate) kubelet: Kubelet,
    _webhook: Forward,
    _controllers: JoinSet<()>,
}

/// Runs a test in a cluster with Weft, which is all ready. Where it fails, the ends of all logs are shown.
pub(crate) async fn installed(
    cx: &Cx,
    test: impl AsyncFnOnce(&World) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    bare(cx, async |world| {
        let begin = Instant::now();
        world.install(&manifest()?).await?;
        world.all_ready().await?;
        cx.measured(format!(
            "all of Weft was ready after {:.1?}",
            begin.elapsed()
        ));
        test(world).await
    })
    .await
}

/// As [`installed`], where sidecars are as for clusters before Kubernetes 1.29.
pub(crate) async fn installed_legacy(
    cx: &Cx,
    test: impl AsyncFnOnce(&World) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    bare(cx, async |world| {
        let mut manifest = manifest()?;
        // As the chart does with `proxy.sidecarMode=legacy`.
        let mut variables = manifest
            .iter_mut()
            .filter(|object| object["metadata"]["name"] == "weft-injector")
            .filter_map(|object| {
                let variables = object.pointer_mut("/spec/template/spec/containers/0/env");
                variables?.as_array_mut()
            })
            .flatten();
        let mode = variables.find(|variable| variable["name"] == env::SIDECAR_MODE);
        mode.context("the injector is told a mode")?["value"] = json!("legacy");
        world.install(&manifest).await?;
        world.all_ready().await?;
        test(world).await
    })
    .await
}

/// Runs a test in a cluster without anything.
pub(crate) async fn bare(
    cx: &Cx,
    test: impl AsyncFnOnce(&World) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let world = World::start(cx).await?;
    let begin = Instant::now();
    let bounded = tokio::time::timeout(LIMIT, test(&world)).await;
    let result = bounded.unwrap_or_else(|_| Err(anyhow::anyhow!("not done after {LIMIT:?}")));
    if let Err(error) = result {
        let pods = world.describe().await;
        if let Some(to) = std::env::var_os(KEEP_LOGS) {
            let to = Path::new(&to).join(cx.name.replace("::", "."));
            world.kubelet.keep_logs(&to)?;
        }
        let forbidden = world.server.forbidden();
        let tails = world.kubelet.log_tails();
        return Err(error.context(format!("{pods}what no role allows: {forbidden:?}\n{tails}")));
    }
    // Every permission that anybody needed, a role of the chart gave.
    let forbidden = world.server.forbidden();
    anyhow::ensure!(forbidden.is_empty(), "what no role allows: {forbidden:?}");
    cx.measured(format!("ran for {:.1?}", begin.elapsed()));
    Ok(())
}

/// The objects of `weft install`, in their order.
pub(crate) fn manifest() -> anyhow::Result<Vec<Value>> {
    let printed = Command::new(WEFT_PROGRAM).arg("install").output()?;
    anyhow::ensure!(printed.status.success(), "weft install: {printed:?}");
    let text = String::from_utf8(printed.stdout)?;
    let documents = text.split("\n---").filter(|text| {
        let mut lines = text.lines().map(str::trim);
        lines.any(|line| !line.is_empty() && !line.starts_with(['#', '-']))
    });
    let read = documents.map(|text| {
        let read: Result<Value, _> = serde_saphyr::from_str(text);
        read.with_context(|| format!("what weft install prints: {text}"))
    });
    read.collect()
}

impl World {
    async fn start(cx: &Cx) -> anyhow::Result<Self> {
        let server = Arc::new(ApiServer::start().await?);
        server.enforce_roles();
        let api = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "namespace": "default"},
            "spec": {"ports": [{"name": "https", "port": 443, "targetPort": 6443}]},
        });
        server.put(&api).await?;
        let weft = Program::new(WEFT_PROGRAM);
        let internal = weft.clone().arg("internal");
        let images = Images::new()
            .program("weft-proxy", internal.clone().arg("proxy"))
            .program("weft-control-plane", internal.clone().arg("control-plane"))
            .program("weft-injector", internal.clone().arg("injector"))
            .program("weft-app", internal.arg("app"))
            .program("weft-caller", Program::new(CALLER_PROGRAM))
            .program("weft", weft);
        let settings = Settings {
            name: cx.name.replace("::", "-"),
            kubeconfig: Kubeconfig::from_yaml(&server.kubeconfig_of(&User::admin())?)?,
            api: (server.address(), server.ca()),
            images,
        };
        let kubelet = Kubelet::start(&cx.sandbox, settings).await?;
        // The API server is not in the cluster's network: it gets to the service through this.
        let (webhook, guard) = kubelet.expose(WEFT, cluster::WEBHOOK_SERVICE, 443).await?;
        server.route_webhook((WEFT, cluster::WEBHOOK_SERVICE), webhook);
        let mut running = JoinSet::new();
        running.spawn(controllers::run(Arc::clone(&server)));
        Ok(Self {
            server,
            kubelet,
            _webhook: guard,
            _controllers: running,
        })
    }

    /// Creates objects, in their order.
    pub(crate) async fn install(&self, objects: &[Value]) -> anyhow::Result<()> {
        for object in objects {
            let name = &object["metadata"]["name"];
            let put = self.server.put(object).await;
            put.with_context(|| format!("creating {} {name}", object["kind"]))?;
        }
        Ok(())
    }

    /// Waits until all of Weft's own pods are ready, and the webhook has been told the certificate's roots.
    pub(crate) async fn all_ready(&self) -> anyhow::Result<()> {
        for name in ["weft-control-plane", "weft-injector"] {
            self.rolled_out(WEFT, name).await?;
        }
        Ok(())
    }

    /// Makes a namespace, labelled or not.
    pub(crate) async fn namespace(&self, name: &str, label: Option<&str>) -> anyhow::Result<()> {
        let labels = label.map_or(json!({}), |label| json!({"weft.dev/inject": label}));
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels},
        });
        self.server.put(&namespace).await?;
        Ok(())
    }

    pub(crate) async fn get(&self, path: &str) -> Option<Value> {
        let (code, object) = self.server.ask(Method::GET, path, None).await;
        (code == 200).then_some(object)
    }

    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<()> {
        let (code, answer) = self.server.ask(Method::DELETE, path, None).await;
        anyhow::ensure!(code < 300, "deleting {path}: {}", answer["message"]);
        Ok(())
    }

    /// Merges a patch into an object.
    pub(crate) async fn patch(&self, path: &str, patch: &Value) -> anyhow::Result<()> {
        let (code, answer) = self.server.ask(Method::PATCH, path, Some(patch)).await;
        anyhow::ensure!(code < 300, "patching {path}: {}", answer["message"]);
        Ok(())
    }

    /// A pod's object, as the API server has it.
    pub(crate) async fn object(&self, namespace: &str, name: &str) -> Option<Value> {
        self.get(&format!("/api/v1/namespaces/{namespace}/pods/{name}"))
            .await
    }

    /// Pods that carry the label `app: NAME`, ending ones too.
    pub(crate) async fn pods(&self, namespace: &str, app: &str) -> Vec<Value> {
        let mut pods = self.pods_of(namespace).await;
        pods.retain(|pod| pod["metadata"]["labels"]["app"] == app);
        pods
    }

    /// All pods of a namespace.
    pub(crate) async fn pods_of(&self, namespace: &str) -> Vec<Value> {
        let list = self
            .get(&format!("/api/v1/namespaces/{namespace}/pods"))
            .await;
        let list = list.unwrap_or_default();
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until a deployment is all of its newest template and all ready.
    pub(crate) async fn rolled_out(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments/{name}");
        wait_for(
            &format!("deployment {name} is rolled out"),
            PATIENCE,
            async || {
                let deployment = self.get(&path).await.context("no such deployment")?;
                let status = &deployment["status"];
                let mut conditions = status["conditions"].as_array().into_iter().flatten();
                let is_complete = conditions
                    .any(|it| it["type"] == "Complete" && it["status"] == "True")
                    && status["observedGeneration"] == deployment["metadata"]["generation"];
                Ok(is_complete.then_some(()))
            },
        )
        .await
    }

    /// Waits until a pod is ready: its place.
    pub(crate) async fn ready(&self, namespace: &str, name: &str) -> anyhow::Result<Pod> {
        wait_for(&format!("pod {name} is ready"), PATIENCE, async || {
            let pod = self.object(namespace, name).await.context("no such pod")?;
            Ok(is_ready(&pod)
                .then(|| self.kubelet.pod(namespace, name))
                .flatten())
        })
        .await
    }

    /// The names of an application's pods that are not ending.
    pub(crate) async fn names(&self, namespace: &str, app: &str) -> Vec<String> {
        let pods = self.pods(namespace, app).await;
        let pods = pods.iter().filter(|pod| !is_ending(pod));
        pods.map(name_of).collect()
    }

    /// Where clients find a service.
    pub(crate) async fn service(&self, namespace: &str, name: &str) -> anyhow::Result<SocketAddr> {
        let path = format!("/api/v1/namespaces/{namespace}/services/{name}");
        let service = self.get(&path).await.context("no such service")?;
        let address = service["spec"]["clusterIP"].as_str().unwrap_or_default();
        Ok(SocketAddr::new(address.parse()?, PORT))
    }

    /// Waits until a client gets an answer of a service, whose endpoints may be on their way to it.
    pub(crate) async fn reaches(&self, client: &Pod, to: SocketAddr) -> anyhow::Result<()> {
        wait_for(
            &format!("{} reaches {to}", client.name()),
            PATIENCE,
            async || {
                let answer = client.get(to, REACHED).await?;
                Ok((answer.status == StatusCode::OK).then_some(()))
            },
        )
        .await
    }

    /// What an application's pod has seen so far, without what the kubelet and [`Self::reaches`] asked.
    pub(crate) async fn stats(&self, namespace: &str, name: &str) -> anyhow::Result<Stats> {
        let pod = self.kubelet.pod(namespace, name);
        let pod = pod.with_context(|| format!("pod {name} has no place"))?;
        Ok(asked(Control::new(pod, CONTROL_PORT).stats().await?))
    }

    /// What several pods of an application have seen, those that have ended by their last words.
    pub(crate) async fn seen(&self, namespace: &str, names: &[String]) -> anyhow::Result<Stats> {
        let mut all = Stats::default();
        for name in names {
            let one = if let Ok(stats) = self.stats(namespace, name).await {
                stats
            } else {
                let log = self.kubelet.log(namespace, name, APP);
                let line = log.lines().last().unwrap_or_default().to_owned();
                let read = serde_json::from_str(&line);
                asked(read.with_context(|| format!("the last words of {name}: {line}"))?)
            };
            counts::add(&mut all, &one);
        }
        Ok(all)
    }

    /// The sidecar's metrics, as its pod sees them.
    pub(crate) async fn metrics(&self, pod: &Pod) -> anyhow::Result<Metrics> {
        let page = pod.get_local(ports::ADMIN, "/metrics").await?;
        Ok(Metrics::parse(&page.text()))
    }

    /// The first moment of a pod's container at which this happened, as its number.
    pub(crate) fn moment(
        &self,
        (namespace, pod): (&str, &str),
        container: &str,
        event: Event,
    ) -> anyhow::Result<usize> {
        let moments = self.kubelet.moments(namespace, pod);
        let found = moments
            .iter()
            .position(|moment| moment.container == container && moment.event == event);
        found.with_context(|| format!("{container} of {pod}: no {event:?} in {moments:#?}"))
    }

    /// Every pod with its phase and what its containers do.
    async fn describe(&self) -> String {
        let list = self.get("/api/v1/pods").await.unwrap_or_default();
        let pods = list["items"].as_array().into_iter().flatten();
        let pods = pods.map(|pod| {
            let (metadata, status) = (&pod["metadata"], &pod["status"]);
            let mut line = format!(
                "{}/{}: {} {}",
                metadata["namespace"], metadata["name"], status["phase"], status["message"]
            );
            for part in ["initContainerStatuses", "containerStatuses"] {
                for container in status[part].as_array().into_iter().flatten() {
                    let (name, state) = (&container["name"], &container["state"]);
                    let _ = write!(line, " [{name} {state} ready {}]", container["ready"]);
                }
            }
            line + "\n"
        });
        pods.collect()
    }
}

/// Without requests that no test counts.
fn asked(mut stats: Stats) -> Stats {
    for path in [HEALTHY, REACHED] {
        stats.requests -= stats.routes.remove(&format!("GET {path}")).unwrap_or(0);
    }
    stats
}

pub(crate) fn name_of(pod: &Value) -> String {
    pod["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// The template of an application's pods: it serves HTTP, and says in its answers which version it is.
pub(crate) fn template(app: &str, version: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {
            "terminationGracePeriodSeconds": 10,
            "securityContext": {"runAsUser": 1000, "runAsGroup": 1000},
            "containers": [{
                "name": APP,
                "image": "registry.example/shop/weft-app:1",
                "env": [{"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "args": ["--name", "$(ME)", "--app-version", version,
                         "--serve", format!("http:{APP_PORT}")],
                "ports": [{"name": "http", "containerPort": APP_PORT}],
                "readinessProbe": {
                    "httpGet": {"path": HEALTHY, "port": "http"}, "periodSeconds": 1,
                },
            }],
        },
    })
}

/// A pod of an application.
pub(crate) fn pod(namespace: &str, name: &str) -> Value {
    let mut pod = template(name, "v1");
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = name.into();
    pod["metadata"]["namespace"] = namespace.into();
    pod
}

/// A service account.
pub(crate) fn account(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": namespace},
    })
}

/// An application as a deployment.
pub(crate) fn deployment(name: &str, replicas: usize, version: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": SHOP},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": template(name, version),
        },
    })
}

/// The service of an application.
pub(crate) fn service(namespace: &str, app: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": app, "namespace": namespace},
        "spec": {
            "selector": {"app": app},
            "ports": [{"name": "http", "port": PORT, "targetPort": "http", "appProtocol": "http"}],
        },
    })
}

/// Nothing but mutual TLS in a namespace.
pub(crate) fn strict(namespace: &str) -> Value {
    json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "TrafficPolicy",
        "metadata": {"name": "strict", "namespace": namespace},
        "spec": {"targetRefs": [{"kind": "Namespace", "name": namespace}], "mtls": {"mode": "Strict"}},
    })
}

/// Whether a pod has a sidecar, as the API server has it.
pub(crate) fn has_sidecar(pod: &Value) -> bool {
    let parts = ["initContainers", "containers"].map(|part| pod["spec"][part].as_array());
    let mut all = parts.into_iter().flatten().flatten();
    all.any(|container| container["name"] == PROXY_CONTAINER)
}
