//! The replicas of a control plane: what each counts, told to the others, and summed.
//!
//! * `find`: where the others are.
//! * `dial`: connections to them; both sides want the control plane's own identity.
//! * `link`: listening to one of them.
//! * `ask`: a question to all of them.
//! * `exchange`: what they are told.
//! * `sum`: what was heard, added up.
//! * `proxies`: who is connected.
//! * `edges`: who called whom.
//! * `orders`: commands to sidecars.
//! * `wire`: what is said, in words of this crate.
//!
//! Each replica listens to every other one. Of a workload that is connected to two, as for a moment when
//! its stream moves, each replica knows from the others' lists which stream is the newest, and leaves
//! its own out if it is not: it is counted once. A replica whose connection ends counts no more, as its
//! sidecars are about to come to others; one that is silent counts for 15 s. Without a [`Place`] there is
//! nobody else, and the sum is what is counted here.

mod ask;
mod dial;
mod edges;
mod exchange;
mod find;
mod link;
mod orders;
mod proxies;
mod sum;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use weft_proto::replica::{ProxiesRequest, ProxiesResponse};
use weft_proto::spiffe::SpiffeId;

pub use self::ask::Asked;
pub use self::edges::Edges;
pub(super) use self::exchange::Exchange;
pub use self::orders::Orders;

use self::dial::Client;
use self::sum::Table;
use super::counts::{Counted, Counter, Counts, Trust};
use super::memo::Memo;
use super::metrics::Metrics;
use super::streams::Streams;
use super::tls::peer_identity;
use crate::identity::Authority;
use crate::index::Model;

/// Other replicas that are listened to.
pub const MAX_PEERS: usize = 16;
/// Between two counts.
const COUNT_INTERVAL: Duration = Duration::from_millis(500);
/// How long a replica may take to list its sidecars.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// Which replica this is, and where the others are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name, as its pod's.
    pub name: String,
    /// The address by which the others know it.
    pub ip: IpAddr,
    /// The namespace of the headless service with all replicas.
    pub namespace: String,
}

/// Where a replica stands in a rotation of the authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standpoint {
    /// The replica's name, or its address where it said nothing yet; empty for the only one.
    pub replica: String,
    /// What it said; `None` where it is not heard, or of a build that does not say.
    pub trust: Option<Trust>,
}

/// This replica among the others.
pub struct Replicas {
    authority: Arc<Authority>,
    /// The control plane's identity.
    own: Option<SpiffeId>,
    models: watch::Receiver<Arc<Model>>,
    memo: Arc<Memo>,
    streams: Arc<Streams>,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    place: OnceLock<Place>,
    counted: watch::Sender<Arc<Counted>>,
    summed: watch::Sender<Arc<Counts>>,
    table: Mutex<Table>,
    /// How to ask those that are listened to.
    clients: Mutex<HashMap<SocketAddr, Client>>,
    /// What others count has changed: the sum does.
    heard: Notify,
    /// Who is connected to others has changed: the own count may.
    moved: Notify,
}

impl Replicas {
    pub(super) fn new(
        authority: Arc<Authority>,
        models: watch::Receiver<Arc<Model>>,
        memo: Arc<Memo>,
        streams: Arc<Streams>,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            own: own_id(&authority),
            authority,
            models,
            memo,
            streams,
            metrics,
            tasks,
            shutdown,
            place: OnceLock::new(),
            counted: watch::Sender::default(),
            summed: watch::Sender::default(),
            table: Mutex::default(),
            clients: Mutex::default(),
            heard: Notify::new(),
            moved: Notify::new(),
        }
    }

    /// How many sidecars run which policy, over all replicas.
    pub fn counts(&self) -> watch::Receiver<Arc<Counts>> {
        self.summed.subscribe()
    }

    /// Where every replica stands that there is, this one's first. Those that the model has and that are
    /// not heard are among them.
    pub fn standpoints(&self) -> Vec<Standpoint> {
        let counted = self.counted.borrow().clone();
        let own = Standpoint {
            replica: self.name().to_owned(),
            // What is counted may be a moment older than what is in force.
            trust: counted
                .trust
                .clone()
                .filter(|trust| trust.stand == self.authority.stand()),
        };
        let mut all = vec![own];
        let Some(place) = self.place.get() else {
            return all;
        };
        let (peers, beyond) = find::peers(&self.models.borrow(), place);
        let table = self.table.lock();
        let heard: HashMap<SocketAddr, Standpoint> = table
            .trust()
            .map(|(peer, replica, trust)| {
                let (replica, trust) = (replica.to_owned(), trust.cloned());
                (peer, Standpoint { replica, trust })
            })
            .collect();
        all.extend(peers.iter().map(|peer| {
            let unheard = || Standpoint {
                replica: peer.to_string(),
                trust: None,
            };
            heard.get(peer).cloned().unwrap_or_else(unheard)
        }));
        all.extend((0..beyond).map(|_| Standpoint {
            replica: "beyond the limit".to_owned(),
            trust: None,
        }));
        all
    }

    /// Every replica's sidecars, this one's first; for each other one up to 3 s.
    pub async fn ask_all(&self) -> Vec<Asked<ProxiesResponse>> {
        let own = async { Ok(self.proxies()) };
        let ask = |mut client: Client| async move { client.proxies(ProxiesRequest {}).await };
        let mut asked = self.ask_each(ASK_TIMEOUT, own, ask).await;
        for answer in asked.iter_mut().filter_map(|it| it.answer.as_mut().ok()) {
            answer.proxies.truncate(wire::MAX_WORKLOADS);
        }
        asked
    }

    /// Says where this replica is among others; once, before it runs.
    pub(super) fn take_place(&self, place: Place) {
        // A second one would be a mistake of this crate, and changes nothing.
        let _ = self.place.set(place);
    }

    /// Counts, listens and sums, for as long as it is polled.
    pub(super) async fn run(self: &Arc<Self>) {
        tokio::join!(self.count(), self.follow(), self.add_up());
    }

    /// How many sidecars of this replica have not confirmed the newest of something, and since when the
    /// longest of them.
    pub(super) fn behind(&self) -> (usize, Option<SystemTime>) {
        let proxies = self.proxies().proxies.into_iter();
        let late: Vec<_> = proxies.filter_map(|proxy| proxy.behind_since).collect();
        let since = late.iter().filter_map(|at| (*at).try_into().ok()).min();
        (late.len(), since)
    }

    fn proxies(&self) -> ProxiesResponse {
        proxies::list(self.name(), &self.memo, &self.streams)
    }

    fn name(&self) -> &str {
        self.place.get().map_or("", |place| &place.name)
    }

    /// Counts anew when something changed, at most every 500 ms.
    async fn count(&self) {
        let mut models = self.models.clone();
        let mut authority = self.authority.changes();
        let mut counter = Counter::default();
        loop {
            models.mark_unchanged();
            authority.mark_unchanged();
            let elsewhere = self.table.lock().elsewhere();
            let standing = self.streams.standing();
            let is_newer = |id, since| {
                elsewhere
                    .get(&id)
                    .is_some_and(|(other, at)| (*other, &**at) > (since, self.name()))
            };
            let stand = self.authority.stand();
            let trust = Trust::of(stand, &self.memo, &standing, is_newer);
            let mut counted = counter.count(&self.memo, &standing, is_newer).await;
            counted.trust = Some(trust);
            // Who has it need not copy what it is about to change.
            drop(standing);
            self.counted.send_if_modified(|known| {
                let is_new = **known != counted;
                if is_new {
                    *known = Arc::new(counted);
                }
                is_new
            });
            sleep(COUNT_INTERVAL).await;
            tokio::select! {
                () = self.streams.changed() => {}
                Ok(()) = models.changed() => {}
                Ok(()) = authority.changed() => {}
                () = self.moved.notified() => {}
            }
        }
    }

    /// Keeps a link to each of the others.
    async fn follow(self: &Arc<Self>) {
        let Some(place) = self.place.get() else {
            return;
        };
        let mut models = self.models.clone();
        let mut links: HashMap<SocketAddr, AbortOnDropHandle<()>> = HashMap::new();
        loop {
            let model = models.borrow_and_update().clone();
            let (peers, beyond) = find::peers(&model, place);
            self.metrics.peers_beyond.set(beyond as f64);
            let gone = links.extract_if(|peer, _| !peers.contains(peer));
            for (peer, link) in gone.collect::<Vec<_>>() {
                drop(link);
                self.clients.lock().remove(&peer);
                self.lose(peer, "it is no replica any more");
            }
            for peer in peers {
                let replicas = self.clone();
                links.entry(peer).or_insert_with(|| {
                    let link = async move { link::keep(&replicas, peer).await };
                    AbortOnDropHandle::new(tokio::spawn(link))
                });
            }
            if models.changed().await.is_err() {
                // The source ends with the process; who is known stays.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Sums anew when a part of it changed.
    async fn add_up(&self) {
        let mut models = self.models.clone();
        let mut counted = self.counted.subscribe();
        loop {
            let model = models.borrow_and_update().clone();
            let own = counted.borrow_and_update().clone();
            let (sum, peers) = {
                let table = self.table.lock();
                let sum = table.sum(&own.counts, |name| model.generation(name));
                (sum, table.len())
            };
            self.metrics.peers.set(peers as f64);
            self.summed.send_if_modified(|known| {
                let is_new = **known != sum;
                if is_new {
                    *known = Arc::new(sum);
                }
                is_new
            });
            tokio::select! {
                Ok(()) = counted.changed() => {}
                Ok(()) = models.changed() => {}
                () = self.heard.notified() => {}
            }
        }
    }

    fn hear(&self, peer: SocketAddr, replica: String, counted: Counted) {
        let is_new = self.table.lock().hear(peer, replica, counted);
        if is_new {
            tracing::info!(%peer, "another replica is heard");
        }
        self.heard.notify_one();
        self.moved.notify_one();
    }

    /// Its counts are no part of the sum any more.
    fn lose(&self, peer: SocketAddr, why: &str) {
        if !self.table.lock().forget(peer) {
            return;
        }
        self.metrics.peers_lost.increment(1);
        tracing::warn!(
            %peer, why,
            "another replica is lost; its sidecars are not counted until it is back",
        );
        self.heard.notify_one();
        self.moved.notify_one();
    }
}

/// The identity that the control plane certifies itself with.
fn own_id(authority: &Authority) -> Option<SpiffeId> {
    let (leaf, _) = authority.issue_own(SystemTime::now()).ok()?;
    peer_identity(leaf.chain.first()?, authority.trust_domain()).ok()
}
