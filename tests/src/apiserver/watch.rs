//! Watches: a stream of lines that ends when its client goes, its time is up, or a test says so.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http_body::Frame;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::failure::Failure;
use super::kinds::Resource;
use super::selectors::Selector;
use super::store::Change;
use super::{Outage, Shared};

/// What is watched.
pub(super) struct Wanted {
    pub(super) resource: Arc<Resource>,
    pub(super) version: String,
    /// Empty: all.
    pub(super) namespace: String,
    pub(super) selector: Selector,
    /// None: begin with what there is.
    pub(super) from: Option<u64>,
    pub(super) bookmarks: bool,
    /// Whether to tell when what there is has been told.
    pub(super) tells_start: bool,
    pub(super) lifetime: Duration,
}

struct Watcher {
    shared: Arc<Shared>,
    wanted: Wanted,
    changed: watch::Receiver<()>,
    /// None: nothing was told yet.
    at: Option<u64>,
    drops: u64,
    ends: Instant,
    bookmark: Instant,
    has_ended: bool,
}

pub(super) fn start(
    shared: &Arc<Shared>,
    wanted: Wanted,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + use<> {
    let mut store = shared.store.lock();
    *store.watches.entry(wanted.resource.id()).or_default() += 1;
    let now = Instant::now();
    let watcher = Watcher {
        changed: shared.changed.subscribe(),
        at: wanted.from,
        drops: store.drops,
        ends: now + wanted.lifetime,
        bookmark: now + store.bookmarks,
        has_ended: false,
        shared: Arc::clone(shared),
        wanted,
    };
    drop(store);
    stream::unfold(watcher, |mut watcher| async move {
        let lines = watcher.next().await?;
        Some((Ok(Frame::data(Bytes::from(lines))), watcher))
    })
}

impl Watcher {
    async fn next(&mut self) -> Option<String> {
        loop {
            if self.has_ended {
                return None;
            }
            self.changed.mark_unchanged();
            let lines = self.news();
            if !lines.is_empty() {
                return Some(lines);
            }
            if self.has_ended {
                return None;
            }
            let alarm = self.ends.min(self.bookmark);
            tokio::select! {
                _ = self.changed.changed() => {}
                () = tokio::time::sleep_until(alarm) => {}
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
        let id = self.wanted.resource.id();
        let mut lines = String::new();
        match self.at {
            None => {
                for object in store.all(&id, &self.wanted.namespace) {
                    if self.wanted.selector.selects(&object) {
                        lines += &self.line("ADDED", &object, None);
                    }
                }
                if self.wanted.tells_start {
                    lines += &self.bookmark(store.revision, true);
                }
            }
            Some(at) => {
                let Some(changes) = store.since(at, &id, &self.wanted.namespace) else {
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
        if self.wanted.bookmarks && (self.has_ended || now >= self.bookmark) {
            lines += &self.bookmark(store.revision, false);
        }
        if now >= self.bookmark {
            self.bookmark = now + store.bookmarks;
        }
        lines
    }

    /// A change as whoever selects sees it.
    fn told(&self, change: &Change) -> Option<String> {
        let selects = |object: &Value| self.wanted.selector.selects(object);
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
        let (mut object, wanted) = (object.clone(), &self.wanted);
        object["apiVersion"] = wanted.resource.api_version(&wanted.version).into();
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
        let object = json!({"kind": self.wanted.resource.kind, "metadata": metadata});
        self.line("BOOKMARK", &object, None)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut store = self.shared.store.lock();
        if let Some(open) = store.watches.get_mut(&self.wanted.resource.id()) {
            *open -= 1;
        }
    }
}
