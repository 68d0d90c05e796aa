//! What a cluster does for replicas: it has their Pods, a headless service whose slice says which of them
//! are ready, and an address that leads to one of these, as a Service and its kube-proxy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use weft_proto::names::{self, ports};

use super::super::objects::{self, IMAGE, MANAGER, SCHEDULER};
use super::super::writer::Writer;
use crate::Pod;

/// Connections at a time; more wait.
const MAX_CONNECTIONS: usize = 256;
/// Pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// How often each replica is asked whether it is ready. A kubelet does so every few seconds, and so the
/// address leads to replicas that are gone for longer there.
const PROBE_PERIOD: Duration = Duration::from_millis(100);
/// How long the answer may take.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// Works until it is dropped.
#[derive(Debug)]
pub(super) struct Front {
    shared: Arc<Shared>,
    _end: DropGuard,
}

#[derive(Debug)]
struct Shared {
    writer: Writer,
    namespace: String,
    replicas: Mutex<Vec<Standing>>,
    /// Where new connections lead, ready or not.
    only: Mutex<Option<Vec<String>>>,
}

/// A replica as the cluster sees it.
#[derive(Clone, Debug)]
struct Standing {
    pod: Pod,
    uid: String,
    terminating: bool,
    ready: bool,
}

impl Front {
    /// Makes the headless service, and listens for sidecars at `address` in the pod.
    pub(super) async fn start(
        writer: Writer,
        namespace: String,
        pod: Pod,
        listener: TcpListener,
    ) -> anyhow::Result<Self> {
        let name = names::cluster::REPLICAS_SERVICE.to_owned();
        let key = (namespace.clone(), name);
        let shared = Arc::new(Shared {
            writer,
            namespace,
            replicas: Mutex::default(),
            only: Mutex::default(),
        });
        let service = json!({
            "metadata": {"name": key.1, "namespace": key.0},
            "spec": {
                "clusterIP": "None",
                "ports": [{"name": "grpc", "port": ports::CONTROL_PLANE, "protocol": "TCP"}],
            },
        });
        shared.writer.create::<core::Service>(&key, service).await?;
        let slice = shared.slice();
        shared
            .writer
            .create::<EndpointSlice>(&key, slice.clone())
            .await?;
        let end = CancellationToken::new();
        let following = follow(Arc::clone(&shared), slice);
        tokio::spawn(end.clone().run_until_cancelled_owned(following));
        let balancing = balance(Arc::clone(&shared), pod, listener, end.clone());
        tokio::spawn(end.clone().run_until_cancelled_owned(balancing));
        Ok(Self {
            shared,
            _end: end.drop_guard(),
        })
    }

    /// A replica's Pod, whose process is started next.
    pub(super) fn add(&self, pod: &Pod) -> impl Future<Output = anyhow::Result<()>> + use<> {
        let (shared, pod) = (Arc::clone(&self.shared), pod.clone());
        async move {
            let key = (shared.namespace.clone(), pod.name().to_owned());
            let uid = shared.writer.make_pod(&key, &shared.object(&pod)).await?;
            shared.replicas.lock().push(Standing {
                pod,
                uid,
                terminating: false,
                ready: false,
            });
            Ok(())
        }
    }

    /// The Pod is told to end: from now on nothing new goes to it.
    pub(super) fn begin_end(&self, name: &str) {
        let mut replicas = self.shared.replicas.lock();
        for replica in replicas.iter_mut().filter(|it| it.pod.name() == name) {
            replica.terminating = true;
        }
    }

    /// The Pod's process has ended, and so it goes.
    pub(super) fn end(&self, name: &str) -> impl Future<Output = anyhow::Result<()>> + use<> {
        let shared = Arc::clone(&self.shared);
        let name = name.to_owned();
        async move {
            shared.replicas.lock().retain(|it| it.pod.name() != name);
            let key = (shared.namespace.clone(), name);
            shared.writer.delete::<core::Pod>(&key).await
        }
    }

    /// Leads new connections to these replicas, ready or not; `None`: to all that are ready.
    pub(super) fn lead_to(&self, only: Option<Vec<String>>) {
        *self.shared.only.lock() = only;
    }
}

impl Shared {
    fn object(&self, pod: &Pod) -> objects::Pod {
        let addresses = [json!({"ip": pod.v4().to_string()})];
        let account = names::CONTROL_PLANE_SERVICE_ACCOUNT;
        objects::Pod {
            service_account: account.to_owned(),
            manifest: json!({
                "metadata": {"name": pod.name(), "namespace": self.namespace},
                "spec": {
                    "serviceAccountName": account,
                    "automountServiceAccountToken": false,
                    "schedulerName": SCHEDULER,
                    "containers": [{"name": "control-plane", "image": IMAGE}],
                },
            }),
            status: objects::status(&addresses),
            terminating: false,
        }
    }

    /// The headless service's slice, as of now.
    fn slice(&self) -> Value {
        let endpoints = self
            .replicas
            .lock()
            .iter()
            .map(Standing::endpoint)
            .collect();
        let endpoints: Vec<Value> = endpoints;
        let name = names::cluster::REPLICAS_SERVICE;
        json!({
            "metadata": {
                "name": name,
                "namespace": self.namespace,
                "labels": {
                    "kubernetes.io/service-name": name,
                    "endpointslice.kubernetes.io/managed-by": MANAGER,
                },
            },
            "addressType": "IPv4",
            "ports": [{"name": "grpc", "port": ports::CONTROL_PLANE, "protocol": "TCP"}],
            "endpoints": endpoints,
        })
    }

    /// Whom a new connection leads to.
    fn choose(&self) -> Option<SocketAddr> {
        let only = self.only.lock().clone();
        let replicas = self.replicas.lock();
        let open = replicas.iter().filter(|it| match &only {
            Some(only) => only.iter().any(|name| name == it.pod.name()),
            None => it.ready && !it.terminating,
        });
        let open: Vec<_> = open.collect();
        let chosen = open.get(fastrand::usize(..open.len().max(1)))?;
        Some((chosen.pod.v4(), ports::CONTROL_PLANE).into())
    }
}

impl Standing {
    fn endpoint(&self) -> Value {
        let pod = &self.pod;
        json!({
            "addresses": [pod.v4().to_string()],
            "conditions": {
                "ready": self.ready && !self.terminating,
                "serving": self.ready,
                "terminating": self.terminating,
            },
            "targetRef": {"kind": "Pod", "name": pod.name(), "uid": self.uid},
        })
    }
}

/// Asks all replicas again and again whether they are ready, and says so in the slice.
async fn follow(shared: Arc<Shared>, mut written: Value) {
    let key = (
        shared.namespace.clone(),
        names::cluster::REPLICAS_SERVICE.to_owned(),
    );
    loop {
        let pods: Vec<Pod> = {
            let replicas = shared.replicas.lock();
            replicas.iter().map(|it| it.pod.clone()).collect()
        };
        for pod in pods {
            let asked = pod.get_local(ports::ADMIN, "/ready");
            let answer = tokio::time::timeout(PROBE_TIMEOUT, asked).await;
            let ready = matches!(answer, Ok(Ok(answer)) if answer.status.is_success());
            let mut replicas = shared.replicas.lock();
            for known in replicas.iter_mut().filter(|it| it.pod.name() == pod.name()) {
                known.ready = ready;
            }
        }
        let slice = shared.slice();
        if slice != written {
            match shared.writer.replace::<EndpointSlice>(&key, &slice).await {
                Ok(()) => written = slice,
                Err(error) => tracing::warn!("the replicas' slice, tried again: {error:#}"),
            }
        }
        tokio::time::sleep(PROBE_PERIOD).await;
    }
}

/// Leads every connection to one replica, for as long as it lasts.
async fn balance(shared: Arc<Shared>, pod: Pod, listener: TcpListener, end: CancellationToken) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Where there is nobody, it is closed.
        let Some(to) = shared.choose() else {
            continue;
        };
        let (pod, end) = (pod.clone(), end.clone());
        tokio::spawn(async move {
            let _permit = permit;
            // How it ends is told by the ends of the connections themselves.
            let _ = end.run_until_cancelled(carry(&pod, stream, to)).await;
        });
    }
}

async fn carry(pod: &Pod, mut stream: TcpStream, to: SocketAddr) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut other = pod.connect(to).await?;
    tokio::io::copy_bidirectional(&mut stream, &mut other).await?;
    Ok(())
}
