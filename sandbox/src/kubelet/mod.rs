//! A small stand-in for a node of a cluster: a kubelet that runs every Pod of an API server as processes
//! in a network namespace, exactly the commands that the Pod has, and a stand-in for the cluster's DNS and
//! kube-proxy beside it.
//!
//! As a kubelet does, it begins containers in their order, waits for startup probes and hooks, fills
//! volumes (tokens, ConfigMaps, Secrets), runs each process as its user with its capabilities and with
//! files of its own, asks probes from the node, starts again what ends, writes the Pod's status, and on
//! deletion stops applications before their sidecars, within the grace period.
//!
//! What it has not: images (a command's name says which program of [`Images`] runs, and its files are the
//! host's), limits of resources, seccomp, modes and groups of volumes' files (everybody reads them), volumes
//! that change after they were filled, and long pauses before restarts. What else a Pod asks for and it
//! cannot do, such as host networks, gRPC and HTTPS probes or other kinds of volumes, is refused in the
//! Pod's status by name. Services have IPv4 addresses only.
//!
//! Where this machine lets it have one user only, sidecars are told by a packet mark instead of by their
//! uid; that is printed.

mod environment;
mod images;
mod life;
mod machine;
mod plan;
mod probes;
mod services;
mod status;
mod volumes;
mod writer;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1 as core;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::mesh::Slot;
use crate::pod::{Forward, Node};
use crate::process::{Process, log_tail};
use crate::{Pod, Sandbox};
use services::{API_SERVICE, Services};

pub use images::Images;

/// Moments that are remembered; tests have fewer.
const MAX_MOMENTS: usize = 65_536;
/// Lines of a log that a message shows.
const TAIL_LINES: usize = 15;

/// Namespace and name.
type Key = (String, String);

/// What a node is made with.
#[derive(Debug)]
pub struct Settings {
    /// What it is called.
    pub name: String,
    /// Of the API server whose Pods it runs: all of them.
    pub kubeconfig: kube::config::Kubeconfig,
    /// Where the API server is on the host, and what it is known by (PEM).
    pub api: (SocketAddr, String),
    /// What can be run.
    pub images: Images,
}

/// A node that runs. Everything on it ends when it is dropped.
#[derive(Debug)]
pub struct Kubelet {
    shared: Arc<Shared>,
    services: Services,
    _watch: AbortOnDropHandle<()>,
    _dir: tempfile::TempDir,
    _slot: Slot,
}

/// Something that happened to a container.
#[derive(Clone, Debug)]
pub struct Moment {
    /// When.
    pub at: Instant,
    /// The pod's namespace and name.
    pub pod: Key,
    /// The container.
    pub container: String,
    /// What.
    pub event: Event,
}

/// See [`Moment`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its process was started.
    Began,
    /// What comes after it need not wait any more.
    Passed,
    /// It takes traffic, or does no more.
    Ready(bool),
    /// It was asked to end.
    Stopped,
    /// It was killed for taking too long.
    Killed,
    /// Its process ended with this code, 128 and the signal's number where a signal ended it.
    Ended(i32),
}

/// What the lives of all pods share.
struct Shared {
    client: Client,
    node: Node,
    place: Pod,
    images: Images,
    ca: String,
    dir: PathBuf,
    hosts: PathBuf,
    /// Variables of every container.
    common: Vec<(String, String)>,
    has_users: bool,
    name: String,
    pods: Mutex<BTreeMap<Key, Running>>,
    moments: Mutex<Vec<Moment>>,
}

/// A pod's life, as the watch sees it.
struct Running {
    uid: String,
    place: Option<Pod>,
    processes: BTreeMap<String, Arc<Process>>,
    told: watch::Sender<Option<Duration>>,
    _task: AbortOnDropHandle<()>,
}

impl Kubelet {
    /// Starts it on the caller's runtime, when a mesh may run: at most two do at a time. There must be the
    /// Service `default/kubernetes` with an address, which will lead to the API server.
    ///
    /// # Errors
    /// Names what there is not: namespaces, or the API server.
    pub async fn start(sandbox: &Sandbox, settings: Settings) -> anyhow::Result<Self> {
        let slot = Slot::take().await.context("waiting for a free slot")?;
        let has_users = sandbox.has_users();
        if !has_users {
            println!(
                "{}: one user only: sidecars are told by a packet mark, for which `--exempt-mark` and \
                 WEFT_MARK are added to what their pods say",
                settings.name
            );
        }
        let dir = tempfile::Builder::new()
            .prefix(&format!("{}-", settings.name))
            .tempdir_in(sandbox.dir())?;
        for part in ["logs", "volumes"] {
            fs::create_dir(dir.path().join(part))?;
        }
        let node = Node::new(&settings.name).context("making the node's network")?;
        let place = node.place().context("a node without a namespace")?.clone();
        let (api, ca) = settings.api;
        let options = kube::config::KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(settings.kubeconfig, &options).await?;
        let client = Client::try_from(config)?;
        let (namespace, name) = API_SERVICE;
        let services: Api<core::Service> = Api::namespaced(client.clone(), namespace);
        let service = services.get(name).await;
        let service = service.context("the API server's own service")?;
        let spec = service.spec.unwrap_or_default();
        let port = spec.ports.as_ref().and_then(|ports| ports.first());
        let variable = |name: &str, value: String| (name.to_owned(), value);
        let common = vec![
            variable("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
            variable(
                "KUBERNETES_SERVICE_HOST",
                spec.cluster_ip.unwrap_or_default(),
            ),
            variable(
                "KUBERNETES_SERVICE_PORT",
                port.map_or(0, |port| port.port).to_string(),
            ),
        ];
        let hosts = dir.path().join("hosts");
        let services = Services::start(&client, place.clone(), api, hosts.clone())?;
        let shared = Arc::new(Shared {
            client,
            node,
            place,
            images: settings.images,
            ca,
            dir: dir.path().to_owned(),
            hosts,
            common,
            has_users,
            name: settings.name,
            pods: Mutex::default(),
            moments: Mutex::default(),
        });
        let watching = tokio::spawn(follow(Arc::clone(&shared)));
        Ok(Self {
            shared,
            services,
            _watch: AbortOnDropHandle::new(watching),
            _dir: dir,
            _slot: slot,
        })
    }

    /// Whether processes run as the users that pods say.
    pub fn has_users(&self) -> bool {
        self.shared.has_users
    }

    /// Where a pod is, once it has a place.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Pod> {
        let pods = self.shared.pods.lock();
        pods.get(&key(namespace, name))?.place.clone()
    }

    /// A container's process, where one runs or ran.
    pub fn process(&self, namespace: &str, name: &str, container: &str) -> Option<Arc<Process>> {
        let pods = self.shared.pods.lock();
        let pod = pods.get(&key(namespace, name))?;
        pod.processes.get(container).cloned()
    }

    /// What has happened so far, in order; of one pod.
    pub fn moments(&self, namespace: &str, name: &str) -> Vec<Moment> {
        let pod = key(namespace, name);
        let moments = self.shared.moments.lock();
        let moments = moments.iter().filter(|moment| moment.pod == pod);
        moments.cloned().collect()
    }

    /// All that a container wrote, before its restarts too.
    pub fn log(&self, namespace: &str, name: &str, container: &str) -> String {
        let log = self.shared.log(&key(namespace, name), container);
        String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned()
    }

    /// Copies all logs into a directory.
    pub fn keep_logs(&self, to: &Path) -> io::Result<()> {
        fs::create_dir_all(to)?;
        for file in fs::read_dir(self.shared.dir.join("logs"))? {
            let file = file?;
            fs::copy(file.path(), to.join(file.file_name()))?;
        }
        Ok(())
    }

    /// The ends of all logs.
    pub fn log_tails(&self) -> String {
        let mut files: Vec<PathBuf> = fs::read_dir(self.shared.dir.join("logs"))
            .map(|files| files.flatten().map(|file| file.path()).collect())
            .unwrap_or_default();
        files.sort();
        let tails = files.iter().map(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            format!("--- {name}\n{}\n", log_tail(file, TAIL_LINES))
        });
        tails.collect()
    }

    /// Lets the host reach a service's port, ready endpoints of it: at this address, until the guard is
    /// dropped.
    pub async fn expose(
        &self,
        namespace: &str,
        service: &str,
        port: u16,
    ) -> anyhow::Result<(SocketAddr, Forward)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let at = listener.local_addr()?;
        let key = (namespace.to_owned(), service.to_owned(), port);
        Ok((at, self.services.expose(listener, key)))
    }
}

impl Shared {
    fn log(&self, (namespace, name): &Key, container: &str) -> PathBuf {
        let file = format!("{namespace}.{name}.{container}.log");
        self.dir.join("logs").join(file)
    }

    fn happened(&self, pod: &Key, container: &str, event: Event) {
        let mut moments = self.moments.lock();
        if moments.len() < MAX_MOMENTS {
            moments.push(Moment {
                at: Instant::now(),
                pod: pod.clone(),
                container: container.to_owned(),
                event,
            });
        }
    }

    /// Begins a pod's life, or tells it to end.
    fn seen(self: &Arc<Self>, pod: core::Pod) {
        let key = key_of(&pod);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let ending = pod
            .metadata
            .deletion_timestamp
            .is_some()
            .then(|| plan::seconds(pod.metadata.deletion_grace_period_seconds.unwrap_or(0)));
        let mut pods = self.pods.lock();
        if pods.get(&key).is_none_or(|known| known.uid != uid) {
            let (told, ends) = watch::channel(None);
            let life = life::run(Arc::clone(self), pod, ends);
            let running = Running {
                uid,
                place: None,
                processes: BTreeMap::new(),
                told,
                _task: AbortOnDropHandle::new(tokio::spawn(life)),
            };
            pods.insert(key.clone(), running);
        }
        if let (Some(running), Some(_)) = (pods.get(&key), ending) {
            running.told.send_replace(ending);
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

async fn follow(shared: Arc<Shared>) {
    let api = Api::<core::Pod>::all(shared.client.clone());
    let events = watcher(api, watcher::Config::default()).default_backoff();
    let mut events = events.boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => shared.seen(pod),
            Ok(watcher::Event::Delete(pod)) => {
                // Its processes go with its life: nobody waits for them any more.
                let key = key_of(&pod);
                let mut pods = shared.pods.lock();
                if pods
                    .get(&key)
                    .is_some_and(|it| Some(&it.uid) == pod.metadata.uid.as_ref())
                {
                    pods.remove(&key);
                }
            }
            Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
            Err(error) => tracing::debug!("the watch of pods: {error}"),
        }
    }
}

fn key(namespace: &str, name: &str) -> Key {
    (namespace.to_owned(), name.to_owned())
}

fn key_of(pod: &core::Pod) -> Key {
    let metadata = &pod.metadata;
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    (part(&metadata.namespace), part(&metadata.name))
}
