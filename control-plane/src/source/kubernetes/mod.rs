//! A cluster as the mesh's source: Services, EndpointSlices, Pods, Namespaces, TrafficPolicies and the
//! Gateway API's routes and grants, watched.
//!
//! Objects are trimmed as they arrive: the fields of `pod::Pod`, `service::Service`, `slice::Slice`
//! and `manifest::Held` are all that is kept, and a change of anything else is no change. What statuses
//! are compared with goes to [`observed`] and makes no model.
//!
//! * Nothing is published until every kind has been listed once, is known not to be there, or, of the
//!   Gateway API's kinds, may not be read.
//! * TrafficPolicies and the Gateway API's kinds come and go with their definitions, at any time.
//! * A watch that is lost keeps everything that it said; a list that is made anew replaces it at once
//!   when it is complete, never in parts.
//! * An endpoint is withheld while its pod is not known, or has another address. An endpoint whose
//!   address belongs to a pod is that pod, whoever wrote the slice.
//! * A pod that is not ready stays an endpoint without traffic: its services' policies hold for it.
//! * A bad policy is refused alone, as in files: its last good version stays, and without one it
//!   closes what it was meant to close.
//! * What takes an endpoint away is published at once; what only adds waits [`BATCH`] for company.
//!
//! Another kind of object is one more [`kind::Kind`], one more module that trims it, one more table of
//! the store, and one more watch in `watches`.

mod assemble;
mod defined;
mod event;
mod hearing;
mod kind;
mod manifest;
mod namespace;
pub mod observed;
mod once;
mod pod;
mod service;
mod slice;
mod store;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use kube::api::DynamicObject;
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::sync::watch as latest;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::index::{MeshSettings, Model, Name, Publisher};
use crate::source::progress::Progress;
use crate::source::tell::tell;
use defined::follow_when_there;
use event::{Event, Urgency};
use hearing::hearing;
use kind::Kind;
use manifest::{Grant, HeldRoute, Policy};
use namespace::Namespace;
use observed::{Observed, Readings};
pub use once::{OnceError, list_once, settings_of};
use pod::Pod;
use service::Service;
use slice::Slice;
use store::{Change, Cluster};
use watch::{Told, Trimming, Watching, follow};

/// How long what only adds to the mesh waits for more of it.
const BATCH: Duration = Duration::from_millis(5);
/// Changes that one model takes over at most, so that it is made at all where they never end.
const MAX_BATCH: usize = 4096;
/// Changes on the way from all watches; a watch whose change does not fit waits.
const MAX_WAITING: usize = 1024;

/// A cluster that is followed: what it says, always the newest of it.
#[derive(Clone, Debug)]
pub struct Following {
    /// The mesh.
    pub models: latest::Receiver<Arc<Model>>,
    /// Every object with a status, as the API server has it.
    pub observed: Arc<Observed>,
    /// Which versions of these objects the newest model was made of, and why others were not. Sent
    /// after the model, by whose revision it is told apart.
    pub readings: latest::Receiver<Arc<Readings>>,
    /// The namespaces whose pods get sidecars by a label of theirs, and those with a pod that has one and
    /// has not ended; but none that is ending.
    pub injected: latest::Receiver<Arc<BTreeSet<String>>>,
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
/// `shutdown`.
pub async fn watch_cluster(
    client: Client,
    settings: MeshSettings,
    progress: Progress,
    shutdown: CancellationToken,
) -> Result<Following, SourceError> {
    let (sender, changes) = mpsc::channel(MAX_WAITING);
    let observed = Arc::new(Observed::new());
    let told = Told {
        changes: sender,
        progress: progress.clone(),
        observed: Arc::clone(&observed),
    };
    for kind in Kind::ALL {
        progress.begun(kind.word());
        let watching = watching(kind, client.clone(), told.clone());
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(watching));
    }
    drop(told);

    let (injected, injected_namespaces) = latest::channel(Arc::default());
    let mut source = Source {
        cluster: Cluster::default(),
        settings,
        changes,
        progress,
        injected,
    };
    while !source.cluster.has_synced() {
        let change = source.changes.recv().await;
        source.take(change.ok_or(SourceError::Interrupted)?);
    }
    source.tell_injected();
    let objects = source.cluster.objects(&source.settings);
    let (publisher, models) = Publisher::start(objects);
    let model = Arc::clone(&models.borrow());
    let first = source.cluster.readings(model.revision());
    let (read, readings) = latest::channel(Arc::new(first));
    tell(&[], &model);
    tokio::spawn(shutdown.run_until_cancelled_owned(source.run(publisher, read, model)));
    Ok(Following {
        models,
        observed,
        readings,
        injected: injected_namespaces,
    })
}

/// The watch of a kind.
fn watching(kind: Kind, client: Client, told: Told) -> Watching {
    match kind {
        Kind::Service => built_in(kind, client, Service::trim, Change::Service, told),
        Kind::EndpointSlice => built_in(kind, client, Slice::trim, Change::Slice, told),
        Kind::Pod => built_in(kind, client, Pod::trim, Change::Pod, told),
        Kind::Namespace => built_in(kind, client, Namespace::trim, Change::Namespace, told),
        Kind::TrafficPolicy => defined(kind, client, Policy::trim, Change::Policy, told),
        Kind::HttpRoute => defined(kind, client, HeldRoute::trim_http, Change::HttpRoute, told),
        Kind::GrpcRoute => defined(kind, client, HeldRoute::trim_grpc, Change::GrpcRoute, told),
        Kind::ReferenceGrant => defined(kind, client, Grant::trim, Change::Grant, told),
    }
}

fn built_in<K, T>(
    kind: Kind,
    client: Client,
    trim: fn(K) -> (Name, Option<T>),
    change: fn(Event<T>) -> Change,
    told: Told,
) -> Watching
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    T: Send + 'static,
{
    let trimming = Trimming { trim, change };
    let client = hearing(client, kind, told.progress.clone());
    Box::pin(follow(Api::all(client), kind, trimming, told))
}

fn defined<T: Send + 'static>(
    kind: Kind,
    client: Client,
    trim: fn(DynamicObject) -> (Name, Option<T>),
    change: fn(Event<T>) -> Change,
    told: Told,
) -> Watching {
    let trimming = Trimming { trim, change };
    Box::pin(follow_when_there(client, kind, trimming, told))
}

/// From changes to models.
struct Source {
    cluster: Cluster,
    settings: MeshSettings,
    changes: mpsc::Receiver<Change>,
    progress: Progress,
    injected: latest::Sender<Arc<BTreeSet<String>>>,
}

impl Source {
    async fn run(
        mut self,
        mut publisher: Publisher,
        read: latest::Sender<Arc<Readings>>,
        mut model: Arc<Model>,
    ) {
        while let Some(since) = self.gather().await {
            self.tell_injected();
            // Building takes milliseconds in a big mesh: nothing else of this thread waits for it.
            let built = tokio::task::spawn_blocking(move || {
                let objects = self.cluster.objects(&self.settings);
                let model = publisher.publish(objects);
                let readings = self.cluster.readings(model.revision());
                (self, publisher, model, readings)
            });
            // The task panics with a bug of ours and is cancelled at the runtime's end: what is
            // known stays in force either way.
            let Ok((source, same, next, readings)) = built.await else {
                tracing::error!("the cluster is not watched any longer");
                return;
            };
            (self, publisher) = (source, same);
            read.send_replace(Arc::new(readings));
            self.progress.published(since.elapsed());
            tell(model.refusals(), &next);
            model = next;
        }
    }

    /// Takes over changes until a model is due. Since when it is; `None` at the end.
    async fn gather(&mut self) -> Option<Instant> {
        let mut due = None;
        let mut taken = 0;
        while taken < MAX_BATCH {
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
            let urgency = self.take(change);
            let (since, before) = due.unwrap_or_else(|| (Instant::now(), Urgency::Nothing));
            due = match urgency.max(before) {
                Urgency::Nothing => None,
                urgency => Some((since, urgency)),
            };
            taken += usize::from(due.is_some());
        }
        due.map(|(since, _)| since)
    }

    /// Takes over a change, and says how soon the model must have it.
    fn take(&mut self, change: Change) -> Urgency {
        let is_namespace = matches!(change, Change::Namespace(_));
        let urgency = self.cluster.take(change);
        if !is_namespace {
            return urgency;
        }
        // No part of the model.
        if urgency != Urgency::Nothing {
            self.tell_injected();
        }
        Urgency::Nothing
    }

    /// Pods say so too: done once for all changes that one model takes over.
    fn tell_injected(&self) {
        let names = self.cluster.injected();
        self.injected.send_if_modified(|known| {
            let news = **known != names;
            *known = Arc::new(names);
            news
        });
    }
}
