//! A small API server for tests: a double, and not a Kubernetes.
//!
//! It speaks JSON over TLS, in HTTP/1.1 and HTTP/2, to kube-rs, to `kubectl` and to whatever else asks as
//! they do. It stores objects of the kinds in [`kinds`] and of definitions that are created in it, and
//! keeps what clients rely on: revisions, conflicts, watches that miss nothing or say that they do,
//! generations, status apart, finalizers, pods that linger for their grace.
//!
//! What it has not: controllers (nobody makes pods of a deployment, or slices of a service), garbage
//! collection by owner, ownership of fields, validation of built-in kinds, validating webhooks,
//! conversion between versions beyond the version's name, tables, protobuf. Server-side apply therefore
//! merges and never takes away. Roles are asked only once a test wants that.
//!
//! A test holds the [`ApiServer`], which ends with everything in it when it is dropped.

mod access;
mod failure;
mod kinds;
mod merge;
mod selectors;
mod serve;
mod store;
mod time;
mod tls;
mod verbs;
mod watch;
mod webhooks;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

pub use access::User;
use serve::{Answer, Asked};
use store::Store;
use verbs::Reply;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// What [`Network::dial`] returns.
pub type Dialing = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// Where the server listens and calls webhooks: a host's network, or a pod's.
pub struct Network {
    /// Called at the start and after every [`Outage::Away`], with the same address.
    pub listen: Box<dyn Fn(SocketAddr) -> io::Result<TcpListener> + Send + Sync>,
    /// Connects to a webhook.
    pub dial: Box<dyn Fn(SocketAddr) -> Dialing + Send + Sync>,
}

impl Network {
    /// That of whoever calls.
    pub fn host() -> Self {
        let listen = |at: SocketAddr| {
            let socket = if at.is_ipv4() {
                TcpSocket::new_v4()
            } else {
                TcpSocket::new_v6()
            }?;
            socket.set_reuseaddr(true)?;
            socket.bind(at)?;
            socket.listen(BACKLOG)
        };
        Self {
            listen: Box::new(listen),
            dial: Box::new(|to| Box::pin(TcpStream::connect(to))),
        }
    }
}

/// How the server is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// It is there.
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
    /// As roles name it: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`,
    /// `deletecollection`.
    pub verb: &'static str,
    /// With group and subresource, as `trafficpolicies/status.weft.dev`.
    pub resource: String,
}

#[derive(Clone, Debug)]
struct Refusal {
    verb: String,
    resource: String,
    left: u32,
    code: u16,
}

/// What all tasks of a server share.
struct Shared {
    store: Mutex<Store>,
    /// Told after everything that somebody may wait for.
    changed: tokio::sync::watch::Sender<()>,
    kubelet: Mutex<Option<Duration>>,
    network: Network,
}

impl Shared {
    fn notify(&self) {
        self.changed.send_replace(());
    }

    /// Waits until the server does not hang.
    async fn until_awake(&self) {
        let mut changed = self.changed.subscribe();
        while self.store.lock().outage == Outage::Hang {
            let _ = changed.changed().await;
        }
    }
}

/// A server that runs.
pub struct ApiServer {
    shared: Arc<Shared>,
    authority: tls::Authority,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl ApiServer {
    /// Starts one on loopback.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_at(([127, 0, 0, 1], 0).into(), Network::host()).await
    }

    /// Starts one at an address, where port 0 is any. It runs on the caller's runtime.
    pub async fn start_at(at: SocketAddr, network: Network) -> anyhow::Result<Self> {
        let authority = tls::Authority::new()?;
        let listener = (network.listen)(at)?;
        let address = listener.local_addr()?;
        let acceptor = authority.acceptor(address.ip())?;
        let shared = Arc::new(Shared {
            store: Mutex::new(Store::new()),
            changed: tokio::sync::watch::Sender::new(()),
            kubelet: Mutex::new(None),
            network,
        });
        let running = serve::run(Arc::clone(&shared), listener, address, acceptor);
        Ok(Self {
            task: tokio::spawn(running),
            shared,
            authority,
            address,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The authority that vouches for it, as PEM.
    pub fn ca(&self) -> String {
        self.authority.pem()
    }

    /// Ends it, with every connection. Dropping does so too, a little later.
    pub async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// A kubeconfig of somebody who may do everything, by certificate.
    pub fn kubeconfig(&self) -> anyhow::Result<String> {
        self.kubeconfig_of(&User::admin())
    }

    /// A kubeconfig of somebody, by a certificate that has the first group only.
    pub fn kubeconfig_of(&self, user: &User) -> anyhow::Result<String> {
        let (certificate, key) = self.authority.user(user)?;
        Ok(self.kubeconfig_with(&json!({
            "client-certificate-data": STANDARD.encode(certificate),
            "client-key-data": STANDARD.encode(key),
        })))
    }

    /// A kubeconfig of whoever has a token.
    pub fn kubeconfig_with_token(&self, token: &str) -> String {
        self.kubeconfig_with(&json!({"token": token}))
    }

    /// YAML, as all JSON is.
    fn kubeconfig_with(&self, user: &Value) -> String {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://{}", self.address),
                "certificate-authority-data": STANDARD.encode(self.ca()),
            }}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {
                "cluster": "test", "user": "test", "namespace": "default",
            }}],
            "current-context": "test",
        });
        format!("{config:#}\n")
    }

    /// Does what a request would, in spite of outages: code and answer.
    pub async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let content_type = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let asked = Asked {
            method: &method,
            path,
            query,
            accept: "",
            content_type,
        };
        let body = body.map(Value::to_string).unwrap_or_default();
        let user = User::new("test", &[access::MASTERS]);
        match serve::route(&self.shared, user, &asked, body.as_bytes()).await {
            Ok(Answer::Reply(Reply::Object { code, object, .. })) => (code, object),
            Ok(_) => (501, Value::Null),
            Err(failure) => (failure.code, failure.status()),
        }
    }

    /// Creates an object, or replaces what there is of its name.
    ///
    /// # Errors
    /// What the server says against it.
    pub async fn put(&self, manifest: &Value) -> anyhow::Result<Value> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (api_version, kind) = (text(&manifest["apiVersion"]), text(&manifest["kind"]));
        let resource = self
            .shared
            .store
            .lock()
            .kinds
            .of_manifest(&api_version, &kind);
        let resource =
            resource.ok_or_else(|| anyhow::anyhow!("no kind {kind} in {api_version}"))?;
        let root = if resource.group.is_empty() {
            "api"
        } else {
            "apis"
        };
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
        let audiences: Vec<String> = audiences.iter().map(|name| (*name).to_owned()).collect();
        let user = User::service_account(namespace, account);
        let mut store = self.shared.store.lock();
        access::mint(
            &mut store,
            user,
            &audiences,
            lifetime,
            Some((namespace, account)),
            pod,
        )
    }

    /// From now on, nobody may do what no role allows.
    pub fn enforce_roles(&self) {
        self.shared.store.lock().enforces_roles = true;
    }

    /// From now on, a pod that is deleted is gone after its kubelet took so long.
    pub fn end_pods_after(&self, time: Duration) {
        *self.shared.kubelet.lock() = Some(time);
    }

    /// How often watches get bookmarks. For watches that begin from now on.
    pub fn bookmark_every(&self, time: Duration) {
        self.shared.store.lock().bookmarks = time;
    }

    /// Where the webhook that is a service really is.
    pub fn route_webhook(&self, (namespace, service): (&str, &str), to: SocketAddr) {
        let key = (namespace.to_owned(), service.to_owned());
        self.shared.store.lock().webhooks.insert(key, to);
    }

    /// Is there no more, or again.
    pub fn set_outage(&self, outage: Outage) {
        self.shared.store.lock().outage = outage;
        self.shared.notify();
    }

    /// Answers so many requests with this code, which change nothing. `resource` as in [`Seen`].
    pub fn refuse(&self, verb: &str, resource: &str, times: u32, code: u16) {
        self.shared.store.lock().refusals.push(Refusal {
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            left: times,
            code,
        });
    }

    /// Ends every watch, in order.
    pub fn drop_watches(&self) {
        self.shared.store.lock().drops += 1;
        self.shared.notify();
    }

    /// Forgets all history: whoever watches on from a revision before this one gets 410.
    pub fn compact(&self) {
        self.shared.store.lock().compact();
    }

    /// The newest revision.
    pub fn revision(&self) -> u64 {
        self.shared.store.lock().revision
    }

    /// Requests that came to be answered, whatever the answer was, without those that no role allows.
    pub fn seen(&self) -> BTreeMap<Seen, u64> {
        self.shared.store.lock().seen.clone()
    }

    /// Requests that no role allowed.
    pub fn forbidden(&self) -> BTreeMap<Seen, u64> {
        self.shared.store.lock().forbidden.clone()
    }

    /// Requests of one kind by anybody. `resource` as in [`Seen`].
    pub fn count(&self, verb: &str, resource: &str) -> u64 {
        let store = self.shared.store.lock();
        let seen = store.seen.iter();
        let seen = seen.filter(|(seen, _)| seen.verb == verb && seen.resource == resource);
        seen.map(|(_, count)| count).sum()
    }

    /// Open watches of a resource.
    pub fn open_watches(&self, resource: &str) -> usize {
        let store = self.shared.store.lock();
        store.watches.get(resource).copied().unwrap_or(0)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
