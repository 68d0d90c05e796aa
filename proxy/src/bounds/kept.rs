//! Bytes of request bodies that are kept for another try, a fallback or a copy.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use metrics::Counter;

/// How many bytes are kept, and how many may be.
#[derive(Debug)]
pub struct KeptBytes {
    most: usize,
    taken: AtomicUsize,
    hits: Counter,
}

/// What one body has taken; given back when it is dropped, with all that shares its bytes.
#[derive(Debug)]
pub struct KeptPlace {
    kept: Arc<KeptBytes>,
    bytes: AtomicUsize,
}

impl KeptBytes {
    pub(super) fn new(most: usize, hits: Counter) -> Arc<Self> {
        Arc::new(Self {
            most,
            taken: AtomicUsize::new(0),
            hits,
        })
    }

    /// A place that holds nothing yet.
    pub fn place(self: &Arc<Self>) -> KeptPlace {
        KeptPlace {
            kept: Arc::clone(self),
            bytes: AtomicUsize::new(0),
        }
    }

    /// Bytes that are kept now.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl KeptPlace {
    /// A place beside this one, that holds nothing yet.
    pub fn another(&self) -> Self {
        self.kept.place()
    }

    /// Takes `bytes` more; false, and counted, where there is no room for them.
    #[must_use]
    pub fn take(&self, bytes: usize) -> bool {
        let most = self.kept.most;
        let fits = |taken: usize| taken.checked_add(bytes).filter(|sum| *sum <= most);
        let taken = &self.kept.taken;
        if taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .is_err()
        {
            self.kept.hits.increment(1);
            return false;
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        true
    }
}

impl Drop for KeptPlace {
    fn drop(&mut self) {
        let bytes = *self.bytes.get_mut();
        self.kept.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}
