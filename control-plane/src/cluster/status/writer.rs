//! Writes statuses while this replica leads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::desired::{Desired, View};
use super::schedule::{Outcome, Schedule, Turn};
use super::write::{type_of, write};
use crate::cluster::Leading;
use crate::cluster::events::{Events, News, Regarding};
use crate::index::{Model, Name};
use crate::serve::counts::Counts;
use crate::source::kubernetes::observed::{Observed, ObservedObject, Readings, StatusKind};

/// The least time between two looks at everything. The first look after a quiet time is at once.
const GAP: Duration = Duration::from_millis(50);
/// Objects that are looked at before others have their turn on the thread.
const AT_ONCE: usize = 64;
/// Versions of one object that the watch may be behind. More than that takes a watch that hangs for
/// minutes, and costs a conflict.
const MAX_OLDER: usize = 16;
const KINDS: [StatusKind; 3] = [
    StatusKind::TrafficPolicy,
    StatusKind::HttpRoute,
    StatusKind::GrpcRoute,
];

/// What statuses are made of, beside how many sidecars run which policy.
#[derive(Clone, Debug)]
pub struct Known {
    /// The mesh.
    pub models: watch::Receiver<Arc<Model>>,
    /// Which versions of objects the model of the same revision was made of.
    pub readings: watch::Receiver<Arc<Readings>>,
    /// The objects as the API server has them.
    pub observed: Arc<Observed>,
    /// Whether this replica writes.
    pub leading: Leading,
}

/// Writes the statuses of policies and routes, and events about them.
pub struct StatusWriter {
    client: Client,
    instance: String,
    known: Known,
}

type Key = (StatusKind, Name);
type Written = (Key, String, Result<ObservedObject, (Outcome, String)>);

/// What a write has made of an object, which the watch may not have seen yet.
struct Latest {
    object: Arc<ObservedObject>,
    /// Versions that were written over. While the watch is at one of them, it is behind.
    older: Vec<String>,
}

/// While this replica leads.
struct Term {
    client: Client,
    events: Events,
    observed: Arc<Observed>,
    view: Option<View>,
    schedule: Schedule<Key>,
    written: HashMap<Key, Latest>,
    news: HashMap<Key, (Regarding, Vec<News>)>,
    writes: JoinSet<Written>,
    /// When something is due although nothing changes.
    due: Option<Instant>,
}

impl StatusWriter {
    /// `instance` is this replica's name, for events.
    pub fn new(client: Client, instance: String, known: Known) -> Self {
        Self {
            client,
            instance,
            known,
        }
    }

    /// Writes whenever this replica leads, until one of the sources has ended. `counts` are those of all
    /// replicas together.
    pub async fn run(mut self, mut counts: watch::Receiver<Arc<Counts>>) {
        while self.known.leading.wait_for(|leads| *leads).await.is_ok() {
            let mut leading = self.known.leading.clone();
            tokio::select! {
                // Writes that are on their way end with it.
                lost = leading.wait_for(|leads| !leads) => {
                    if lost.is_err() {
                        return;
                    }
                }
                () = self.lead(&mut counts) => return,
            }
        }
    }

    /// Until a source has ended.
    async fn lead(&mut self, counts: &mut watch::Receiver<Arc<Counts>>) {
        let mut term = Term {
            client: self.client.clone(),
            events: Events::start(self.client.clone(), self.instance.clone()),
            observed: Arc::clone(&self.known.observed),
            view: None,
            schedule: Schedule::new(),
            written: HashMap::new(),
            news: HashMap::new(),
            writes: JoinSet::new(),
            due: None,
        };
        let Known {
            models,
            readings,
            observed,
            ..
        } = &mut self.known;
        let mut objects = observed.changes();
        loop {
            objects.mark_unchanged();
            let (model, read) = (
                Arc::clone(&models.borrow_and_update()),
                Arc::clone(&readings.borrow_and_update()),
            );
            let counted = Arc::clone(&counts.borrow_and_update());
            // Readings come right after the model that they are of.
            if model.revision() == read.revision {
                term.follow(model, read);
                term.look(&counted).await;
            }
            sleep(GAP).await;
            let due = term.due;
            let go_on = tokio::select! {
                changed = models.changed() => changed.is_ok(),
                changed = readings.changed() => changed.is_ok(),
                changed = objects.changed() => changed.is_ok(),
                changed = counts.changed() => changed.is_ok(),
                Some(written) = term.writes.join_next() => {
                    term.take(written);
                    true
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => true,
            };
            if !go_on {
                return;
            }
            while let Some(written) = term.writes.try_join_next() {
                term.take(written);
            }
        }
    }
}

impl Term {
    fn follow(&mut self, model: Arc<Model>, readings: Arc<Readings>) {
        let known = self.view.as_ref();
        if known.is_none_or(|known| known.model.revision() != model.revision()) {
            self.view = Some(View::new(model, readings));
        }
    }

    /// Compares everything with what it should be, and begins to write what differs.
    async fn look(&mut self, counts: &Counts) {
        self.due = None;
        let now = now();
        for kind in KINDS {
            for (at, (name, seen)) in self.observed.all(kind).into_iter().enumerate() {
                if at % AT_ONCE == AT_ONCE - 1 {
                    tokio::task::yield_now().await;
                }
                self.look_at((kind, name), seen, counts, &now);
            }
        }
        let observed = &self.observed;
        let is_there = |(kind, name): &Key| observed.find(*kind, name).is_some();
        self.schedule.keep_only(is_there);
        self.written.retain(|key, _| is_there(key));
    }

    fn look_at(&mut self, key: Key, seen: Arc<ObservedObject>, counts: &Counts, now: &str) {
        let object = match self.written.get(&key) {
            Some(latest) if latest.older.contains(&seen.resource_version) => {
                Arc::clone(&latest.object)
            }
            _ => {
                self.written.remove(&key);
                seen
            }
        };
        let Some(view) = &mut self.view else {
            return;
        };
        let (kind, name) = &key;
        let Some(desired) = view.desired(*kind, name, &object, counts, now) else {
            self.schedule.is_right(&key);
            return;
        };
        let version = &object.resource_version;
        match self
            .schedule
            .turn(&key, version, desired.change, Instant::now())
        {
            Turn::Write => self.begin(key, &object, desired),
            Turn::Wait(until) => self.due = Some(self.due.map_or(until, |due| due.min(until))),
            Turn::Busy => {}
        }
    }

    fn begin(&mut self, key: Key, object: &ObservedObject, desired: Desired) {
        let (kind, name) = key.clone();
        let (api_version, word) = type_of(kind);
        let version = object.resource_version.clone();
        self.schedule.begun(&key, &version);
        let regarding = Regarding {
            api_version: api_version.to_owned(),
            kind: word.to_owned(),
            name: name.clone(),
            uid: object.uid.clone(),
        };
        self.news.insert(key.clone(), (regarding, desired.news));
        let client = self.client.clone();
        self.writes.spawn(async move {
            let over = version.clone();
            let written = write(client, kind, name, version, desired.status).await;
            (key, over, written)
        });
    }

    fn take(&mut self, written: Result<Written, tokio::task::JoinError>) {
        // Writing does not panic, and nobody cancels it but the end of the term.
        let Ok((key, over, written)) = written else {
            return;
        };
        let told = self.news.remove(&key);
        let outcome = match written {
            Ok(object) => {
                if self.schedule.is_paused() {
                    tracing::info!("statuses are written again");
                }
                if let Some((regarding, news)) = told {
                    for news in news {
                        self.events.tell(&regarding, news);
                    }
                }
                let before = self.written.remove(&key);
                let mut older = before.map_or_else(Vec::new, |before| before.older);
                older.drain(..older.len().saturating_sub(MAX_OLDER - 1));
                older.push(over);
                let object = Arc::new(object);
                self.written.insert(key.clone(), Latest { object, older });
                Outcome::Written
            }
            Err((outcome, why)) => {
                self.say(&key, outcome, &why);
                outcome
            }
        };
        let chance = fastrand::f64();
        self.schedule.ended(&key, outcome, chance, Instant::now());
    }

    fn say(&self, (kind, name): &Key, outcome: Outcome, why: &str) {
        let (_, kind) = type_of(*kind);
        match outcome {
            Outcome::Refused => tracing::warn!(
                "the API server refuses the status of {kind} {name}: {why} (compare its roles with \
                 `weft-control-plane --print-rbac`); it is tried again"
            ),
            Outcome::Unreachable if !self.schedule.is_paused() => tracing::warn!(
                "the status of {kind} {name} cannot be written: {why}; all that differ are written \
                 when the API server is back"
            ),
            _ => tracing::debug!("the status of {kind} {name} was not written: {why}"),
        }
    }
}

/// RFC 3339 in seconds, in UTC.
fn now() -> String {
    let now = Timestamp::now();
    let seconds = Timestamp::from_second(now.as_second());
    seconds.unwrap_or(now).to_string()
}
