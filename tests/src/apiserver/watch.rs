//! Watches: a stream of lines that ends when its client goes, its time is up, or a test says so.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::failure::Failure;
use super::selectors::Selector;
use super::store::Change;
use super::verbs::{Body, Call};
use super::{Outage, Shared};

/// How long a watch lasts whose client does not say.
const LIFETIME: Duration = Duration::from_secs(1800);
/// Batches of lines that wait for a client that reads slowly.
const WAITING: usize = 1;

/// Lines, one for each event.
pub(super) fn start(shared: &Arc<Shared>, call: Call) -> Result<Body, Failure> {
    let no_revision = |_| Failure::bad("resourceVersion is no number");
    let from = match call.option("resourceVersion") {
        "" | "0" => None,
        _ if call.option("sendInitialEvents") == "true" => None,
        revision => Some(revision.parse().map_err(no_revision)?),
    };
    let (shared, selector, id) = (Arc::clone(shared), call.selector()?, call.resource.id());
    let (sender, lines) = mpsc::channel(WAITING);
    let mut store = shared.store.lock();
    *store.watches.entry(id.clone()).or_default() += 1;
    let knobs = (store.drops, store.bookmarks);
    drop(store);
    tokio::spawn(async move {
        tokio::select! {
            () = follow(&shared, &call, &selector, from, knobs, &sender) => {}
            () = sender.closed() => {}
        }
        *shared.store.lock().watches.entry(id).or_default() -= 1;
    });
    let lines = ReceiverStream::new(lines).map(|lines: String| Ok(Frame::data(Bytes::from(lines))));
    Ok(StreamBody::new(lines).boxed_unsync())
}

/// Tells everything after a revision; after none, what there is comes first. Knobs: how often watches were
/// dropped by then, and how long bookmarks are apart.
async fn follow(
    shared: &Shared,
    call: &Call,
    selector: &Selector,
    mut at: Option<u64>,
    (drops, pause): (u64, Duration),
    lines: &mpsc::Sender<String>,
) {
    let mut changed = shared.changed.subscribe();
    let lifetime = call.option("timeoutSeconds").parse().ok();
    let mut ends = Instant::now() + lifetime.map_or(LIFETIME, Duration::from_secs);
    let wants_bookmarks = ["true", "1"].contains(&call.option("allowWatchBookmarks"));
    let tells_start = call.option("sendInitialEvents") == "true" && wants_bookmarks;
    let mut next_bookmark = Instant::now() + pause;
    let mut has_ended = false;
    while !has_ended {
        changed.mark_unchanged();
        let mut news = String::new();
        let now = Instant::now();
        let outage = shared.store.lock().outage;
        if outage == Outage::Hang {
            // The alarm must not ring at once again.
            next_bookmark = now + pause;
            ends = ends.max(next_bookmark);
        } else {
            let store = shared.store.lock();
            if store.drops != drops {
                return;
            }
            let (revision, id) = (store.revision, call.resource.id());
            match at.map(|at| (at, store.since(at, &id, &call.namespace))) {
                Some((_, Some(changes))) => {
                    news.extend(changes.iter().filter_map(|change| told(change, selector)));
                }
                Some((at, None)) => {
                    let message = format!("too old resource version: {at} ({revision})");
                    news = line("ERROR", &Failure::new(410, message).1);
                    has_ended = true;
                }
                None => {
                    let mut all = store.all(&id, &call.namespace);
                    all.retain(|object| selector.selects(object));
                    news.extend(all.iter().map(|object| line("ADDED", object)));
                    if tells_start {
                        news += &bookmark(call, revision, true);
                    }
                }
            }
            at = Some(revision);
            if !has_ended && now >= next_bookmark.min(ends) {
                next_bookmark = now + pause;
                if wants_bookmarks {
                    news += &bookmark(call, revision, false);
                }
            }
            has_ended |= now >= ends;
        }
        if !news.is_empty() && lines.send(news).await.is_err() {
            return;
        }
        if !has_ended {
            let alarm = ends.min(next_bookmark);
            let _ = tokio::time::timeout_at(alarm, changed.changed()).await;
        }
    }
}

/// A change as whoever selects sees it.
fn told(change: &Change, selector: &Selector) -> Option<String> {
    let was = change.old.as_ref().filter(|old| selector.selects(old));
    let is = !change.is_end && selector.selects(&change.object);
    Some(match (was, is) {
        (None, false) => return None,
        (None, true) => line("ADDED", &change.object),
        (Some(_), true) => line("MODIFIED", &change.object),
        (Some(old), false) => {
            let mut last = Value::clone(if change.is_end { &change.object } else { old });
            last["metadata"]["resourceVersion"] = change.revision.to_string().into();
            line("DELETED", &last)
        }
    })
}

fn line(what: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": what, "object": object}))
}

fn bookmark(call: &Call, revision: u64, is_start: bool) -> String {
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if is_start {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    let (kind, version) = (&call.resource.kind, call.resource.api_version());
    let object = json!({"kind": kind, "apiVersion": version, "metadata": metadata});
    line("BOOKMARK", &object)
}
