//! One watch: from the API server to the store.

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kube::core::DynamicObject;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::DefaultBackoff;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::event::{Event, name_of};
use super::kind::Kind;
use super::observed::{Observed, Sight};
use super::store::Change;
use crate::index::Name;
use crate::source::progress::Progress;

/// Seconds after which the API server is to end a watch, which then goes on where it was. A
/// connection that has died without a word is noticed by the same time.
const WATCH_SECONDS: u32 = 60;
/// Objects that are asked for at once in a list: pods are big before they are trimmed.
const PAGE: u32 = 200;

/// Between two tries. Short: an API server that is back has all that was missed while it was away, and a
/// replica has eight watches only.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A watch that goes on until nobody wants its changes.
pub(super) type Watching = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Who is told what watches say.
#[derive(Clone)]
pub(super) struct Told {
    pub(super) changes: mpsc::Sender<Change>,
    pub(super) progress: Progress,
    pub(super) observed: Arc<Observed>,
}

/// Why a watch has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Nobody wants its changes any longer.
    Unwanted,
    /// The API server says that it has no such kind, and it is one that may be missing.
    NotFound,
}

/// How objects of a kind are trimmed, and what the store is told of them.
pub(super) struct Trimming<K, T> {
    pub(super) trim: fn(K) -> (Name, Option<T>),
    pub(super) change: fn(Event<T>) -> Change,
}

/// Follows a kind that every cluster has.
pub(super) async fn follow<K, T>(api: Api<K>, kind: Kind, trimming: Trimming<K, T>, told: Told)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    attend(&api, kind, &trimming, &told, |_| ()).await;
}

/// Follows a kind by a version that the API server has, until it has it no longer.
pub(super) async fn follow_defined<T>(
    api: &Api<DynamicObject>,
    kind: Kind,
    trimming: &Trimming<DynamicObject, T>,
    told: &Told,
) -> Ended {
    let sight = |status| Sight::new(Arc::clone(&told.observed), status);
    let mut sight = kind.with_status().map(sight);
    let see = |event: &mut watcher::Event<DynamicObject>| {
        if let Some(sight) = &mut sight {
            match event {
                watcher::Event::Init => sight.restarted(),
                watcher::Event::InitApply(object) => sight.listed(object),
                watcher::Event::InitDone => sight.complete(),
                watcher::Event::Apply(object) => sight.applied(object),
                watcher::Event::Delete(object) => sight.deleted(&name_of(object.meta())),
            }
        }
    };
    attend(api, kind, trimming, told, see).await
}

/// Lists, watches, and begins anew where that is needed. What fails is tried again, later and later
/// up to [`LONGEST_PAUSE`].
async fn attend<K, T>(
    api: &Api<K>,
    kind: Kind,
    trimming: &Trimming<K, T>,
    told: &Told,
    mut see: impl FnMut(&mut watcher::Event<K>),
) -> Ended
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let word = kind.word();
    let Trimming { trim, change } = trimming;
    let Told {
        changes, progress, ..
    } = told;
    let config = watcher::Config::default()
        .timeout(WATCH_SECONDS)
        .page_size(PAGE);
    let events = watcher(api.clone(), config).backoff(Pauses::default());
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(mut event) => {
                see(&mut event);
                match event {
                    watcher::Event::Init => Event::Restarted,
                    watcher::Event::InitApply(object) => {
                        let (name, object) = trim(object);
                        Event::Listed(name, object)
                    }
                    watcher::Event::InitDone => Event::Complete,
                    watcher::Event::Apply(object) => {
                        let (name, object) = trim(object);
                        Event::Applied(name, object)
                    }
                    watcher::Event::Delete(object) => Event::Deleted(name_of(object.meta())),
                }
            }
            Err(error) => {
                let code = code(&error);
                let error = described(&error, kind);
                if progress.failed(word, error.clone()) {
                    tracing::warn!(
                        kind = word,
                        error,
                        "the watch is down; what is known stays in force"
                    );
                }
                match code {
                    404 if kind.defined().is_some() => return Ended::NotFound,
                    403 if kind.may_be_forbidden() => Event::Forbidden,
                    _ => continue,
                }
            }
        };
        if matches!(event, Event::Complete) {
            progress.synced(word);
        }
        if changes.send(change(event)).await.is_err() {
            return Ended::Unwanted;
        }
    }
    Ended::Unwanted
}

/// The code that the API server answered with; 0 where there was no answer.
fn code(error: &watcher::Error) -> u16 {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code,
        _ => 0,
    }
}

/// The error with what is most likely wrong, for people.
fn described(error: &watcher::Error, kind: Kind) -> String {
    match code(error) {
        403 if kind.may_be_forbidden() => format!(
            "{error}: its service account may not list and watch this kind, which is as if there \
             were none"
        ),
        403 => format!("{error}: its service account may not list and watch this kind"),
        _ => error.to_string(),
    }
}

/// kube's pauses up to a bound of ours, with up to a quarter less by chance there, so that watches do not
/// come back all at once.
#[derive(Default)]
struct Pauses(DefaultBackoff);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let bound = LONGEST_PAUSE.mul_f64(1.0 - fastrand::f64() / 4.0);
        self.0.next().map(|pause| pause.min(bound))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0.reset();
    }
}
