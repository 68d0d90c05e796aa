//! A value that the control plane keeps up to date, as everybody else sees it.
//!
//! Reading is free of locks. A value that is there stays there: nothing but a newer one replaces it,
//! whether the control plane can be reached or not.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

/// Told of a value; see [`Watched::on_change`].
pub type Listener<T> = Box<dyn Fn(&Arc<T>) + Send + Sync>;

/// A handle on such a value. Cheap to clone; the value is kept up to date at least as long as
/// somebody holds one.
pub struct Watched<T>(Arc<Cell<T>>);

struct Cell<T> {
    value: ArcSwapOption<T>,
    changed: Notify,
    /// Also makes telling take turns, so that no listener sees values out of order.
    listeners: Mutex<Vec<Listener<T>>>,
}

impl<T: Send + Sync + 'static> Watched<T> {
    /// A handle without a value.
    pub(super) fn empty() -> Self {
        Self(Arc::new(Cell {
            value: ArcSwapOption::empty(),
            changed: Notify::new(),
            listeners: Mutex::default(),
        }))
    }

    /// A handle on a value that never changes.
    pub fn fixed(value: T) -> Self {
        let watched = Self::empty();
        watched.store(value);
        watched
    }

    /// The value now; `None` before the first one.
    pub fn load(&self) -> Option<Arc<T>> {
        self.0.value.load_full()
    }

    /// The value, waiting up to `within` for the first one. `None` when there is none by then.
    pub fn ready(&self, within: Duration) -> impl Future<Output = Option<Arc<T>>> + Send + 'static {
        let watched = self.clone();
        async move {
            match watched.load() {
                Some(value) => Some(value),
                None => timeout(within, watched.changed(None)).await.ok(),
            }
        }
    }

    /// Waits for a value that is not `seen`: none that comes between two calls is missed for good,
    /// though of several only the newest is seen.
    pub async fn changed(&self, seen: Option<&Arc<T>>) -> Arc<T> {
        loop {
            let mut notified = std::pin::pin!(self.0.changed.notified());
            notified.as_mut().enable();
            if let Some(value) = self.load()
                && !seen.is_some_and(|seen| Arc::ptr_eq(seen, &value))
            {
                return value;
            }
            notified.await;
        }
    }

    /// Has `listener` told the value that is there, at once and on this thread, and every later one
    /// on the control thread. It must be quick and must not add listeners to the same value. It stays
    /// as long as the value is kept, so it should hold what it updates weakly.
    pub fn on_change(&self, listener: Listener<T>) {
        let mut listeners = self.0.listeners.lock();
        if let Some(value) = self.load() {
            listener(&value);
        }
        listeners.push(listener);
    }

    /// Whether both are handles on the same value.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn store(&self, value: impl Into<Arc<T>>) {
        let value = value.into();
        let listeners = self.0.listeners.lock();
        for listener in &*listeners {
            listener(&value);
        }
        // After the listeners, which keep what is made of the value: whoever sees the value finds
        // that too.
        self.0.value.store(Some(value));
        self.0.changed.notify_waiters();
    }

    /// Handles on the same value, this one included.
    pub(super) fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: fmt::Debug> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watched")
            .field(&self.0.value.load())
            .finish()
    }
}
