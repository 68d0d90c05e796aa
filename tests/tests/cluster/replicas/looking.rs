//! What is written down while replicas come and go: every status, and whether a sidecar noticed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{DynamicObject, ListParams, WatchEvent, WatchParams};
use parking_lot::Mutex;
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;
use weft_proto::names::{cluster::LEASE, ports};
use weft_sandbox::metrics::Metrics;
use weft_sandbox::{Mesh, Pod};

use crate::common::Cluster;

/// How often sidecars are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Seconds for which a watch is asked.
const WATCH_SECONDS: u32 = 250;

/// Every status of a namespace's policies, in the order in which they were written.
pub(super) struct Journal {
    seen: Arc<Mutex<Vec<Said>>>,
    _task: AbortOnDropHandle<()>,
}

/// A status, when it came.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) at: Instant,
    pub(super) policy: String,
    /// Confirmations, and sidecars that hold anything of it.
    pub(super) count: (u64, u64),
    /// Status and reason of its Programmed.
    pub(super) programmed: (String, String),
    /// What all of this is about.
    pub(super) generation: i64,
}

impl Journal {
    pub(super) async fn begin(cluster: &Cluster, namespace: &str) -> anyhow::Result<Self> {
        let api = cluster.policies(namespace);
        let listed = api.list(&ListParams::default()).await?;
        let mut version = listed.metadata.resource_version.unwrap_or_default();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let writing = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let params = WatchParams::default().timeout(WATCH_SECONDS);
            // Whatever ends the watch, it goes on where it was.
            loop {
                let Ok(events) = api.watch(&params, &version).await else {
                    tokio::time::sleep(LOOK).await;
                    continue;
                };
                let mut events = Box::pin(events);
                while let Some(Ok(event)) = events.next().await {
                    if let WatchEvent::Added(policy) | WatchEvent::Modified(policy) = event {
                        let now = policy.metadata.resource_version.clone();
                        version = now.unwrap_or(version);
                        writing.lock().extend(Said::of(&policy));
                    }
                }
            }
        });
        Ok(Self {
            seen,
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// What was said about a policy, without what is the same as the one before.
    pub(super) fn of(&self, policy: &str) -> Vec<Said> {
        let seen = self.seen.lock();
        let mut all: Vec<Said> = seen
            .iter()
            .filter(|said| said.policy == policy)
            .cloned()
            .collect();
        all.dedup_by(|b, a| {
            (a.count, &a.programmed, a.generation) == (b.count, &b.programmed, b.generation)
        });
        all
    }

    /// Everything.
    pub(super) fn all(&self) -> Vec<Said> {
        self.seen.lock().clone()
    }
}

impl Said {
    /// `None` while nothing was said.
    fn of(policy: &DynamicObject) -> Option<Self> {
        let status = &policy.data["status"];
        let mut conditions = status["conditions"].as_array()?.iter();
        let programmed = conditions.find(|it| it["type"] == "Programmed")?;
        let text = |name: &str| programmed[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| status["proxies"][name].as_u64().unwrap_or(0);
        Some(Self {
            at: Instant::now(),
            policy: policy.metadata.name.clone()?,
            count: (number("acknowledged"), number("total")),
            programmed: (text("status"), text("reason")),
            generation: programmed["observedGeneration"].as_i64().unwrap_or(0),
        })
    }

    /// Whether this says that everybody of so many runs it.
    pub(super) fn is_all(&self, sidecars: u64) -> bool {
        self.count == (sidecars, sidecars) && self.programmed.0 == "True"
    }
}

/// What sidecars have of the control plane, looked at again and again: none of them is to notice anything.
pub(super) struct Calm {
    before: BTreeMap<String, Own>,
    renews: bool,
    /// What the label of the service that is looked at begins with.
    backend: String,
    seen: Arc<Mutex<Noticed>>,
    _task: AbortOnDropHandle<()>,
}

/// What is a sidecar's own.
#[derive(Debug, PartialEq)]
struct Own {
    process: u32,
    certificate_expiry: f64,
}

/// The worst that was seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Noticed {
    /// The greatest age of anybody's configuration, in seconds.
    pub(super) age: f64,
    /// The fewest endpoints of a service that the client had.
    pub(super) fewest: Option<usize>,
    /// The most of them.
    pub(super) most: usize,
}

impl Calm {
    /// From now on; `service` is one that the client calls.
    pub(super) async fn begin(mesh: &Mesh, service: &str) -> anyhow::Result<Self> {
        let mut before = BTreeMap::new();
        for workload in mesh.workloads() {
            let own = Own::of(mesh, &workload).await?;
            before.insert(workload, own);
        }
        let pods: Vec<Pod> = mesh.workloads().iter().map(|name| mesh.pod(name)).collect();
        let seen = Arc::new(Mutex::new(Noticed::default()));
        let writing = Arc::clone(&seen);
        let client = mesh.pod("client");
        let backend = format!("{}/{service}:", mesh.namespace());
        let looked_at = backend.clone();
        let task = tokio::spawn(async move {
            loop {
                for pod in &pods {
                    if let Some(metrics) = metrics(pod).await {
                        let age = metrics.sum("weft_config_age_seconds", &[]);
                        let mut seen = writing.lock();
                        seen.age = seen.age.max(age);
                    }
                }
                if let Some(now) = endpoints(&client, &looked_at).await {
                    writing.lock().has(now);
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Ok(Self {
            before,
            renews: false,
            backend,
            seen,
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// Certificates live so short that every sidecar is to have another one at the end.
    pub(super) fn expect_renewals(&mut self) {
        self.renews = true;
    }

    /// No sidecar was started again, or has another certificate where that is not expected.
    pub(super) async fn end(self, mesh: &Mesh) -> anyhow::Result<Noticed> {
        for (workload, before) in &self.before {
            let now = Own::of(mesh, workload).await?;
            if self.renews {
                assert_eq!(now.process, before.process, "{workload}");
                let (now, before) = (now.certificate_expiry, before.certificate_expiry);
                assert!(now > before, "{workload} has not renewed");
            } else {
                assert_eq!(now, *before, "{workload}");
            }
            assert!(mesh.sidecar(workload)?.ended()?.is_none(), "{workload}");
        }
        let mut seen = self.seen.lock().clone();
        let now = endpoints(&mesh.pod("client"), &self.backend).await;
        seen.has(now.context("the client's endpoints are not to be seen")?);
        Ok(seen)
    }
}

impl Noticed {
    fn has(&mut self, endpoints: usize) {
        self.fewest = Some(self.fewest.map_or(endpoints, |it| it.min(endpoints)));
        self.most = self.most.max(endpoints);
    }
}

impl Own {
    async fn of(mesh: &Mesh, workload: &str) -> anyhow::Result<Self> {
        let metrics = Metrics::parse(&mesh.metrics(workload).await?);
        let expiry = metrics.value("weft_certificate_expiry_timestamp_seconds", &[]);
        Ok(Self {
            process: mesh.sidecar(workload)?.id(),
            certificate_expiry: expiry.context("no certificate")?,
        })
    }
}

async fn metrics(pod: &Pod) -> Option<Metrics> {
    let answer = pod.get_local(ports::ADMIN, "/metrics").await.ok()?;
    Some(Metrics::parse(&answer.text()))
}

/// How many endpoints a sidecar has of a backend.
async fn endpoints(pod: &Pod, backend: &str) -> Option<usize> {
    let answer = pod.get_local(ports::ADMIN, "/config").await.ok()?;
    let config: Value = serde_json::from_slice(&answer.body).ok()?;
    let outbound = config["outbound"].as_array()?.iter();
    let mut of = outbound.filter(|it| {
        let name = it["backend"].as_str().unwrap_or_default();
        name.starts_with(backend)
    });
    Some(of.next()?["endpoints"].as_array()?.len())
}

/// The replica that holds the lease; `None` where nobody does.
pub(super) async fn holder(cluster: &Cluster, mesh: &Mesh) -> anyhow::Result<Option<String>> {
    let namespace = mesh.control_plane_namespace()?;
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), namespace);
    let lease = leases.get_opt(LEASE).await?;
    let spec = lease.and_then(|lease| lease.spec).unwrap_or_default();
    let holder = spec.holder_identity.unwrap_or_default();
    let pod = holder.rsplit_once('_').map(|(pod, _)| pod.to_owned());
    Ok(pod)
}

/// Whether a replica says that it leads.
pub(super) async fn leads(mesh: &Mesh, replica: &str) -> anyhow::Result<bool> {
    let answer = mesh.replica_get(replica, "/metrics").await?;
    let metrics = Metrics::parse(&answer.text());
    let leads = metrics.value("weft_control_plane_leader", &[]);
    Ok(leads.context("no weft_control_plane_leader")? > 0.5)
}

/// Sidecars and their replicas, as a replica knows them.
pub(super) async fn connected(mesh: &Mesh, replica: &str) -> anyhow::Result<Vec<(String, String)>> {
    let answer = mesh.replica_get(replica, "/status").await?;
    proxies(&serde_json::from_slice(&answer.body)?)
}

/// `namespace/name` and replica of each sidecar in a status.
pub(super) fn proxies(status: &Value) -> anyhow::Result<Vec<(String, String)>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let proxies = status["proxies"].as_array().context("no proxies")?.iter();
    let proxies = proxies.map(|proxy| {
        let name = format!("{}/{}", text(&proxy["namespace"]), text(&proxy["name"]));
        (name, text(&proxy["replica"]))
    });
    Ok(proxies.collect())
}
