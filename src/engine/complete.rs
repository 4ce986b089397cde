//! Which large hashes and sets are complete, that is: have all their elements in the row cache. An element of a
//! complete collection that is not in the cache does not exist, and RocksDB need not be asked. Only collections that
//! outgrew their one buffer (see `whole`) while the process ran can be complete.
//!
//! Guarantees: the row cache holds a row for each element of a complete collection. Code that takes a row out of the
//! cache calls [`Complete::forget`] first.

use hashbrown::HashMap;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Number of collections known at a time.
const COLLECTIONS_MAX: usize = 4096;

/// The known collections, by the common prefix of their elements' keys.
#[derive(Default)]
pub(super) struct Complete {
    /// Value: whether all elements have been brought into the cache.
    collections: Mutex<HashMap<Box<[u8]>, bool>>,
    /// Number of entries of `collections`, readable without the lock.
    len: AtomicUsize,
}

impl Complete {
    /// Notes that the rows of a collection are being brought into the cache. If the table is full, another collection
    /// is forgotten.
    pub(super) fn begin(&self, prefix: &[u8]) {
        let mut collections = self.collections.lock();
        if collections.len() >= COLLECTIONS_MAX
            && let Some(other) = collections.keys().next().cloned()
        {
            collections.remove(&other);
        }
        collections.insert(prefix.into(), false);
        self.note(&collections);
    }

    /// Notes that all rows were brought in. The collection is complete unless one of its rows left the cache meanwhile.
    pub(super) fn finish(&self, prefix: &[u8]) {
        if let Some(is_complete) = self.collections.lock().get_mut(prefix) {
            *is_complete = true;
        }
    }

    /// Reports whether a collection is complete.
    #[must_use]
    pub(super) fn holds(&self, prefix: &[u8]) -> bool {
        !self.is_empty() && self.collections.lock().get(prefix) == Some(&true)
    }

    /// Forgets a collection: one of its rows is about to leave the cache.
    pub(super) fn forget(&self, prefix: &[u8]) {
        if !self.is_empty() {
            let mut collections = self.collections.lock();
            collections.remove(prefix);
            self.note(&collections);
        }
    }

    /// Forgets all collections: all rows are about to leave the cache.
    pub(super) fn clear(&self) {
        let mut collections = self.collections.lock();
        collections.clear();
        self.note(&collections);
    }

    /// Reports whether no collection is known.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.len.load(Ordering::Acquire) == 0
    }

    fn note(&self, collections: &HashMap<Box<[u8]>, bool>) {
        self.len.store(collections.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_is_complete_once_all_rows_came_in_and_none_went() {
        let complete = Complete::default();
        assert!(!complete.holds(b"a"));
        complete.finish(b"a");
        assert!(!complete.holds(b"a"), "it was not begun");
        complete.begin(b"a");
        assert!(!complete.holds(b"a"));
        complete.finish(b"a");
        assert!(complete.holds(b"a") && !complete.holds(b"b"));
        complete.begin(b"b");
        complete.forget(b"b");
        complete.finish(b"b");
        assert!(complete.holds(b"a") && !complete.holds(b"b"), "a row went while they came in");
        complete.forget(b"a");
        assert!(!complete.holds(b"a") && complete.is_empty());
        complete.begin(b"a");
        complete.clear();
        complete.finish(b"a");
        assert!(!complete.holds(b"a"));
    }

    #[test]
    fn collections_are_bounded() {
        let complete = Complete::default();
        for n in 0..2 * COLLECTIONS_MAX as u64 {
            complete.begin(&n.to_be_bytes());
            complete.finish(&n.to_be_bytes());
        }
        assert_eq!(complete.collections.lock().len(), COLLECTIONS_MAX);
        assert!(complete.holds(&(2 * COLLECTIONS_MAX as u64 - 1).to_be_bytes()));
    }
}
