//! A cluster as the mesh's source: Services, EndpointSlices, Pods and TrafficPolicies, watched.
//!
//! Objects are trimmed as they arrive: the fields of `pod::Pod`, `service::Service`, `slice::Slice`
//! and `policy::Policy` are all that is kept, and a change of anything else is no change.
//!
//! * Nothing is published until every kind has been listed once.
//! * A watch that is lost keeps everything that it said; a list that is made anew replaces it at once
//!   when it is complete, never in parts.
//! * An endpoint is withheld while its pod is not known, or has another address. An endpoint whose
//!   address belongs to a pod is that pod, whoever wrote the slice.
//! * A pod that is not ready stays an endpoint without traffic: its services' policies hold for it.
//! * A bad policy is refused alone, as in files: its last good version stays, and without one it
//!   closes what it was meant to close.
//! * What takes an endpoint away is published at once; what only adds waits [`BATCH`] for company.
//!
//! Another kind of object is one more module that trims it, one more table of the store, and one more
//! watch in [`watch_cluster`].

mod assemble;
mod event;
pub mod observed;
mod pod;
mod policy;
mod service;
mod slice;
mod store;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, Config};
use tokio::sync::mpsc;
use tokio::sync::watch as latest;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use weft_proto::names;

use crate::index::{MeshSettings, Model, Publisher};
use crate::source::progress::Progress;
use crate::source::tell::tell;
use event::Urgency;
use pod::Pod;
use policy::Policy;
use service::Service;
use slice::Slice;
use store::{Change, Cluster};
use watch::follow;

/// How long what only adds to the mesh waits for more of it.
const BATCH: Duration = Duration::from_millis(5);
/// Changes that one model takes over at most, so that it is made at all where they never end.
const MAX_BATCH: usize = 4096;
/// Changes on the way from all watches; a watch whose change does not fit waits.
const MAX_WAITING: usize = 1024;
/// The plural of [`names::TRAFFIC_POLICY_KIND`].
const TRAFFIC_POLICIES: &str = "trafficpolicies";

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Service,
    EndpointSlice,
    Pod,
    TrafficPolicy,
}

/// Why a cluster cannot be a mesh's source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Neither a kubeconfig nor a pod's own environment says where the API server is.
    #[error("no cluster is known: {0}")]
    NoCluster(#[from] kube::config::InferConfigError),
    /// What is known of the API server cannot be used.
    #[error("the API server cannot be used: {0}")]
    Unusable(#[from] kube::Error),
    /// The runtime is ending.
    #[error("watching was cut short")]
    Interrupted,
}

/// A client of the cluster that the environment means: `KUBECONFIG` or `~/.kube/config`, else the
/// one that this pod runs in.
pub async fn connect() -> Result<Client, SourceError> {
    let config = Config::infer().await?;
    Ok(Client::try_from(config)?)
}

/// Waits until everything has been listed once, however long that takes, then keeps watching until
/// `shutdown`. The receiver holds the newest model at any time.
pub async fn watch_cluster(
    client: Client,
    settings: MeshSettings,
    progress: Progress,
    shutdown: CancellationToken,
) -> Result<latest::Receiver<Arc<Model>>, SourceError> {
    let (sender, changes) = mpsc::channel(MAX_WAITING);
    for kind in Kind::ALL {
        progress.begun(kind.word());
    }
    let gvk = names::API_VERSION
        .split_once('/')
        .map(|(group, version)| GroupVersionKind::gvk(group, version, names::TRAFFIC_POLICY_KIND));
    let gvk = gvk.expect("the API version has a group");
    let policies = ApiResource::from_gvk_with_plural(&gvk, TRAFFIC_POLICIES);
    let watches: [watch::Watching; 4] = [
        Box::pin(follow(
            Api::<core::Service>::all(client.clone()),
            Kind::Service,
            Service::trim,
            Change::Service,
            sender.clone(),
            progress.clone(),
        )),
        Box::pin(follow(
            Api::<discovery::EndpointSlice>::all(client.clone()),
            Kind::EndpointSlice,
            Slice::trim,
            Change::Slice,
            sender.clone(),
            progress.clone(),
        )),
        Box::pin(follow(
            Api::<core::Pod>::all(client.clone()),
            Kind::Pod,
            Pod::trim,
            Change::Pod,
            sender.clone(),
            progress.clone(),
        )),
        Box::pin(follow(
            Api::<DynamicObject>::all_with(client, &policies),
            Kind::TrafficPolicy,
            Policy::trim,
            Change::Policy,
            sender,
            progress.clone(),
        )),
    ];
    for watching in watches {
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(watching));
    }

    let mut source = Source {
        cluster: Cluster::default(),
        settings,
        changes,
        progress,
    };
    while !source.cluster.has_synced() {
        let change = source.changes.recv().await;
        source.cluster.take(change.ok_or(SourceError::Interrupted)?);
    }
    let objects = source.cluster.objects(&source.settings);
    let (publisher, receiver) = Publisher::start(objects);
    let model = Arc::clone(&receiver.borrow());
    tell(&[], &model);
    tokio::spawn(shutdown.run_until_cancelled_owned(source.run(publisher, model)));
    Ok(receiver)
}

/// From changes to models.
struct Source {
    cluster: Cluster,
    settings: MeshSettings,
    changes: mpsc::Receiver<Change>,
    progress: Progress,
}

impl Source {
    async fn run(mut self, mut publisher: Publisher, mut model: Arc<Model>) {
        while let Some(since) = self.gather().await {
            // Building takes milliseconds in a big mesh: nothing else of this thread waits for it.
            let built = tokio::task::spawn_blocking(move || {
                let objects = self.cluster.objects(&self.settings);
                let model = publisher.publish(objects);
                (self, publisher, model)
            });
            // The task panics with a bug of ours and is cancelled at the runtime's end: what is
            // known stays in force either way.
            let Ok((source, same, next)) = built.await else {
                tracing::error!("the cluster is not watched any longer");
                return;
            };
            (self, publisher) = (source, same);
            self.progress.published(since.elapsed());
            tell(model.refusals(), &next);
            model = next;
        }
    }

    /// Takes over changes until a model is due. Since when it is; `None` at the end.
    async fn gather(&mut self) -> Option<Instant> {
        let mut due = None;
        for _ in 0..MAX_BATCH {
            let change = match due {
                None => self.changes.recv().await?,
                Some((since, Urgency::Now)) => match self.changes.try_recv() {
                    Ok(change) => change,
                    Err(_) => return Some(since),
                },
                Some((since, _)) => match timeout_at(since + BATCH, self.changes.recv()).await {
                    Ok(change) => change?,
                    Err(_) => return Some(since),
                },
            };
            let urgency = self.cluster.take(change);
            let (since, before) = due.unwrap_or_else(|| (Instant::now(), Urgency::Nothing));
            due = match urgency.max(before) {
                Urgency::Nothing => None,
                urgency => Some((since, urgency)),
            };
        }
        Some(due.map_or_else(Instant::now, |(since, _)| since))
    }
}

impl Kind {
    const ALL: [Self; 4] = [
        Self::Service,
        Self::EndpointSlice,
        Self::Pod,
        Self::TrafficPolicy,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::TrafficPolicy => names::TRAFFIC_POLICY_KIND,
        }
    }
}
