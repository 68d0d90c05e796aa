//! How the source is doing: for readiness, metrics and people.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// What one source says about each of its watches. A source without watches says nothing.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// One for each kind that is watched, which are few and fixed.
    watches: Vec<Watch>,
    lag: Duration,
    /// Whether each permission is there, as far as that was asked; as many as the control plane needs.
    permissions: BTreeMap<Permission, bool>,
}

/// Something that the control plane needs to be allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permission {
    /// What is to be done, as `list`.
    pub verb: &'static str,
    /// With what, as `trafficpolicies/status.weft.dev`.
    pub resource: String,
    /// With which of them; empty for all.
    pub name: &'static str,
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if self.name.is_empty() {
            return Ok(());
        }
        write!(f, " {}", self.name)
    }
}

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
    /// Whether the API server does not have the kind, so that there is nothing to watch.
    pub absent: bool,
}

impl Progress {
    /// All watches, in the order in which they were begun.
    pub fn watches(&self) -> Vec<Watch> {
        self.0.lock().watches.clone()
    }

    /// How long the newest change took from its arrival to the model that has it.
    pub fn lag(&self) -> Duration {
        self.0.lock().lag
    }

    /// What has not been listed yet, and why where that is known.
    pub fn missing(&self) -> Vec<String> {
        let known = self.0.lock();
        let missing = known.watches.iter().filter(|watch| !watch.synced);
        missing
            .map(|watch| match &watch.trouble {
                Some(trouble) => format!("{}: {trouble}", watch.kind),
                None => format!("{}: being listed", watch.kind),
            })
            .collect()
    }

    /// Whether each permission is there, as far as that was asked.
    pub fn permissions(&self) -> BTreeMap<Permission, bool> {
        self.0.lock().permissions.clone()
    }

    /// Says of one permission whether it is there.
    pub fn permitted(
        &self,
        verb: &'static str,
        resource: String,
        name: &'static str,
        granted: bool,
    ) {
        let permission = Permission {
            verb,
            resource,
            name,
        };
        self.0.lock().permissions.insert(permission, granted);
    }

    #[cfg(feature = "kubernetes")]
    pub(super) fn begun(&self, kind: &'static str) {
        self.0.lock().watches.push(Watch {
            kind,
            synced: false,
            errors: 0,
            trouble: None,
            absent: false,
        });
    }

    /// The API server does not have the kind. Whether this is news.
    #[cfg(feature = "kubernetes")]
    pub(super) fn absent(&self, kind: &'static str) -> bool {
        let mut before = false;
        self.of(kind, |watch| {
            before = std::mem::replace(&mut watch.absent, true);
            (watch.synced, watch.trouble) = (true, None);
        });
        !before
    }

    /// The API server has the kind. Whether this is news: it had not.
    #[cfg(feature = "kubernetes")]
    pub(super) fn served(&self, kind: &'static str) -> bool {
        let mut before = false;
        self.of(kind, |watch| before = std::mem::take(&mut watch.absent));
        before
    }

    #[cfg(feature = "kubernetes")]
    pub(super) fn synced(&self, kind: &'static str) {
        self.of(kind, |watch| watch.synced = true);
    }

    /// Whether this is news: it was down before.
    #[cfg(feature = "kubernetes")]
    pub(super) fn works(&self, kind: &'static str) -> bool {
        let mut before = None;
        self.of(kind, |watch| before = watch.trouble.take());
        before.is_some()
    }

    /// Whether this is news: it worked before.
    #[cfg(feature = "kubernetes")]
    pub(super) fn failed(&self, kind: &'static str, why: String) -> bool {
        let mut before = None;
        self.of(kind, |watch| {
            watch.errors += 1;
            before = watch.trouble.replace(why);
        });
        before.is_none()
    }

    #[cfg(feature = "kubernetes")]
    pub(super) fn published(&self, lag: Duration) {
        self.0.lock().lag = lag;
    }

    #[cfg(feature = "kubernetes")]
    fn of(&self, kind: &'static str, change: impl FnOnce(&mut Watch)) {
        let mut known = self.0.lock();
        if let Some(watch) = known.watches.iter_mut().find(|watch| watch.kind == kind) {
            change(watch);
        }
    }
}
