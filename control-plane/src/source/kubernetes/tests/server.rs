//! An API server that lists, watches, sends bookmarks, forgets, and goes away; and what follows it.

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
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use super::super::{Following, watch_cluster};
use super::{pod_json, sent, service_json, settings, slice_json};
use crate::index::Model;
use crate::serve::Metrics;
use crate::source::progress::{Progress, Watch};

pub(super) const SERVICES: &str = "/api/v1/services";
pub(super) const PODS: &str = "/api/v1/pods";
pub(super) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub(super) const NAMESPACES: &str = "/api/v1/namespaces";
pub(super) const POLICIES: &str = "/apis/weft.dev/v1alpha1/trafficpolicies";
pub(super) const HTTP_ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/httproutes";
pub(super) const GRPC_ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/grpcroutes";
pub(super) const GRANTS: &str = "/apis/gateway.networking.k8s.io/v1beta1/referencegrants";
/// Longer than any backoff.
pub(super) const LONG: Duration = Duration::from_secs(300);

#[derive(Clone, Default)]
pub(super) struct Server(pub(super) Arc<Mutex<State>>);

#[derive(Default)]
pub(super) struct State {
    revision: u64,
    /// What was forgotten: watches from before have to list again.
    oldest: u64,
    down: bool,
    lists: usize,
    /// Paths that nobody may read.
    pub(super) forbidden: Vec<&'static str>,
    pub(super) kinds: BTreeMap<&'static str, Collection>,
}

#[derive(Default)]
pub(super) struct Collection {
    objects: BTreeMap<String, Value>,
    events: Vec<(u64, String)>,
    watchers: Vec<UnboundedSender<Bytes>>,
}

impl Server {
    /// One with `shop/web`, whose endpoint is the pod `web-1`.
    pub(super) fn with_web() -> Self {
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

    pub(super) fn install(&self, path: &'static str) {
        self.0.lock().kinds.insert(path, Collection::default());
    }

    /// The kind is gone, with its objects and watches, and nobody is told of each.
    pub(super) fn uninstall(&self, path: &str) {
        self.0.lock().kinds.remove(path);
    }

    pub(super) fn put(&self, path: &str, mut object: Value) {
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

    pub(super) fn delete(&self, path: &str, name: &str) {
        let mut state = self.0.lock();
        state.revision += 1;
        let revision = state.revision;
        let kind = state.kinds.get_mut(path).unwrap();
        let mut object = kind.objects.remove(name).unwrap();
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        kind.say(revision, &json!({"type": "DELETED", "object": object}));
    }

    /// Tells watchers how far they are.
    pub(super) fn bookmark(&self, path: &str) {
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
    pub(super) fn cut(&self, down: bool) {
        let mut state = self.0.lock();
        state.down = down;
        for kind in state.kinds.values_mut() {
            kind.watchers.clear();
        }
    }

    pub(super) fn forget(&self) {
        let mut state = self.0.lock();
        state.revision += 1;
        state.oldest = state.revision;
        for kind in state.kinds.values_mut() {
            kind.events.clear();
        }
    }

    pub(super) fn lists(&self) -> usize {
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

pub(super) struct Running {
    pub(super) server: Server,
    pub(super) following: Following,
    pub(super) models: watch::Receiver<Arc<Model>>,
    pub(super) progress: Progress,
    _end: tokio_util::sync::DropGuard,
}

impl Running {
    pub(super) async fn start(server: Server) -> Self {
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
    pub(super) async fn next(&mut self) -> Vec<String> {
        timeout(LONG, self.models.changed()).await.unwrap().unwrap();
        self.now()
    }

    pub(super) fn now(&self) -> Vec<String> {
        sent(&self.models.borrow(), "web")
    }

    pub(super) fn revision(&self) -> u64 {
        self.models.borrow().revision()
    }
}

impl Running {
    /// Waits for a model that is as it should be.
    pub(super) async fn until(&mut self, what: &str, is_so: impl Fn(&Model) -> bool) -> Duration {
        let began = Instant::now();
        let waiting = self.models.wait_for(|model| is_so(model));
        let came = timeout(LONG, waiting).await;
        came.unwrap_or_else(|_| panic!("never: {what}")).unwrap();
        began.elapsed()
    }

    pub(super) fn watch(&self, kind: &str) -> Watch {
        let mut watches = self.progress.watches().into_iter();
        watches.find(|watch| watch.kind == kind).unwrap()
    }
}

pub(super) fn scraped(progress: &Progress) -> String {
    let metrics = Metrics::new();
    metrics.observe(progress);
    metrics.render()
}
