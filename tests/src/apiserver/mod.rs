//! A small API server for tests: a double, and not a Kubernetes.
//!
//! It speaks JSON over TLS, in HTTP/1.1 and HTTP/2, to kube-rs, to `kubectl` and to whatever else asks as
//! they do. It stores objects of the kinds in [`kinds`] and of definitions that are created in it, and
//! keeps what clients rely on: revisions, conflicts, watches that miss nothing or say that they do,
//! generations, status apart, finalizers, pods that linger for their grace.
//!
//! What it has not: controllers (nobody makes pods of a deployment, or slices of a service), garbage
//! collection by owner, ownership of fields, validation of built-in kinds, validating webhooks, webhooks
//! for changes, conversion between versions (an object has that which wrote it last), tables, protobuf.
//! Server-side apply therefore merges and never takes away. Roles are asked only once a test wants that.
//!
//! A test holds the [`ApiServer`], which ends with everything in it when it is dropped.

mod access;
mod failure;
mod json;
mod kinds;
mod merge;
mod selectors;
mod serve;
mod store;
mod tls;
mod verbs;
mod watch;
mod webhooks;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::CONTENT_TYPE;
use http::{Method, Request};
use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use access::Token;
pub use access::User;
use failure::Failure;
use json::text;
use store::Store;
use verbs::Reply;

/// How the server is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outage {
    /// It is there.
    #[default]
    None,
    /// Connections are dropped and refused.
    Away,
    /// Connections come about, and nothing is answered. Watches say nothing.
    Hang,
    /// Every request about objects is answered with this code; watches go on.
    Failing(u16),
}

/// Requests that are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// Who asked.
    pub user: String,
    /// As roles name it, `deletecollection` for one.
    pub verb: &'static str,
    /// With group and subresource, as `trafficpolicies/status.weft.dev`.
    pub resource: String,
}

/// What all tasks of a server share.
struct Shared {
    store: Mutex<Store>,
    /// Told after everything that somebody may wait for.
    changed: tokio::sync::watch::Sender<()>,
}

impl Shared {
    fn notify(&self) {
        self.changed.send_replace(());
    }

    /// Waits until the server is, or is not, out like this.
    async fn until(&self, outage: Outage, is_so: bool) {
        let mut changed = self.changed.subscribe();
        while (self.store.lock().outage == outage) != is_so {
            let _ = changed.changed().await;
        }
    }
}

/// A server that runs.
pub struct ApiServer {
    shared: Arc<Shared>,
    certificate: String,
    address: SocketAddr,
    /// Ends when it is dropped.
    task: JoinSet<()>,
}

impl ApiServer {
    /// Starts one on loopback and on the caller's runtime.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = listen(([127, 0, 0, 1], 0).into())?;
        let address = listener.local_addr()?;
        let (acceptor, certificate) = tls::acceptor(address.ip())?;
        let shared = Arc::new(Shared {
            store: Mutex::new(Store::new()),
            changed: tokio::sync::watch::Sender::new(()),
        });
        let mut task = JoinSet::new();
        task.spawn(serve::run(Arc::clone(&shared), listener, address, acceptor));
        Ok(Self {
            shared,
            certificate,
            address,
            task,
        })
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.shared.store.lock()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate that vouches for it, as PEM.
    pub fn ca(&self) -> String {
        self.certificate.clone()
    }

    /// Ends it, with every connection. Dropping does so too, a little later.
    pub async fn stop(mut self) {
        self.task.shutdown().await;
    }

    /// A kubeconfig of somebody who may do everything.
    pub fn kubeconfig(&self) -> anyhow::Result<String> {
        self.kubeconfig_of(&User::admin())
    }

    /// A kubeconfig of somebody, for a day.
    pub fn kubeconfig_of(&self, user: &User) -> anyhow::Result<String> {
        let day = Duration::from_secs(24 * 3600);
        let token = Token::new(user.clone(), Vec::new(), day).mint(&mut self.store());
        Ok(self.kubeconfig_with_token(&token))
    }

    /// A kubeconfig of whoever has a token: YAML, as all JSON is.
    pub fn kubeconfig_with_token(&self, token: &str) -> String {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://{}", self.address),
                "certificate-authority-data": STANDARD.encode(self.ca()),
            }}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {
                "cluster": "test", "user": "test", "namespace": "default",
            }}],
        });
        format!("{config:#}\n")
    }

    /// Does what a request would, in spite of outages: code and answer.
    pub async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        let content_type = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder().method(method).uri(path);
        let request = request.header(CONTENT_TYPE, content_type).body(body.into());
        let Ok(request) = request else {
            return (400, Value::Null);
        };
        let user = User::new("test", &[access::MASTERS]);
        match serve::route(&self.shared, user, request).await {
            Ok(Reply::Object(code, object)) => (code, object),
            Ok(Reply::Body(..)) => (501, Value::Null),
            Err(Failure(code, status)) => (code, status),
        }
    }

    /// Creates an object, or replaces what there is of its name.
    ///
    /// # Errors
    /// What the server says against it.
    pub async fn put(&self, manifest: &Value) -> anyhow::Result<Value> {
        let (api_version, kind) = (text(&manifest["apiVersion"]), text(&manifest["kind"]));
        let mut kinds = self.store().kinds.0.clone().into_values();
        let resource = kinds.find(|one| one.kind == kind && one.api_version() == api_version);
        let resource = resource.with_context(|| format!("no kind {kind} in {api_version}"))?;
        let root = ["api", "apis"][usize::from(api_version.contains('/'))];
        let namespace = match manifest["metadata"]["namespace"].as_str() {
            Some(namespace) => format!("namespaces/{namespace}/"),
            None if resource.namespaced => "namespaces/default/".to_owned(),
            None => String::new(),
        };
        let all = format!("/{root}/{api_version}/{namespace}{}", resource.plural);
        let (mut code, mut answer) = self.ask(Method::POST, &all, Some(manifest)).await;
        if answer["reason"] == "AlreadyExists" {
            let one = format!("{all}/{}", text(&manifest["metadata"]["name"]));
            let (_, known) = self.ask(Method::GET, &one, None).await;
            let mut manifest = manifest.clone();
            manifest["metadata"]["resourceVersion"] = known["metadata"]["resourceVersion"].clone();
            (code, answer) = self.ask(Method::PUT, &one, Some(&manifest)).await;
        }
        anyhow::ensure!(code < 300, "{}", answer["message"]);
        Ok(answer)
    }

    /// A token of a service account, for these audiences or for this server, and bound to a pod's name and
    /// uid where those are given.
    pub fn mint_token(
        &self,
        (namespace, account): (&str, &str),
        audiences: &[&str],
        lifetime: Duration,
        pod: Option<(&str, &str)>,
    ) -> String {
        let user = User::service_account(namespace, account);
        let user = pod.into_iter().fold(user, User::of_pod);
        let audiences = audiences.iter().map(|name| (*name).to_owned()).collect();
        Token::new(user, audiences, lifetime).mint(&mut self.store())
    }

    /// From now on, nobody may do what no role allows.
    pub fn enforce_roles(&self) {
        self.store().enforces_roles = true;
    }

    /// From now on, a pod that is deleted is gone after its kubelet took so long.
    pub fn end_pods_after(&self, time: Duration) {
        self.store().kubelet = Some(time);
    }

    /// How often watches get bookmarks. For watches that begin from now on.
    pub fn bookmark_every(&self, time: Duration) {
        self.store().bookmarks = time;
    }

    /// Where the webhook that is a service really is.
    pub fn route_webhook(&self, (namespace, service): (&str, &str), to: SocketAddr) {
        let key = (namespace.to_owned(), service.to_owned());
        self.store().webhooks.insert(key, to);
    }

    /// Is there no more, or again.
    pub fn set_outage(&self, outage: Outage) {
        self.store().outage = outage;
        self.shared.notify();
    }

    /// Answers so many requests with this code, which change nothing. `resource` as in [`Seen`].
    pub fn refuse(&self, verb: &str, resource: &str, times: u32, code: u16) {
        let refusal = (verb.to_owned(), resource.to_owned(), code);
        let refusals = std::iter::repeat_n(refusal, times as usize);
        self.store().refusals.extend(refusals);
    }

    /// Ends every watch, in order.
    pub fn drop_watches(&self) {
        self.store().drops += 1;
        self.shared.notify();
    }

    /// Forgets all history: whoever watches on from a revision before this one gets 410.
    pub fn compact(&self) {
        self.store().compact();
    }

    /// Requests that came to be answered, whatever the answer was, without those that no role allows.
    pub fn seen(&self) -> BTreeMap<Seen, u64> {
        self.store().seen.clone()
    }

    /// Requests that no role allowed.
    pub fn forbidden(&self) -> BTreeMap<Seen, u64> {
        self.store().forbidden.clone()
    }

    /// Requests of one kind by anybody. `resource` as in [`Seen`].
    pub fn count(&self, verb: &str, resource: &str) -> u64 {
        let seen = self.seen().into_iter();
        let seen = seen.filter(|(seen, _)| seen.verb == verb && seen.resource == resource);
        seen.map(|(_, count)| count).sum()
    }

    /// Open watches of a resource.
    pub fn open_watches(&self, resource: &str) -> usize {
        self.store().watches.get(resource).copied().unwrap_or(0)
    }
}

/// At the start, and after every [`Outage::Away`] at the same address.
fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(at)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}
