//! Keeps the authority while it is in use: one process, the one that leads, begins rotations and moves them
//! on; all others follow what it writes.
//!
//! * Every few seconds the state is read. What is newer and of the same authority is taken: certificates,
//!   own TLS and the bundle that sidecars are told follow at once. What is gone, broken, older or another
//!   authority's is said loudly and changes nothing; nothing is written over it.
//! * The leader writes the next state over the one that it read, and only then puts it in force. Where it
//!   does not know whether a write arrived, it reads again.
//! * When a rotation goes on, [`rotation`](crate::identity::rotation) decides; what it needs to know of the
//!   sidecars and the other replicas comes from [`Replicas`].
//! * Rotations begin by age, or by request. A request while one is under way is refused.

mod directory;
mod gauges;
mod given;
mod hearing;
mod status;
mod store;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

pub use directory::{DirectoryStore, FilesGiver, GivenFiles};
pub use given::{GivenKeeper, Giver};
pub use status::Status;
pub use store::{Kept, Store, StoreError, Written};

use gauges::Gauges;
use hearing::{InStep, heard, longest_leaf};
use status::Waiting;

use crate::identity::rotation::{Heard, Kind, Next, Published, Rotation, Timing};
use crate::identity::{Authority, BeginError, Document, Fingerprint, Lifetimes, due_at};
use crate::serve::Metrics;
use crate::serve::admin::Trusted;
use crate::serve::replicas::{Replicas, Standpoint};

/// How often the state is read.
const TICK: Duration = Duration::from_secs(2);
/// The longest pause between tries while it cannot be read.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a phase has lasted before it is said whom it waits for, and how often that is said anew: what is
/// over in moments is not worth a write.
const SAID_EVERY: Duration = Duration::from_secs(10);
/// Requests that wait for their turn.
const MAX_ORDERS: usize = 4;

/// Why no rotation begins.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// One is under way, or no certificate could be made.
    #[error(transparent)]
    Begin(#[from] BeginError),
    /// It could not be written, or what is kept is not what is in force.
    #[error("{0}: nothing was begun; try again")]
    Store(String),
    /// This process has not begun to serve, or is ending.
    #[error("the control plane is just starting or ending: nothing was begun; try again")]
    Away,
}

/// What became of a request for a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It has begun.
    Begun,
    /// The replica that leads was asked, and begins within seconds.
    Asked,
}

/// Keeps one authority.
pub struct Keeper {
    authority: Arc<Authority>,
    store: Box<dyn Store>,
    lifetimes: Lifetimes,
    gauges: Gauges,
    replicas: OnceLock<Arc<Replicas>>,
    orders: mpsc::Sender<Order>,
    waiting: Mutex<Option<mpsc::Receiver<Order>>>,
    seen: Mutex<Seen>,
}

struct Order {
    kind: Kind,
    answer: oneshot::Sender<Result<(), Refused>>,
}

/// Whoever keeps an authority.
#[derive(Clone)]
pub enum AnyKeeper {
    /// One that has a state of its own.
    Own(Arc<Keeper>),
    /// One whose issuer is given.
    Given(Arc<GivenKeeper>),
}

impl AnyKeeper {
    /// Keeps it. Never ends.
    pub async fn run(self, replicas: Arc<Replicas>) {
        match self {
            Self::Own(keeper) => keeper.run(replicas).await,
            Self::Given(keeper) => keeper.run(replicas).await,
        }
    }

    /// For whoever asks.
    pub fn trusted(&self) -> Arc<dyn Trusted> {
        match self {
            Self::Own(keeper) => keeper.clone(),
            Self::Given(keeper) => keeper.clone(),
        }
    }
}

/// What the last round saw.
#[derive(Clone, Default)]
struct Seen {
    leads: bool,
    /// What is wrong with what is kept.
    problem: Option<String>,
    published: Published,
    /// When it was said last whom a rotation waits for.
    said: Option<Instant>,
}

impl Keeper {
    /// Keeps this authority, which has a state of its own, there, with issuers and roots of these lives.
    pub fn new(
        authority: Arc<Authority>,
        store: impl Store,
        lifetimes: Lifetimes,
        metrics: &Metrics,
    ) -> Self {
        let (orders, waiting) = mpsc::channel(MAX_ORDERS);
        let keeper = Self {
            authority,
            store: Box::new(store),
            lifetimes,
            gauges: Gauges::new(metrics),
            replicas: OnceLock::new(),
            orders,
            waiting: Mutex::new(Some(waiting)),
            seen: Mutex::default(),
        };
        keeper.gauges.intact.set(1.0);
        keeper.gauges.show(&keeper.document());
        keeper
    }

    /// Keeps it, and hears of sidecars and other replicas from `replicas`. Never ends; for one caller.
    pub async fn run(self: Arc<Self>, replicas: Arc<Replicas>) {
        let Some(mut orders) = self.waiting.lock().take() else {
            return;
        };
        let replicas = self.replicas.get_or_init(|| replicas).clone();
        let mut in_step = InStep::default();
        let mut pause = TICK;
        loop {
            let order = tokio::select! {
                order = orders.recv() => order,
                () = sleep(pause.mul_f64(1.0 - fastrand::f64() / 4.0)) => None,
            };
            let wanted = order.as_ref().map(|order| order.kind);
            let others = || replicas.standpoints();
            let now = SystemTime::now();
            let round = self.round(&others, &mut in_step, wanted, now).await;
            pause = match &round {
                Err(Refused::Store(_)) => (pause * 2).min(LONGEST_PAUSE),
                _ => TICK,
            };
            if let Some(order) = order {
                // Whoever asked may have gone.
                let _ = order.answer.send(round);
            }
        }
    }

    /// Begins a rotation here, or asks whoever leads.
    pub async fn rotate(&self, kind: Kind) -> Result<Accepted, Refused> {
        none_under_way(&self.document())?;
        if !self.store.leads() {
            return self.ask(kind).await;
        }
        let (answer, answered) = oneshot::channel();
        let order = Order { kind, answer };
        let sent = self.orders.send(order).await;
        sent.map_err(|_| Refused::Away)?;
        let answer = answered.await.map_err(|_| Refused::Away)?;
        answer.map(|()| Accepted::Begun)
    }

    async fn ask(&self, kind: Kind) -> Result<Accepted, Refused> {
        let away = |error: StoreError| Refused::Store(error.to_string());
        // Whoever leads may have begun one a moment ago, of which this process has not heard yet.
        if let Some(kept) = self.store.read().await.map_err(away)?
            && let Ok(newest) =
                Document::parse(&kept.text, self.authority.trust_domain(), SystemTime::now())
        {
            none_under_way(&newest)?;
        }
        self.store.ask(kind).await.map_err(away)?;
        Ok(Accepted::Asked)
    }

    /// Where it stands, for people and programs.
    pub fn status(&self) -> Status {
        let standpoints = self.replicas.get().map(|replicas| replicas.standpoints());
        let seen = self.seen.lock().clone();
        Status::of(
            &self.authority,
            &self.document(),
            &self.lifetimes,
            &seen,
            self.store.place(),
            &standpoints.unwrap_or_default(),
        )
    }

    fn document(&self) -> Arc<Document> {
        let document = self.authority.document();
        document.expect("a keeper is made for an authority with a state of its own")
    }

    /// Reads, follows, and where this process leads does what is due. What became of `wanted`.
    async fn round(
        &self,
        standpoints: &(dyn Fn() -> Vec<Standpoint> + Sync),
        in_step: &mut InStep,
        wanted: Option<Kind>,
        now: SystemTime,
    ) -> Result<(), Refused> {
        let leads = self.store.leads();
        let kept = match self.follow(now).await {
            Ok(kept) => kept,
            Err(why) => {
                in_step.broken();
                return Err(Refused::Store(why));
            }
        };
        self.seen.lock().leads = leads;
        if !leads {
            in_step.broken();
            return wanted.map_or(Ok(()), |_| {
                Err(Refused::Store(
                    "this process does not lead any more".to_owned(),
                ))
            });
        }
        let bundle = self.authority.bundle().borrow().clone();
        let published = self.store.published(&bundle).await;
        self.seen.lock().published = published;
        let standpoints = standpoints();
        let heard = heard(&self.authority.stand(), &standpoints, published, in_step);
        self.lead(&kept, wanted, &standpoints, &heard, now).await
    }

    /// Takes over what is kept, where it is newer. Why not is said once.
    async fn follow(&self, now: SystemTime) -> Result<Kept, String> {
        // Away is not gone.
        let read = self.store.read().await.map_err(|error| error.to_string())?;
        let place = self.store.place();
        let taken = match &read {
            None => Err(format!(
                "{place} is gone. What was read from it before is still served; a process that starts now \
                 will refuse to: restore it from a backup"
            )),
            Some(kept) => match self.authority.adopt(&kept.text, now) {
                Ok(taken) => Ok(taken),
                Err(error) => Err(format!(
                    "{place} was changed to something that is not taken: {error}. What was read from it \
                     before is still served; a process that starts now would not agree: restore it"
                )),
            },
        };
        let is_intact = taken.is_ok();
        self.gauges.intact.set(f64::from(u8::from(is_intact)));
        let problem = taken.as_ref().err().cloned();
        let is_news = {
            let mut seen = self.seen.lock();
            let is_news = seen.problem != problem;
            seen.problem.clone_from(&problem);
            is_news
        };
        if let Some(problem) = problem.filter(|_| is_news) {
            tracing::error!("{problem}");
        }
        if taken? {
            self.tell("followed");
        }
        read.ok_or(place)
    }

    /// What whoever leads does: at most one change of the state.
    async fn lead(
        &self,
        kept: &Kept,
        wanted: Option<Kind>,
        standpoints: &[Standpoint],
        heard: &Heard,
        now: SystemTime,
    ) -> Result<(), Refused> {
        let document = self.document();
        let longest = longest_leaf(self.authority.leaf_lifetime(), standpoints);
        if longest > document.longest_leaf {
            // First of all: everything else counts with it.
            self.write(document.with_longest_leaf(longest), kept)
                .await?;
            return wanted.map_or(Ok(()), |_| {
                Err(Refused::Store(
                    "leaves live longer since a moment ago".to_owned(),
                ))
            });
        }
        let timing = Timing::of(document.longest_leaf);

        let asked = wanted.or(kept.asked);
        let Some(underway) = &document.underway else {
            let Some(kind) = asked.or_else(|| self.due(&document, now)) else {
                return Ok(());
            };
            let by = if asked.is_some() { "request" } else { "age" };
            tracing::info!(%kind, by, "a rotation begins");
            let trust_domain = self.authority.trust_domain();
            let until = timing.leaf_end(now);
            let next = document.begin(kind, trust_domain, &self.lifetimes, now, until)?;
            return self.write(next, kept).await;
        };
        let rotation = underway.rotation;
        if asked.is_some() {
            let (kind, phase) = (rotation.kind, rotation.phase);
            let refused = BeginError::Underway { kind, phase };
            if kept.asked.is_some() {
                tracing::warn!(%refused, "a rotation was asked for");
                let forgotten = self.store.forget_asked(kept).await;
                forgotten.map_err(|error| Refused::Store(error.to_string()))?;
            }
            return wanted.map_or(Ok(()), |_| Err(refused.into()));
        }
        let next = match rotation.next(now, heard, &timing) {
            Next::Wait => return self.say_waiting(rotation, kept, standpoints, now).await,
            Next::Sign(until) => {
                if heard.in_step_for.is_none() {
                    tracing::warn!(
                        "signing with the new root begins although not everybody confirmed it: the life of \
                         a leaf has passed since it was published",
                    );
                }
                document.sign(now, until)
            }
            Next::Extend(until) => document.extend(until),
            Next::Retire => document.retire(longest),
        };
        self.write(next, kept).await
    }

    /// Says beside the state whom a phase waits for, where that has changed.
    async fn say_waiting(
        &self,
        rotation: Rotation,
        kept: &Kept,
        standpoints: &[Standpoint],
        now: SystemTime,
    ) -> Result<(), Refused> {
        let (published, said) = {
            let seen = self.seen.lock();
            (seen.published, seen.said)
        };
        let is_young = now < rotation.since + SAID_EVERY;
        if is_young || said.is_some_and(|said| said.elapsed() < SAID_EVERY) {
            return Ok(());
        }
        let bundle = published != Published::Everywhere;
        let waiting = Waiting::of(rotation.phase, &self.authority, bundle, standpoints);
        let waiting = waiting.to_json();
        if waiting == kept.waiting_for {
            return Ok(());
        }
        self.seen.lock().said = Some(Instant::now());
        // Overtaken: the next look says it.
        let said = self.store.say_waiting(waiting.as_deref(), kept).await;
        said.map(|_| ())
            .map_err(|error| Refused::Store(error.to_string()))
    }

    /// What is old enough. A root's rotation makes an issuer too.
    fn due(&self, document: &Document, now: SystemTime) -> Option<Kind> {
        let signing = &document.signing;
        let is_due =
            |certificate, lifetime| due_at(certificate, lifetime).is_ok_and(|due| now >= due);
        if is_due(&signing.root, self.lifetimes.root) {
            Some(Kind::Root)
        } else if is_due(&signing.issuer, self.lifetimes.issuer) {
            Some(Kind::Issuer)
        } else {
            None
        }
    }

    async fn write(&self, next: Document, over: &Kept) -> Result<(), Refused> {
        match self.store.write(&next, over).await {
            Ok(Written::Done) => {}
            Ok(Written::Overtaken) => {
                return Err(Refused::Store(
                    "somebody else wrote at the same time".to_owned(),
                ));
            }
            Err(error) => return Err(Refused::Store(error.to_string())),
        }
        let in_force = self.authority.put_in_force(next);
        in_force.map_err(Refused::Store)?;
        // Where sidecars boot from it need not wait for the next look.
        let bundle = self.authority.bundle().borrow().clone();
        let published = self.store.published(&bundle).await;
        self.seen.lock().published = published;
        self.tell("written");
        Ok(())
    }

    /// In the log and as metrics.
    fn tell(&self, how: &str) {
        let document = self.document();
        self.gauges.show(&document);
        tell(how, &document);
    }
}

impl Trusted for Keeper {
    fn status(&self) -> Value {
        serde_json::to_value(Keeper::status(self)).expect("plain values")
    }

    fn rotate<'a>(&'a self, kind: &'a str) -> BoxFuture<'a, Result<String, (StatusCode, String)>> {
        Box::pin(async move {
            let kind: Kind = kind.parse().map_err(|why| (StatusCode::NOT_FOUND, why))?;
            let done = match Keeper::rotate(self, kind).await {
                Ok(Accepted::Begun) => "has begun",
                Ok(Accepted::Asked) => {
                    "is asked for: the replica that leads begins it within seconds"
                }
                Err(refused @ Refused::Begin(BeginError::Underway { .. })) => {
                    return Err((StatusCode::CONFLICT, refused.to_string()));
                }
                Err(refused) => return Err((StatusCode::SERVICE_UNAVAILABLE, refused.to_string())),
            };
            Ok(format!("a rotation of the {kind} {done}"))
        })
    }
}

fn none_under_way(document: &Document) -> Result<(), BeginError> {
    let Some(underway) = &document.underway else {
        return Ok(());
    };
    let rotation = underway.rotation;
    let (kind, phase) = (rotation.kind, rotation.phase);
    Err(BeginError::Underway { kind, phase })
}

fn tell(how: &str, document: &Document) {
    let root = Fingerprint::of(&document.signing.root).to_string();
    let issuer = Fingerprint::of(&document.signing.issuer).to_string();
    let phase = document.underway.as_ref().map_or_else(
        || "no rotation is under way".to_owned(),
        |it| {
            format!(
                "a rotation of the {} is in phase {}",
                it.rotation.kind, it.rotation.phase
            )
        },
    );
    tracing::info!(
        how,
        generation = document.generation,
        signing_root = root,
        signing_issuer = issuer,
        trusted_roots = document.bundle().roots.len(),
        "the authority's state: {phase}"
    );
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
