//! Watches: a stream of lines that ends when its client goes, its time is up, or a test says so.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::failure::Failure;
use super::kinds::Resource;
use super::selectors::Selector;
use super::store::Change;
use super::verbs::{Body, Call};
use super::{Outage, Shared};

/// How long a watch lasts whose client does not say.
const LIFETIME: Duration = Duration::from_secs(1800);

struct Watcher {
    shared: Arc<Shared>,
    resource: Arc<Resource>,
    /// Empty: all.
    namespace: String,
    selector: Selector,
    bookmarks: bool,
    /// Whether to tell when what there is has been told.
    tells_start: bool,
    changed: watch::Receiver<()>,
    /// None: nothing was told yet, and what there is comes first.
    at: Option<u64>,
    drops: u64,
    ends: Instant,
    bookmark: Instant,
    has_ended: bool,
}

/// Lines, one for each event.
pub(super) fn start(shared: &Arc<Shared>, call: &Call) -> Result<Body, Failure> {
    let is_initial = call.option("sendInitialEvents") == "true";
    let at = match call.option("resourceVersion") {
        "" | "0" => None,
        _ if is_initial => None,
        revision => Some(
            revision
                .parse()
                .map_err(|_| Failure::bad("no resourceVersion"))?,
        ),
    };
    let lifetime = call.option("timeoutSeconds").parse().ok();
    let lifetime = lifetime.map_or(LIFETIME, Duration::from_secs);
    let bookmarks = ["true", "1"].contains(&call.option("allowWatchBookmarks"));
    let selector = call.selector()?;
    let mut store = shared.store.lock();
    *store.watches.entry(call.resource.id()).or_default() += 1;
    let now = Instant::now();
    let watcher = Watcher {
        resource: Arc::clone(&call.resource),
        namespace: call.namespace.clone(),
        selector,
        bookmarks,
        tells_start: is_initial && bookmarks,
        changed: shared.changed.subscribe(),
        at,
        drops: store.drops,
        ends: now + lifetime,
        bookmark: now + store.bookmarks,
        has_ended: false,
        shared: Arc::clone(shared),
    };
    drop(store);
    let lines = stream::unfold(watcher, |mut watcher| async move {
        let lines = watcher.next().await?;
        Some((Ok(Frame::data(Bytes::from(lines))), watcher))
    });
    Ok(StreamBody::new(lines).boxed_unsync())
}

impl Watcher {
    async fn next(&mut self) -> Option<String> {
        loop {
            self.changed.mark_unchanged();
            if self.has_ended {
                return None;
            }
            let lines = self.news();
            if !lines.is_empty() {
                return Some(lines);
            }
            if !self.has_ended {
                let alarm = self.ends.min(self.bookmark);
                let _ = tokio::time::timeout_at(alarm, self.changed.changed()).await;
            }
        }
    }

    /// Everything that is new by now.
    fn news(&mut self) -> String {
        let store = self.shared.store.lock();
        if store.drops != self.drops {
            self.has_ended = true;
            return String::new();
        }
        if store.outage == Outage::Hang {
            // The alarm must not ring at once again.
            self.bookmark = Instant::now() + store.bookmarks;
            self.ends = self.ends.max(self.bookmark);
            return String::new();
        }
        let id = self.resource.id();
        let mut lines = String::new();
        match self.at {
            None => {
                for object in store.all(&id, &self.namespace) {
                    if self.selector.selects(&object) {
                        lines += &self.line("ADDED", &object, None);
                    }
                }
                if self.tells_start {
                    lines += &self.bookmark(store.revision, true);
                }
            }
            Some(at) => {
                let Some(changes) = store.since(at, &id, &self.namespace) else {
                    self.has_ended = true;
                    let message = format!("too old resource version: {at} ({})", store.revision);
                    let status = Failure::new(410, message).status();
                    return format!("{}\n", json!({"type": "ERROR", "object": status}));
                };
                for change in &changes {
                    lines += &self.told(change).unwrap_or_default();
                }
            }
        }
        self.at = Some(store.revision);
        let now = Instant::now();
        self.has_ended = now >= self.ends;
        if self.bookmarks && (self.has_ended || now >= self.bookmark) {
            lines += &self.bookmark(store.revision, false);
        }
        if now >= self.bookmark {
            self.bookmark = now + store.bookmarks;
        }
        lines
    }

    /// A change as whoever selects sees it.
    fn told(&self, change: &Change) -> Option<String> {
        let selects = |object: &Value| self.selector.selects(object);
        let was = change.old.as_deref().is_some_and(selects);
        let is = !change.is_end && selects(&change.object);
        Some(match (was, is) {
            (false, false) => return None,
            (false, true) => self.line("ADDED", &change.object, None),
            (true, true) => self.line("MODIFIED", &change.object, None),
            (true, false) => {
                let last = Some(&change.object).filter(|_| change.is_end);
                self.line(
                    "DELETED",
                    last.or(change.old.as_ref())?,
                    Some(change.revision),
                )
            }
        })
    }

    fn line(&self, what: &str, object: &Value, revision: Option<u64>) -> String {
        let mut object = object.clone();
        if let Some(revision) = revision {
            object["metadata"]["resourceVersion"] = revision.to_string().into();
        }
        format!("{}\n", json!({"type": what, "object": object}))
    }

    fn bookmark(&self, revision: u64, is_start: bool) -> String {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if is_start {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (kind, version) = (&self.resource.kind, self.resource.api_version());
        let object = json!({"kind": kind, "apiVersion": version, "metadata": metadata});
        self.line("BOOKMARK", &object, None)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut store = self.shared.store.lock();
        if let Some(open) = store.watches.get_mut(&self.resource.id()) {
            *open -= 1;
        }
    }
}
