//! The watches against an API server that lists, watches, sends bookmarks, forgets, and goes away.

use std::collections::BTreeMap;
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
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use super::super::observed::StatusKind;
use super::super::{Following, watch_cluster};
use super::{pod_json, policy_json, sent, service_json, settings, slice_json};
use crate::index::Model;
use crate::serve::Metrics;
use crate::source::progress::Progress;

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
        let status = match state.kinds.get_mut(request.uri().path()) {
            None => {
                let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
                    "status": "Failure", "message": "page not found", "reason": "NotFound",
                    "code": 404});
                sender.send(status.to_string().into()).unwrap();
                404
            }
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
        let following = following.await.unwrap();
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
    server.0.lock().kinds.remove(POLICIES);
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
        missing[0].ends_with("are Weft's CRDs installed?"),
        "{missing:?}"
    );

    let metrics = Metrics::new();
    metrics.observe(&progress);
    let scraped = metrics.render();
    let up = r#"weft_control_plane_source_up{kind="Pod"} 1"#;
    assert!(scraped.contains(up), "{scraped}");
    let down = r#"weft_control_plane_source_up{kind="TrafficPolicy"} 0"#;
    assert!(scraped.contains(down), "{scraped}");

    server.install(POLICIES);
    let models = timeout(LONG, models).await.unwrap().unwrap();
    assert!(progress.missing().is_empty());
    assert_eq!(sent(&models.borrow(), "web"), ["10.0.0.1:8080 cart"]);
    end.cancel();
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
    assert_eq!(running.server.lists(), lists + 4);
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
