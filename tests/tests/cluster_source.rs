//! A cluster as the mesh's source, against the API server for tests.
#![allow(clippy::unwrap_used)] // In helpers of tests too.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use weft_control_plane::index::{MeshSettings, Model, Name};
use weft_control_plane::source::kubernetes::observed::StatusKind;
use weft_control_plane::source::kubernetes::{Following, watch_cluster};
use weft_control_plane::source::progress::{Progress, Watch};
use weft_tests::apiserver::{ApiServer, Outage};
use weft_tests::gateway_crds;

const PATIENCE: Duration = Duration::from_secs(60);
/// What a change may take where nothing is in its way, on a busy machine.
const SECONDS: Duration = Duration::from_secs(20);

/// A source that follows a server.
struct Running {
    server: ApiServer,
    following: Following,
    progress: Progress,
    _end: DropGuard,
}

impl Running {
    /// One whose cluster has two services, `shop/web` and `shop/other`, and a pod behind the first.
    async fn start(prepare: impl AsyncFnOnce(&ApiServer)) -> Self {
        let server = ApiServer::start().await.unwrap();
        for object in [
            namespace("shop", &json!({})),
            service("web", "10.96.0.1"),
            service("other", "10.96.0.2"),
            slice("10.0.0.1", "web-1"),
        ] {
            server.put(&object).await.unwrap();
        }
        run_pod(&server, "web-1", "10.0.0.1").await;
        prepare(&server).await;
        let config = Kubeconfig::from_yaml(&server.kubeconfig().unwrap()).unwrap();
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(config, &options).await;
        let client = Client::try_from(config.unwrap()).unwrap();
        let settings = MeshSettings {
            trust_domain: "cluster.local".to_owned(),
            networks: vec!["10.0.0.0/8".parse().unwrap()],
            server_first_ports: Vec::new(),
            minimum_mtls: None,
            default_authorization: weft_control_plane::policy::DefaultAuthorization::AllowAll,
        };
        let (progress, end) = (Progress::default(), CancellationToken::new());
        let following = watch_cluster(client, settings, progress.clone(), end.clone());
        let following = tokio::time::timeout(SECONDS, following).await;
        Self {
            server,
            following: following.expect("it starts").unwrap(),
            progress,
            _end: end.drop_guard(),
        }
    }

    /// Waits for a model that is as it should be.
    async fn until(&self, what: &str, is_so: impl Fn(&Model) -> bool) -> Duration {
        let began = Instant::now();
        let mut models = self.following.models.clone();
        let waiting = models.wait_for(|model| is_so(model));
        let came = tokio::time::timeout(PATIENCE, waiting).await;
        came.unwrap_or_else(|_| panic!("never: {what}")).unwrap();
        began.elapsed()
    }

    /// Waits for something else.
    async fn until_so(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !is_so(self) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let came = tokio::time::timeout(PATIENCE, waiting).await;
        came.unwrap_or_else(|_| panic!("never: {what}"));
    }

    fn watch(&self, kind: &str) -> Watch {
        let mut watches = self.progress.watches().into_iter();
        watches.find(|watch| watch.kind == kind).unwrap()
    }

    fn model(&self) -> Arc<Model> {
        Arc::clone(&self.following.models.borrow())
    }

    async fn delete(&self, path: &str) {
        let (code, answer) = self.server.ask(Method::DELETE, path, None).await;
        assert!(code < 300, "{answer}");
    }
}

fn namespace(name: &str, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn service(name: &str, ip: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
           "spec": {"clusterIP": ip, "clusterIPs": [ip],
                    "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}})
}

/// A pod that has been created, scheduled and started.
async fn run_pod(server: &ApiServer, name: &str, ip: &str) {
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
                     "metadata": {"name": name, "namespace": "shop"},
                     "spec": {"containers": [{"name": "app", "image": "app"}]}});
    server.put(&pod).await.unwrap();
    let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
    let path = format!("/api/v1/namespaces/shop/pods/{name}/status");
    let (code, answer) = server.ask(Method::PATCH, &path, Some(&status)).await;
    assert_eq!(code, 200, "{answer}");
}

fn slice(ip: &str, pod: &str) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
           "metadata": {"name": "web-a", "namespace": "shop",
                        "labels": {"kubernetes.io/service-name": "web"}},
           "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
           "endpoints": [{"addresses": [ip], "conditions": {"ready": true},
                          "targetRef": {"kind": "Pod", "namespace": "shop", "name": pod}}]})
}

fn route(to: &str) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
           "metadata": {"name": "all", "namespace": "shop"},
           "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80}],
                    "rules": [{"backendRefs": [{"name": to, "port": 80}]}]}})
}

fn policy(attempts: u32) -> Value {
    json!({"apiVersion": "weft.dev/v1alpha1", "kind": "TrafficPolicy",
           "metadata": {"name": "web", "namespace": "shop"},
           "spec": {"targetRefs": [{"kind": "Service", "name": "web"}],
                    "retries": {"attempts": attempts}}})
}

/// The definition of policies, as the chart has it.
fn policies() -> Value {
    let chart = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/weft/templates/crds");
    let text = std::fs::read_to_string(chart.join("trafficpolicies.yaml")).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

/// Where routes of `shop/web` lead to.
fn routed(model: &Model) -> Vec<String> {
    let service = model.service("shop", "web").unwrap();
    let routes = model.routes_of_anybody(service, &service.ports[0]);
    let rules = routes.flat_map(|route| &route.rules);
    let backends = rules.flat_map(|rule| &rule.backends);
    backends.map(|it| it.reference.name.clone()).collect()
}

fn attempts(model: &Model) -> Option<u32> {
    let service = model.service("shop", "web").unwrap();
    let stanzas = model.policy(service, &service.ports[0]);
    stanzas.retries.as_ref().map(|retries| retries.attempts)
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const ROUTE: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/all";

#[tokio::test]
async fn definitions_come_later_and_go() {
    let running = Running::start(async |_| ()).await;
    assert!(running.model().workload("shop", "web-1").is_some());
    for kind in ["TrafficPolicy", "HTTPRoute", "GRPCRoute", "ReferenceGrant"] {
        assert!(running.watch(kind).absent, "{kind}");
    }

    gateway_crds::install(&running.server).await.unwrap();
    running.server.put(&route("other")).await.unwrap();
    let took = running
        .until("the route", |model| routed(model) == ["other"])
        .await;
    assert!(took < SECONDS, "{took:?}");
    running.server.put(&policies()).await.unwrap();
    running.server.put(&policy(2)).await.unwrap();
    let took = running
        .until("the policy", |model| attempts(model) == Some(2))
        .await;
    assert!(took < SECONDS, "{took:?}");
    let others = ["GRPCRoute", "ReferenceGrant"];
    running
        .until_so("the other kinds", |it| {
            others.iter().all(|kind| !it.watch(kind).absent)
        })
        .await;

    // Statuses are observed, and make no model.
    let before = running.model().revision();
    let status = json!({"status": {"parents": [{"controllerName": "weft.dev/controller"}]}});
    let path = format!("{ROUTE}/status");
    let (code, _) = running
        .server
        .ask(Method::PATCH, &path, Some(&status))
        .await;
    assert_eq!(code, 200);
    let name = Name::new("shop", "all");
    let seen = || {
        running
            .following
            .observed
            .find(StatusKind::HttpRoute, &name)
    };
    running
        .until_so("the status", |_| {
            seen().is_some_and(|seen| seen.status == status["status"])
        })
        .await;
    assert_eq!(running.model().revision(), before);
    assert_eq!(seen().unwrap().generation, 1);

    // The last good version of a bad route stays, and it is said what is wrong with the newest.
    let mut bad = route("other");
    bad["spec"]["rules"][0]["timeouts"] = json!({"request": "soon"});
    running.server.put(&bad).await.unwrap();
    running
        .until("a refusal", |model| {
            let mut refusals = model.refusals().iter();
            refusals.any(|refusal| refusal.object == "HTTPRoute shop/all")
        })
        .await;
    assert_eq!(routed(&running.model()), ["other"]);
    let key = (StatusKind::HttpRoute, name.clone());
    running
        .until_so("a reading", |it| {
            let readings = it.following.readings.borrow();
            readings.objects[&key].refused.is_some() && readings.objects[&key].generation == 2
        })
        .await;

    let definition = gateway_crds::name_of("HTTPRoute");
    running.delete(&format!("{DEFINITIONS}/{definition}")).await;
    running
        .until("no route", |model| routed(model).is_empty())
        .await;
    assert!(seen().is_none());
    assert_eq!(attempts(&running.model()), Some(2), "policies stay");
    let again = gateway_crds::http_routes();
    running.server.put(&again).await.unwrap();
    running.server.put(&route("web")).await.unwrap();
    running
        .until("the route again", |model| routed(model) == ["web"])
        .await;
}

#[tokio::test]
async fn nothing_is_lost_while_the_api_server_is() {
    let running = Running::start(async |server| {
        gateway_crds::install(server).await.unwrap();
        for object in [policies(), route("other"), policy(2)] {
            server.put(&object).await.unwrap();
        }
    })
    .await;
    let before = running.model().revision();
    let is_as_before = |what: &str| {
        let model = running.model();
        assert_eq!(model.revision(), before, "{what}");
        assert_eq!(routed(&model), ["other"], "{what}");
        assert_eq!(attempts(&model), Some(2), "{what}");
        let observed = running.following.observed.all(StatusKind::HttpRoute);
        assert_eq!(observed.len(), 1, "{what}");
    };
    let errors = |running: &Running| running.watch("HTTPRoute").errors;

    running.server.drop_watches();
    let watches = "httproutes.gateway.networking.k8s.io";
    running
        .until_so("watches go on", |it| it.server.open_watches(watches) == 1)
        .await;
    is_as_before("watches were dropped");

    for outage in [Outage::Away, Outage::Failing(404)] {
        let had = errors(&running);
        running.server.set_outage(outage);
        running.server.drop_watches();
        running
            .until_so("two errors", |it| errors(it) > had + 1)
            .await;
        is_as_before(&format!("{outage:?}"));
        running.server.set_outage(Outage::None);
        running
            .until_so("it works again", |it| {
                it.progress
                    .watches()
                    .iter()
                    .all(|watch| watch.trouble.is_none())
            })
            .await;
        is_as_before(&format!("after {outage:?}"));
    }

    // What changed in the meantime is followed, although the past is forgotten.
    running.server.set_outage(Outage::Away);
    running
        .until_so("watches are gone", |it| {
            it.server.open_watches(watches) == 0
        })
        .await;
    running.server.put(&route("web")).await.unwrap();
    running
        .delete(&format!(
            "/apis/weft.dev/v1alpha1/namespaces/shop/trafficpolicies/{}",
            "web"
        ))
        .await;
    run_pod(&running.server, "web-2", "10.0.0.2").await;
    running
        .server
        .put(&slice("10.0.0.2", "web-2"))
        .await
        .unwrap();
    running.server.compact();
    is_as_before("away");
    running.server.set_outage(Outage::None);
    running
        .until("everything that changed", |model| {
            let service = model.service("shop", "web").unwrap();
            routed(model) == ["web"]
                && attempts(model).is_none()
                && model.workload("shop", "web-2").is_some()
                && service.endpoints.len() == 1
        })
        .await;
}

#[tokio::test]
async fn routes_that_may_not_be_read_block_nothing() {
    let routes = "httproutes.gateway.networking.k8s.io";
    let running = Running::start(async |server| {
        gateway_crds::install(server).await.unwrap();
        server.put(&policies()).await.unwrap();
        server.put(&route("other")).await.unwrap();
        server.refuse("list", routes, 2, 403);
    })
    .await;
    running
        .until("the route, once it may be read", |model| {
            routed(model) == ["other"]
        })
        .await;
    let watch = running.watch("HTTPRoute");
    assert!(watch.errors >= 2 && watch.trouble.is_none(), "{watch:?}");
}

#[tokio::test]
async fn namespaces_with_a_pod_that_has_a_sidecar_are_known() {
    let running = Running::start(async |_| ()).await;
    let mut injected = running.following.injected.clone();
    let empty = namespace("lone", &json!({}));
    running.server.put(&empty).await.unwrap();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "asks", "namespace": "lone"},
        "spec": {"containers": [{"name": "app", "image": "app:1"}],
                 "initContainers": [{"name": "weft-proxy", "image": "weft-proxy:1",
                                     "restartPolicy": "Always"}]},
    });
    // No kubelet ever says anything of it: its sidecar's volume waits for the bundle.
    running.server.put(&pod).await.unwrap();
    let found = injected.wait_for(|names| names.contains("lone"));
    tokio::time::timeout(SECONDS, found).await.unwrap().unwrap();
    running
        .delete("/api/v1/namespaces/lone/pods/asks?gracePeriodSeconds=0")
        .await;
    let gone = injected.wait_for(|names| names.is_empty());
    tokio::time::timeout(SECONDS, gone).await.unwrap().unwrap();
}

#[tokio::test]
async fn namespaces_that_want_sidecars_are_known() {
    let running = Running::start(async |_| ()).await;
    let mut injected = running.following.injected.clone();
    assert!(injected.borrow_and_update().is_empty());
    let enabled = json!({"weft.dev/inject": "enabled"});
    let shop = namespace("shop", &enabled);
    running.server.put(&shop).await.unwrap();
    let found = injected.wait_for(|names| names.contains("shop"));
    tokio::time::timeout(SECONDS, found).await.unwrap().unwrap();
    running.delete("/api/v1/namespaces/shop").await;
    let gone = injected.wait_for(|names| names.is_empty());
    tokio::time::timeout(SECONDS, gone).await.unwrap().unwrap();
}
