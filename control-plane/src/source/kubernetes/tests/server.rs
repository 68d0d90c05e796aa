//! The watches against an API server that lists, watches, sends bookmarks, forgets, and goes away.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use super::super::observed::StatusKind;
use super::super::{Following, watch_cluster};
use super::{pod_json, policy_json, route_json, sent, service_json, settings, slice_json};
use crate::index::{Model, Name};
use crate::route::status::{RouteStatus, of_refused};
use crate::serve::Metrics;
use crate::source::progress::{Progress, Watch};

const SERVICES: &str = "/api/v1/services";
const PODS: &str = "/api/v1/pods";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const NAMESPACES: &str = "/api/v1/namespaces";
const POLICIES: &str = "/apis/weft.dev/v1alpha1/trafficpolicies";
const HTTP_ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/httproutes";
const GRPC_ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/grpcroutes";
const GRANTS: &str = "/apis/gateway.networking.k8s.io/v1beta1/referencegrants";
/// Longer than any backoff.
const LONG: Duration = Duration::from_secs(300);

#[derive(Clone, Default)]
struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    revision: u64,
    /// What was forgotten: watches from before have to list again.
    oldest: u64,
    down: bool,
    lists: usize,
    /// Paths that nobody may read.
    forbidden: Vec<&'static str>,
    kinds: BTreeMap<&'static str, Collection>,
}

#[derive(Default)]
struct Collection {
    objects: BTreeMap<String, Value>,
    events: Vec<(u64, String)>,
    watchers: Vec<UnboundedSender<Bytes>>,
}

impl Server {
    /// One with `shop/web`, whose endpoint is the pod `web-1`.
    fn with_web() -> Self {
        let server = Self::default();
        for path in [SERVICES, PODS, SLICES, NAMESPACES, POLICIES] {
            server.install(path);
        }
        server.put(SERVICES, service_json("web", "10.96.0.1"));
        server.put(PODS, pod_json("web-1", "10.0.0.1"));
        server.put(
            SLICES,
            slice_json("web-a", "web", 8080, &[("web-1", "10.0.0.1", true)]),
        );
        server
    }

    fn install(&self, path: &'static str) {
        self.0.lock().kinds.insert(path, Collection::default());
    }

    /// The kind is gone, with its objects and watches, and nobody is told of each.
    fn uninstall(&self, path: &str) {
        self.0.lock().kinds.remove(path);
    }

    fn put(&self, path: &str, mut object: Value) {
        let mut state = self.0.lock();
        state.revision += 1;
        let revision = state.revision;
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let kind = state.kinds.get_mut(path).unwrap();
        let known = kind.objects.insert(name, object.clone()).is_some();
        let word = if known { "MODIFIED" } else { "ADDED" };
        kind.say(revision, &json!({"type": word, "object": object}));
    }

    fn delete(&self, path: &str, name: &str) {
        let mut state = self.0.lock();
        state.revision += 1;
        let revision = state.revision;
        let kind = state.kinds.get_mut(path).unwrap();
        let mut object = kind.objects.remove(name).unwrap();
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        kind.say(revision, &json!({"type": "DELETED", "object": object}));
    }

    /// Tells watchers how far they are.
    fn bookmark(&self, path: &str) {
        let mut state = self.0.lock();
        state.revision += 1;
        let revision = state.revision;
        let metadata = json!({"resourceVersion": revision.to_string()});
        let object = json!({"kind": "Any", "apiVersion": "v1", "metadata": metadata});
        let kind = state.kinds.get_mut(path).unwrap();
        kind.tell(format!(
            "{}\n",
            json!({"type": "BOOKMARK", "object": object})
        ));
    }

    /// Ends all watches and, unless it is down, what it knows of the past.
    fn cut(&self, down: bool) {
        let mut state = self.0.lock();
        state.down = down;
        for kind in state.kinds.values_mut() {
            kind.watchers.clear();
        }
    }

    fn forget(&self) {
        let mut state = self.0.lock();
        state.revision += 1;
        state.oldest = state.revision;
        for kind in state.kinds.values_mut() {
            kind.events.clear();
        }
    }

    fn lists(&self) -> usize {
        self.0.lock().lists
    }

    fn answer(&self, request: &Request<Body>) -> (u16, UnboundedReceiverStream<Bytes>) {
        let (sender, receiver) = unbounded_channel();
        let mut state = self.0.lock();
        let query = request.uri().query().unwrap_or_default();
        let asked = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        let (revision, oldest) = (state.revision, state.oldest);
        let path = request.uri().path();
        let failed = |code: u16| {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
                "status": "Failure", "message": "no", "reason": "No", "code": code});
            sender.send(status.to_string().into()).unwrap();
            code
        };
        if state.forbidden.contains(&path) {
            return (failed(403), UnboundedReceiverStream::new(receiver));
        }
        if let Some(said) = state.discovery(path) {
            sender.send(said.to_string().into()).unwrap();
            return (200, UnboundedReceiverStream::new(receiver));
        }
        let status = match state.kinds.get_mut(path) {
            None => failed(404),
            Some(kind) if asked("watch") == Some("true") => {
                let from: u64 = asked("resourceVersion").unwrap().parse().unwrap();
                if from < oldest {
                    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
                        "status": "Failure", "message": "too old resource version",
                        "reason": "Expired", "code": 410});
                    let event = json!({"type": "ERROR", "object": status});
                    sender.send(format!("{event}\n").into()).unwrap();
                } else {
                    let missed = kind.events.iter().filter(|(revision, _)| *revision > from);
                    for (_, event) in missed {
                        sender.send(event.clone().into()).unwrap();
                    }
                    kind.watchers.push(sender);
                }
                200
            }
            Some(kind) => {
                let items: Vec<_> = kind.objects.values().collect();
                let list = json!({"kind": "List", "apiVersion": "v1", "items": items,
                    "metadata": {"resourceVersion": revision.to_string()}});
                sender.send(list.to_string().into()).unwrap();
                state.lists += 1;
                200
            }
        };
        (status, UnboundedReceiverStream::new(receiver))
    }
}

impl State {
    /// What kinds there are; `None` where that is not asked.
    fn discovery(&self, path: &str) -> Option<Value> {
        let of_group = |group_version: &str| {
            let below = format!("/apis/{group_version}/");
            let plurals = self.kinds.keys();
            let plurals = plurals.filter_map(move |path| path.strip_prefix(&*below));
            let found: Vec<_> = plurals
                .map(|plural| {
                    json!({"name": plural, "singularName": "", "namespaced": true,
                                      "kind": "Any", "verbs": []})
                })
                .collect();
            found
        };
        let path = path.strip_prefix("/apis")?;
        if path.is_empty() {
            let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for path in self.kinds.keys() {
                let mut parts = path.split('/').skip(1);
                if parts.next() == Some("apis") {
                    let (group, version) = (parts.next().unwrap(), parts.next().unwrap());
                    let versions = groups.entry(group).or_default();
                    versions.push(version);
                }
            }
            let groups = groups.into_iter().map(|(group, versions)| {
                let versions = versions.iter().map(|version| {
                    json!({"groupVersion": format!("{group}/{version}"), "version": version})
                });
                json!({"name": group, "versions": versions.collect::<Vec<_>>()})
            });
            return Some(json!({"kind": "APIGroupList", "groups": groups.collect::<Vec<_>>()}));
        }
        let group_version = path.strip_prefix('/')?;
        if group_version.split('/').count() != 2 {
            return None;
        }
        let resources = of_group(group_version);
        (!resources.is_empty()).then(|| {
            json!({"kind": "APIResourceList", "groupVersion": group_version,
                   "resources": resources})
        })
    }
}

impl Collection {
    fn say(&mut self, revision: u64, event: &Value) {
        let line = format!("{event}\n");
        self.events.push((revision, line.clone()));
        self.tell(line);
    }

    fn tell(&mut self, line: String) {
        let line = Bytes::from(line);
        self.watchers
            .retain(|watcher| watcher.send(line.clone()).is_ok());
    }
}

impl tower_service::Service<Request<Body>> for Server {
    type Response = Response<UnsyncBoxBody<Bytes, Infallible>>;
    type Error = io::Error;
    type Future = Ready<Result<Self::Response, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if self.0.lock().down {
            return ready(Err(io::ErrorKind::ConnectionRefused.into()));
        }
        let (status, chunks) = self.answer(&request);
        let frames = chunks.map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)));
        let response = Response::builder()
            .status(status)
            .body(StreamBody::new(frames).boxed_unsync());
        ready(Ok(response.unwrap()))
    }
}

struct Running {
    server: Server,
    following: Following,
    models: watch::Receiver<Arc<Model>>,
    progress: Progress,
    _end: tokio_util::sync::DropGuard,
}

impl Running {
    async fn start(server: Server) -> Self {
        let (progress, end) = (Progress::default(), CancellationToken::new());
        let client = Client::new(server.clone(), "default");
        let following = watch_cluster(client, settings(), progress.clone(), end.clone());
        let following = timeout(LONG, following).await.unwrap().unwrap();
        Self {
            server,
            models: following.models.clone(),
            following,
            progress,
            _end: end.drop_guard(),
        }
    }

    /// The endpoints of `shop/web` when the next model is there.
    async fn next(&mut self) -> Vec<String> {
        timeout(LONG, self.models.changed()).await.unwrap().unwrap();
        self.now()
    }

    fn now(&self) -> Vec<String> {
        sent(&self.models.borrow(), "web")
    }

    fn revision(&self) -> u64 {
        self.models.borrow().revision()
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_served_until_everything_was_listed() {
    let server = Server::with_web();
    // Of policies too: what they close must not be open.
    server.0.lock().forbidden = vec![POLICIES];
    let (progress, end) = (Progress::default(), CancellationToken::new());
    let client = Client::new(server.clone(), "default");
    let mut models = Box::pin(watch_cluster(
        client,
        settings(),
        progress.clone(),
        end.clone(),
    ));
    assert!(timeout(LONG, &mut models).await.is_err());

    let missing = progress.missing();
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert!(missing[0].starts_with("TrafficPolicy:"), "{missing:?}");
    assert!(
        missing[0].ends_with("its service account may not list and watch this kind"),
        "{missing:?}"
    );
    let scraped = scraped(&progress);
    let up = r#"weft_control_plane_source_up{kind="Pod"} 1"#;
    assert!(scraped.contains(up), "{scraped}");
    let down = r#"weft_control_plane_source_up{kind="TrafficPolicy"} 0"#;
    assert!(scraped.contains(down), "{scraped}");

    server.0.lock().forbidden.clear();
    let following = timeout(LONG, models).await.unwrap().unwrap();
    assert!(progress.missing().is_empty());
    assert_eq!(
        sent(&following.models.borrow(), "web"),
        ["10.0.0.1:8080 cart"]
    );
    end.cancel();
}

fn scraped(progress: &Progress) -> String {
    let metrics = Metrics::new();
    metrics.observe(progress);
    metrics.render()
}

#[tokio::test(start_paused = true)]
async fn changes_are_followed() {
    let mut running = Running::start(Server::with_web()).await;
    assert_eq!(running.now(), ["10.0.0.1:8080 cart"]);

    // Withheld until its pod is known, and without a sidecar until then.
    let both = [("web-1", "10.0.0.1", true), ("web-2", "10.0.0.2", true)];
    running
        .server
        .put(SLICES, slice_json("web-a", "web", 8080, &both));
    assert_eq!(running.next().await, ["10.0.0.1:8080 cart"]);
    running.server.put(PODS, pod_json("web-2", "10.0.0.2"));
    assert_eq!(
        running.next().await,
        ["10.0.0.1:8080 cart", "10.0.0.2:8080 cart"]
    );

    running.server.bookmark(SLICES);
    running.server.delete(PODS, "web-1");
    assert_eq!(running.next().await, ["10.0.0.2:8080 cart"]);

    let plain = json!({"targetRefs": [{"kind": "Service", "name": "web"}],
                        "mtls": {"mode": "Disabled"}});
    running.server.put(POLICIES, policy_json("plain", &plain));
    assert_eq!(running.next().await, ["10.0.0.2:8080 -"]);
}

#[tokio::test(start_paused = true)]
async fn what_means_nothing_makes_no_model() {
    let running = Running::start(Server::with_web()).await;
    let before = running.revision();
    let mut pod = pod_json("web-1", "10.0.0.1");
    pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    running.server.put(PODS, pod);
    running.server.bookmark(PODS);
    sleep(LONG).await;
    assert_eq!(running.revision(), before);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_past_is_listed_again_and_replaced_at_once() {
    let mut running = Running::start(Server::with_web()).await;
    let lists = running.server.lists();
    running.server.put(PODS, pod_json("web-2", "10.0.0.2"));
    running.next().await;

    running.server.cut(true);
    let other = [("web-2", "10.0.0.2", true)];
    running
        .server
        .put(SLICES, slice_json("web-a", "web", 8080, &other));
    running.server.delete(PODS, "web-1");
    running.server.forget();
    running.server.cut(false);

    // Each kind is listed on its own; none of the models on the way is an empty one.
    loop {
        let endpoints = running.next().await;
        if endpoints == ["10.0.0.2:8080 cart"] {
            break;
        }
        assert!(endpoints.is_empty() || endpoints == ["10.0.0.1:8080 cart"]);
        assert!(running.models.borrow().service("shop", "web").is_some());
    }
    sleep(LONG).await;
    assert_eq!(running.now(), ["10.0.0.2:8080 cart"]);
    assert!(running.models.borrow().workload("shop", "web-1").is_none());
    assert_eq!(running.server.lists(), lists + 5);
}

#[tokio::test(start_paused = true)]
async fn a_lost_api_server_changes_nothing() {
    let mut running = Running::start(Server::with_web()).await;
    let (before, lists) = (running.revision(), running.server.lists());
    running.server.cut(true);
    sleep(LONG).await;
    assert_eq!(running.revision(), before);
    assert_eq!(running.now(), ["10.0.0.1:8080 cart"]);
    for watch in running.progress.watches() {
        assert!(watch.synced && watch.errors > 1, "{watch:?}");
        assert!(watch.trouble.is_some(), "{watch:?}");
    }

    running.server.put(PODS, pod_json("web-2", "10.0.0.2"));
    let other = [("web-2", "10.0.0.2", true)];
    running
        .server
        .put(SLICES, slice_json("web-a", "web", 8080, &other));
    running.server.cut(false);
    while running.next().await != ["10.0.0.2:8080 cart"] {}
    assert_eq!(
        running.server.lists(),
        lists,
        "watches went on where they were"
    );
    let pods = running.progress.watches().remove(2);
    assert_eq!((pods.kind, pods.trouble), ("Pod", None));
}

/// Which services a route of `shop/web` leads to; none where there is no route.
fn routed(model: &Model) -> Vec<String> {
    let service = model.service("shop", "web").unwrap();
    let routes = model.routes_of_anybody(service, &service.ports[0]);
    let backends = routes.flat_map(|route| route.rules.iter().flat_map(|rule| &rule.backends));
    backends
        .map(|backend| backend.reference.name.clone())
        .collect()
}

impl Running {
    /// Waits for a model that is as it should be.
    async fn until(&mut self, what: &str, is_so: impl Fn(&Model) -> bool) -> Duration {
        let began = Instant::now();
        let waiting = self.models.wait_for(|model| is_so(model));
        let came = timeout(LONG, waiting).await;
        came.unwrap_or_else(|_| panic!("never: {what}")).unwrap();
        began.elapsed()
    }

    fn watch(&self, kind: &str) -> Watch {
        let mut watches = self.progress.watches().into_iter();
        watches.find(|watch| watch.kind == kind).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn kinds_come_and_go_with_their_definitions() {
    let server = Server::with_web();
    server.uninstall(POLICIES);
    let began = Instant::now();
    let mut running = Running::start(server.clone()).await;
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "nothing was waited for"
    );
    assert!(running.progress.missing().is_empty());
    for kind in ["TrafficPolicy", "HTTPRoute", "GRPCRoute", "ReferenceGrant"] {
        let watch = running.watch(kind);
        assert!(watch.absent && watch.trouble.is_none(), "{watch:?}");
        assert!(watch.synced && watch.errors == 0, "{watch:?}");
    }
    let served = r#"weft_control_plane_source_served{kind="TrafficPolicy"} 0"#;
    assert!(scraped(&running.progress).contains(served));

    server.install(HTTP_ROUTES);
    server.put(HTTP_ROUTES, route_json("all", "other"));
    let took = running
        .until("a route", |model| routed(model) == ["other"])
        .await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    let strict = json!({"targetRefs": [{"kind": "Service", "name": "web"}],
                        "mtls": {"mode": "Disabled"}});
    server.install(POLICIES);
    server.put(POLICIES, policy_json("plain", &strict));
    running
        .until("a policy", |model| {
            sent(model, "web") == ["10.0.0.1:8080 -"]
        })
        .await;
    assert!(!running.watch("TrafficPolicy").absent);
    let served = r#"weft_control_plane_source_served{kind="TrafficPolicy"} 1"#;
    assert!(scraped(&running.progress).contains(served));
    let route = Name::new("shop", "all");
    let observed = Arc::clone(&running.following.observed);
    assert!(observed.find(StatusKind::HttpRoute, &route).is_some());

    server.uninstall(HTTP_ROUTES);
    let took = running
        .until("no route", |model| routed(model).is_empty())
        .await;
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert!(observed.find(StatusKind::HttpRoute, &route).is_none());
    assert!(running.watch("HTTPRoute").absent);
    assert_eq!(running.now(), ["10.0.0.1:8080 -"], "the policy stays");

    server.install(HTTP_ROUTES);
    server.put(HTTP_ROUTES, route_json("all", "third"));
    running
        .until("a route again", |model| routed(model) == ["third"])
        .await;
}

#[tokio::test(start_paused = true)]
async fn one_odd_answer_takes_nothing_away() {
    let server = Server::with_web();
    server.install(HTTP_ROUTES);
    server.put(HTTP_ROUTES, route_json("all", "other"));
    let running = Running::start(server.clone()).await;
    let before = running.revision();
    assert_eq!(routed(&running.models.borrow()), ["other"]);

    // Found nowhere, but discovery has it; then a server without any kinds; then none that answers.
    let kinds = std::mem::take(&mut server.0.lock().kinds);
    let asked_before = running.watch("HTTPRoute").errors;
    sleep(LONG).await;
    assert!(running.watch("HTTPRoute").errors > asked_before + 1);
    server.cut(true);
    sleep(LONG).await;
    assert_eq!(running.revision(), before);
    assert_eq!(routed(&running.models.borrow()), ["other"]);
    let trouble = running.watch("HTTPRoute").trouble.unwrap();
    assert!(trouble.contains("which kinds it has"), "{trouble}");

    server.0.lock().kinds = kinds;
    server.cut(false);
    sleep(LONG).await;
    assert_eq!(running.watch("HTTPRoute").trouble, None);
    assert_eq!(running.revision(), before);
}

#[tokio::test(start_paused = true)]
async fn routes_that_may_not_be_read_do_not_block_the_start() {
    let server = Server::with_web();
    server.install(HTTP_ROUTES);
    server.install(GRPC_ROUTES);
    server.install(GRANTS);
    server.0.lock().forbidden = vec![HTTP_ROUTES, GRANTS];
    server.put(HTTP_ROUTES, route_json("all", "other"));
    let mut running = Running::start(server.clone()).await;
    assert!(routed(&running.models.borrow()).is_empty());
    for kind in ["HTTPRoute", "ReferenceGrant"] {
        let watch = running.watch(kind);
        let trouble = watch.trouble.unwrap();
        assert!(
            !watch.synced && trouble.contains("may not list"),
            "{trouble}"
        );
        let down = format!(r#"weft_control_plane_source_up{{kind="{kind}"}} 0"#);
        assert!(scraped(&running.progress).contains(&down));
    }
    assert!(running.watch("GRPCRoute").synced);

    server.0.lock().forbidden.clear();
    running
        .until("a route", |model| routed(model) == ["other"])
        .await;
    sleep(LONG).await;
    assert!(running.watch("ReferenceGrant").synced);

    // What was read before stays where it may not be read any longer.
    let before = running.revision();
    server.0.lock().forbidden = vec![HTTP_ROUTES];
    server.forget();
    server.cut(false);
    sleep(LONG).await;
    assert!(running.watch("HTTPRoute").trouble.is_some());
    assert_eq!(running.revision(), before);
}

#[tokio::test(start_paused = true)]
async fn a_status_is_observed_and_makes_no_model() {
    let server = Server::with_web();
    server.install(HTTP_ROUTES);
    server.put(HTTP_ROUTES, route_json("all", "other"));
    let plain = json!({"targetRefs": [{"kind": "Service", "name": "web"}],
                        "mtls": {"mode": "Disabled"}});
    let mut policy = policy_json("plain", &plain);
    policy["metadata"]["generation"] = json!(3);
    server.put(POLICIES, policy.clone());
    let mut running = Running::start(server.clone()).await;
    let before = running.revision();
    let observed = Arc::clone(&running.following.observed);
    let (route, plain) = (Name::new("shop", "all"), Name::new("shop", "plain"));
    let seen = observed.find(StatusKind::TrafficPolicy, &plain).unwrap();
    assert_eq!((&*seen.uid, seen.generation), ("1", 3));
    assert_eq!(seen.status, json!({"conditions": []}));
    let seen = observed.find(StatusKind::HttpRoute, &route).unwrap();
    assert_eq!(seen.status, Value::Null);

    let mut changes = observed.changes();
    let mut with_status = route_json("all", "other");
    with_status["status"] = json!({"parents": [{"controllerName": "other"}]});
    server.put(HTTP_ROUTES, with_status.clone());
    policy["status"]["conditions"] = json!([{"type": "Accepted"}]);
    server.put(POLICIES, policy);
    sleep(LONG).await;
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert_eq!(running.revision(), before);
    let newer = observed.find(StatusKind::HttpRoute, &route).unwrap();
    assert_eq!(newer.status, with_status["status"]);
    assert_ne!(newer.resource_version, seen.resource_version);

    // A lost watch keeps them, a list that is made anew has not what is gone.
    server.cut(true);
    sleep(LONG).await;
    assert_eq!(observed.all(StatusKind::HttpRoute).len(), 1);
    server.put(HTTP_ROUTES, route_json("more", "third"));
    server.delete(HTTP_ROUTES, "all");
    server.forget();
    server.cut(false);
    running
        .until("the other", |model| routed(model) == ["third"])
        .await;
    let names: Vec<_> = observed.all(StatusKind::HttpRoute);
    let names: Vec<_> = names.iter().map(|(name, _)| &*name.name).collect();
    assert_eq!(names, ["more"]);
    server.delete(POLICIES, "plain");
    running.next().await;
    assert!(observed.all(StatusKind::TrafficPolicy).is_empty());
    assert!(changes.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn readings_say_what_a_model_was_made_of() {
    let server = Server::with_web();
    server.install(HTTP_ROUTES);
    server.put(HTTP_ROUTES, route_json("all", "other"));
    let mut running = Running::start(server.clone()).await;
    let mut readings = running.following.readings.clone();
    let key = (StatusKind::HttpRoute, Name::new("shop", "all"));
    let first = readings.borrow_and_update().clone();
    assert_eq!(first.revision, running.revision());
    assert_eq!(first.objects[&key].generation, 1);
    assert_eq!(first.objects[&key].refused, None);

    let mut bad = route_json("all", "third");
    bad["metadata"]["generation"] = json!(2);
    bad["spec"]["rules"][0]["backendRefs"][0]["weight"] = json!(-1);
    server.put(HTTP_ROUTES, bad.clone());
    running.next().await;
    timeout(LONG, readings.changed()).await.unwrap().unwrap();
    let second = readings.borrow_and_update().clone();
    assert_eq!(second.revision, running.revision());
    let reading = &second.objects[&key];
    assert_eq!((reading.generation, reading.last_good_stays), (2, true));
    let refused = reading.refused.as_ref().unwrap();
    assert_eq!(routed(&running.models.borrow()), ["other"]);

    let before = RouteStatus::default();
    let said = of_refused(
        &refused.manifest,
        &refused.violations,
        reading.last_good_stays,
        &before,
        "2026-11-21T10:00:00Z",
    );
    let said = said.unwrap();
    assert_eq!(said.parents.len(), 1);
    assert_eq!(said.parents[0].parent_ref, bad["spec"]["parentRefs"][0]);
    let accepted = &said.parents[0].conditions[0];
    assert_eq!(accepted.observed_generation, Some(2));
    assert!(
        accepted.message.contains("spec.rules[0]"),
        "{}",
        accepted.message
    );
}

#[tokio::test(start_paused = true)]
async fn namespaces_that_want_sidecars_are_known() {
    let namespace = |name: &str, label: Option<&str>, ending: bool| {
        let ending = ending.then_some("2026-11-21T10:00:00Z");
        let labels = label.map(|label| json!({"weft.dev/inject": label}));
        json!({"metadata": {"name": name, "labels": labels, "deletionTimestamp": ending}})
    };
    let server = Server::with_web();
    for object in [
        namespace("shop", Some("enabled"), false),
        namespace("off", Some("disabled"), false),
        namespace("plain", None, false),
        namespace("ending", Some("enabled"), true),
    ] {
        server.put(NAMESPACES, object);
    }
    let running = Running::start(server.clone()).await;
    let before = running.revision();
    let mut injected = running.following.injected.clone();
    let names = |known: &BTreeSet<String>| known.iter().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(names(&injected.borrow_and_update()), "shop");

    server.put(NAMESPACES, namespace("plain", Some("enabled"), false));
    timeout(LONG, injected.changed()).await.unwrap().unwrap();
    assert_eq!(names(&injected.borrow_and_update()), "plain shop");
    server.put(NAMESPACES, namespace("shop", Some("enabled"), true));
    timeout(LONG, injected.changed()).await.unwrap().unwrap();
    assert_eq!(names(&injected.borrow_and_update()), "plain");
    server.put(NAMESPACES, namespace("off", None, false));
    server.cut(true);
    sleep(LONG).await;
    assert!(!injected.has_changed().unwrap());
    assert_eq!(running.revision(), before, "no part of the model");
}
