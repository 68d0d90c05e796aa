//! A small append-only table that many threads read without locks.
//!
//! Reading is one snapshot load and a linear scan. Adding copies the table, behind a lock that only
//! adders take. Past its bound the table stops growing and one more value, made once, stands for
//! every further key.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

/// See the module.
pub(super) struct Table<K, V> {
    entries: ArcSwap<Vec<(K, V)>>,
    overflow: OnceLock<V>,
    adding: Mutex<()>,
    bound: usize,
}

impl<K, V: Clone> Table<K, V>
where
    K: Clone,
{
    /// An empty table for at most `bound` keys.
    pub(super) fn new(bound: usize) -> Self {
        Self {
            entries: ArcSwap::default(),
            overflow: OnceLock::new(),
            adding: Mutex::new(()),
            bound,
        }
    }

    /// Calls `then` with the value of the first key that `matches`. Where there is none, `make`
    /// makes one; it gets `false` when the table is full and the value is the overflow's.
    pub(super) fn with<R>(
        &self,
        matches: impl Fn(&K) -> bool,
        make: impl FnOnce(bool) -> (K, V),
        then: impl FnOnce(&V) -> R,
    ) -> R {
        self.with_room(|| true, matches, make, then)
    }

    /// [`Self::with`], for a table that is full too where `has_room` says so.
    pub(super) fn with_room<R>(
        &self,
        has_room: impl FnOnce() -> bool,
        matches: impl Fn(&K) -> bool,
        make: impl FnOnce(bool) -> (K, V),
        then: impl FnOnce(&V) -> R,
    ) -> R {
        let entries = self.entries.load();
        if let Some((_, value)) = entries.iter().find(|(key, _)| matches(key)) {
            return then(value);
        }
        if entries.len() >= self.bound || !has_room() {
            return then(self.overflow.get_or_init(|| make(false).1));
        }
        drop(entries);
        then(&self.add(matches, make))
    }

    /// The values but the first so many, in the order in which they were made; the overflow's is last.
    pub(super) fn values_from(&self, first: usize) -> Vec<V> {
        let entries = self.entries.load();
        let values = entries.iter().map(|(_, value)| value);
        // There is none before the table is full.
        let all = values.chain(self.overflow.get());
        all.skip(first).cloned().collect()
    }

    fn add(&self, matches: impl Fn(&K) -> bool, make: impl FnOnce(bool) -> (K, V)) -> V {
        let _adding = self.adding.lock();
        let entries = self.entries.load_full();
        if let Some((_, value)) = entries.iter().find(|(key, _)| matches(key)) {
            return value.clone();
        }
        if entries.len() >= self.bound {
            return self.overflow.get_or_init(|| make(false).1).clone();
        }
        let made = make(true);
        let value = made.1.clone();
        let mut longer = Vec::with_capacity(entries.len() + 1);
        longer.extend_from_slice(&entries);
        longer.push(made);
        self.entries.store(Arc::new(longer));
        value
    }
}
