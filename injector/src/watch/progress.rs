//! How the watches are doing: for readiness, metrics and people.

use std::sync::Arc;

use parking_lot::Mutex;

/// What is known of each watch. One for each kind that is watched, which are few and fixed.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Mutex<Vec<Watch>>>);

/// How one watch is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The kind of objects that it watches.
    pub kind: &'static str,
    /// Whether all of them have been listed once.
    pub synced: bool,
    /// How often it has failed.
    pub errors: u64,
    /// Why it is down; `None` while it works.
    pub trouble: Option<String>,
}

impl Progress {
    /// All watches, in the order in which they were begun.
    pub fn watches(&self) -> Vec<Watch> {
        self.0.lock().clone()
    }

    /// What has not been listed yet, and why where that is known.
    pub fn missing(&self) -> Vec<String> {
        let watches = self.0.lock();
        let missing = watches.iter().filter(|watch| !watch.synced);
        missing
            .map(|watch| match &watch.trouble {
                Some(trouble) => format!("{} are not known yet: {trouble}", watch.kind),
                None => format!("{} are being listed", watch.kind),
            })
            .collect()
    }

    #[cfg(test)]
    pub(crate) fn of_one(kind: &'static str) -> Self {
        let this = Self::default();
        this.begun(kind);
        this
    }

    pub(super) fn begun(&self, kind: &'static str) {
        self.0.lock().push(Watch {
            kind,
            synced: false,
            errors: 0,
            trouble: None,
        });
    }

    pub(super) fn synced(&self, kind: &'static str) {
        self.of(kind, |watch| watch.synced = true);
    }

    /// Whether this is news: it was down before.
    pub(super) fn works(&self, kind: &'static str) -> bool {
        let mut before = None;
        self.of(kind, |watch| before = watch.trouble.take());
        before.is_some()
    }

    /// Whether this is news: it worked before.
    pub(super) fn failed(&self, kind: &'static str, why: String) -> bool {
        let mut before = None;
        self.of(kind, |watch| {
            watch.errors += 1;
            before = watch.trouble.replace(why);
        });
        before.is_none()
    }

    fn of(&self, kind: &'static str, change: impl FnOnce(&mut Watch)) {
        let mut watches = self.0.lock();
        if let Some(watch) = watches.iter_mut().find(|watch| watch.kind == kind) {
            change(watch);
        }
    }
}
