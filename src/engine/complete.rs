//! Which large hashes and sets have all their elements in the row cache: an element of theirs that is not there, does not
//! exist, and RocksDB need not be asked. Those that were created since the start and grew beyond one buffer (see `whole`).
//!
//! Guarantees: a collection that is complete has each element's row in the cache. Whoever takes a row out of it says so
//! here first.

use hashbrown::HashMap;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Collections known at a time.
const COLLECTIONS_MAX: usize = 4096;

/// The collections, by what their elements' keys start with.
#[derive(Default)]
pub struct Complete {
    /// Whether all elements have been brought in.
    collections: Mutex<HashMap<Box<[u8]>, bool>>,
    /// Of them, for a look without the lock.
    len: AtomicUsize,
}

impl Complete {
    /// From here on the rows of a collection are being brought in.
    pub fn begin(&self, prefix: &[u8]) {
        let mut collections = self.collections.lock();
        if collections.len() >= COLLECTIONS_MAX
            && let Some(other) = collections.keys().next().cloned()
        {
            collections.remove(&other);
        }
        collections.insert(prefix.into(), false);
        self.note(&collections);
    }

    /// All were brought in. The collection is complete unless one went meanwhile.
    pub fn finish(&self, prefix: &[u8]) {
        if let Some(is_complete) = self.collections.lock().get_mut(prefix) {
            *is_complete = true;
        }
    }

    /// Whether a collection is complete.
    #[must_use]
    pub fn holds(&self, prefix: &[u8]) -> bool {
        !self.is_empty() && self.collections.lock().get(prefix) == Some(&true)
    }

    /// A row of a collection is about to go.
    pub fn forget(&self, prefix: &[u8]) {
        if !self.is_empty() {
            let mut collections = self.collections.lock();
            collections.remove(prefix);
            self.note(&collections);
        }
    }

    /// All rows are about to go.
    pub fn clear(&self) {
        let mut collections = self.collections.lock();
        collections.clear();
        self.note(&collections);
    }

    /// Whether no collection is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
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
