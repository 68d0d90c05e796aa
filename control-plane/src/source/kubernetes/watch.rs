//! One watch: from the API server to the store.

use std::fmt::Debug;
use std::pin::Pin;

use futures_util::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::Kind;
use super::event::{Event, name_of};
use super::store::Change;
use crate::index::Name;
use crate::source::progress::Progress;

/// Seconds after which the API server is to end a watch, which then goes on where it was. A
/// connection that has died without a word is noticed by the same time.
const WATCH_SECONDS: u32 = 60;

/// A watch that goes on until nobody wants its changes.
pub(super) type Watching = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Lists, watches, and begins anew where that is needed. What fails is tried again, later and later
/// up to half a minute.
pub(super) async fn follow<K, T>(
    api: Api<K>,
    kind: Kind,
    trim: fn(K) -> (Name, Option<T>),
    change: fn(Event<T>) -> Change,
    sender: mpsc::Sender<Change>,
    progress: Progress,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let word = kind.word();
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let events = watcher(api, config).default_backoff();
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        let event = match event {
            // Said before the API server is asked.
            Ok(watcher::Event::Init) => Event::Restarted,
            Ok(event) => {
                if progress.works(word) {
                    tracing::info!(kind = word, "the watch works again");
                }
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
                let error = described(&error);
                if progress.failed(word, error.clone()) {
                    tracing::warn!(
                        kind = word,
                        error,
                        "the watch is down; what is known stays in force"
                    );
                }
                continue;
            }
        };
        if matches!(event, Event::Complete) {
            progress.synced(word);
        }
        if sender.send(change(event)).await.is_err() {
            return;
        }
    }
}

/// The error with what is most likely wrong, for people.
fn described(error: &watcher::Error) -> String {
    let code = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code,
        _ => 0,
    };
    match code {
        403 => format!("{error}: its service account may not list and watch this kind"),
        404 => format!("{error}: are Weft's CRDs installed?"),
        _ => error.to_string(),
    }
}
