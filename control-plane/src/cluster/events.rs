//! Events on policies and routes: what `kubectl describe` shows below an object.
//!
//! They are made of statuses that were written, before and after, so that neither a restart nor another
//! leader repeats them: one when something is refused or does not lead anywhere, for another reason or
//! with other words than before, and one when that is mended. The same reason is not given for the same
//! object again within [`QUIET`], and all together are limited in rate. An event that is lost is no
//! error: the status says the same.
//!
//! They are core `v1` events, which `kubectl describe` reads without conversion.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;
use weft_proto::names::cluster::CONTROLLER;

use super::status::policy::{ACCEPTED, PROGRAMMED, REFUSED, RESOLVED_REFS, shortened};
use crate::index::Name;
use crate::policy::{Condition, ConditionStatus, TrafficPolicyStatus};
use crate::route::status::RouteStatus;

/// How long the same reason is not given again for the same object.
pub const QUIET: Duration = Duration::from_secs(600);
/// Objects and reasons that are remembered for that.
const MAX_REMEMBERED: usize = 4096;
/// Events that may be made at once.
const BURST: f64 = 50.0;
/// Events per second in the long run.
const RATE: f64 = 5.0;
/// Events on their way to the API server; more are lost.
const MAX_WAITING: usize = 64;
/// How long the API server may take for one.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an event's text: the bound of `events.k8s.io`, as which it can be read too.
const MAX_NOTE: usize = 1024;
/// Bytes of an event's name that are its object's; with a dot and 16 digits it stays a valid name.
const MAX_NAME: usize = 230;

/// Something that has become of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Whether somebody has to do something about it.
    pub warning: bool,
    /// In one word.
    pub reason: String,
    /// For people.
    pub note: String,
}

/// The object that something has become of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regarding {
    /// Its API version.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: Name,
    /// Its uid.
    pub uid: String,
}

/// Makes events, and loses them where they do not fit.
#[derive(Clone, Debug)]
pub struct Events {
    gate: Arc<Mutex<Gate>>,
    waiting: mpsc::Sender<(Regarding, News)>,
    _task: Arc<AbortOnDropHandle<()>>,
}

/// What of a policy's status is news.
pub fn of_policy(before: &TrafficPolicyStatus, after: &TrafficPolicyStatus) -> Vec<News> {
    let kinds = [ACCEPTED, RESOLVED_REFS, PROGRAMMED];
    let news = kinds.into_iter().filter_map(|kind| {
        let news = news(kind, &before.conditions, &after.conditions)?;
        // That sidecars follow, or that a route has a part, is no event.
        let of_sidecars = kind == PROGRAMMED;
        let refused = |conditions: &[Condition]| {
            let mut conditions = conditions.iter();
            conditions.any(|it| it.kind == PROGRAMMED && it.reason == REFUSED)
        };
        let tells = !of_sidecars
            || (news.warning && refused(&after.conditions))
            || (!news.warning && refused(&before.conditions));
        tells.then_some(news)
    });
    news.collect()
}

/// What of a route's status is news, over all of its parents.
pub fn of_route(before: &RouteStatus, after: &RouteStatus) -> Vec<News> {
    let mut all: Vec<News> = Vec::new();
    let own = after.parents.iter();
    for parent in own.filter(|parent| parent.controller_name == CONTROLLER) {
        let known = before.parents.iter().find(|known| {
            known.controller_name == CONTROLLER && known.parent_ref == parent.parent_ref
        });
        let known = known.map_or(&[][..], |known| &known.conditions);
        let found = [ACCEPTED, RESOLVED_REFS].into_iter();
        for news in found.filter_map(|kind| news(kind, known, &parent.conditions)) {
            if !all.contains(&news) {
                all.push(news);
            }
        }
    }
    all
}

/// What one condition says that it did not say before: that it does not hold, and why, or that it holds
/// again.
fn news(kind: &str, before: &[Condition], after: &[Condition]) -> Option<News> {
    let of = |conditions: &[Condition]| {
        let mut conditions = conditions.iter();
        conditions.find(|known| known.kind == kind).cloned()
    };
    let (before, after) = (of(before), of(after)?);
    let is_false = |it: &Condition| it.status == ConditionStatus::False;
    let same = |it: &Condition| it.reason == after.reason && it.message == after.message;
    let known = before.as_ref().filter(|before| is_false(before));
    let warning = is_false(&after);
    let tells = match known {
        Some(known) if warning => !same(known),
        Some(_) => after.status == ConditionStatus::True,
        None => warning,
    };
    tells.then_some(News {
        warning,
        reason: after.reason,
        note: after.message,
    })
}

/// What may become an event.
#[derive(Debug)]
struct Gate {
    given: HashMap<(String, String), Instant>,
    left: f64,
    filled: Instant,
}

impl Gate {
    fn new(now: Instant) -> Self {
        Self {
            given: HashMap::new(),
            left: BURST,
            filled: now,
        }
    }

    fn takes(&mut self, uid: &str, reason: &str, now: Instant) -> bool {
        self.given.retain(|_, at| now.duration_since(*at) < QUIET);
        let key = (uid.to_owned(), reason.to_owned());
        if self.given.contains_key(&key) || self.given.len() >= MAX_REMEMBERED {
            return false;
        }
        let since = now.duration_since(self.filled).as_secs_f64();
        self.left = (self.left + since * RATE).min(BURST);
        self.filled = now;
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        self.given.insert(key, now);
        true
    }
}

impl Events {
    /// Starts to make events in the name of `instance`, this replica, until the last clone is dropped.
    pub fn start(client: Client, instance: String) -> Self {
        let (waiting, mut next) = mpsc::channel::<(Regarding, News)>(MAX_WAITING);
        let task = tokio::spawn(async move {
            while let Some((regarding, news)) = next.recv().await {
                let api: Api<Event> = Api::namespaced(client.clone(), &regarding.name.namespace);
                let event = event(
                    &regarding,
                    news,
                    &instance,
                    fastrand::u64(..),
                    Timestamp::now(),
                );
                let params = PostParams::default();
                let lost = match timeout(PATIENCE, api.create(&params, &event)).await {
                    Ok(Ok(_)) => continue,
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "the API server does not answer".to_owned(),
                };
                let (kind, name) = (&regarding.kind, &regarding.name);
                tracing::debug!(%kind, %name, "an event is lost: {lost}");
            }
        });
        Self {
            gate: Arc::new(Mutex::new(Gate::new(Instant::now()))),
            waiting,
            _task: Arc::new(AbortOnDropHandle::new(task)),
        }
    }

    /// Makes an event of it, unless there are too many.
    pub fn tell(&self, regarding: &Regarding, news: News) {
        let now = Instant::now();
        if self.gate.lock().takes(&regarding.uid, &news.reason, now) {
            // Where it does not fit it is lost.
            let _ = self.waiting.try_send((regarding.clone(), news));
        }
    }
}

fn event(regarding: &Regarding, news: News, instance: &str, number: u64, now: Timestamp) -> Event {
    let Name { namespace, name } = &regarding.name;
    // Names are ASCII.
    let stem = name.get(..MAX_NAME).unwrap_or(name);
    let stem = stem.trim_end_matches(['.', '-']);
    let seconds = Timestamp::from_second(now.as_second()).unwrap_or(now);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{stem}.{number:016x}")),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(regarding.api_version.clone()),
            kind: Some(regarding.kind.clone()),
            namespace: Some(namespace.clone()),
            name: Some(name.clone()),
            uid: Some(regarding.uid.clone()),
            ..ObjectReference::default()
        },
        type_: Some(if news.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(news.reason),
        message: Some(shortened(news.note, MAX_NOTE)),
        action: Some("Judged".to_owned()),
        count: Some(1),
        first_timestamp: Some(Time(seconds)),
        last_timestamp: Some(Time(seconds)),
        source: Some(EventSource {
            component: Some(CONTROLLER.to_owned()),
            ..EventSource::default()
        }),
        reporting_component: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests;
