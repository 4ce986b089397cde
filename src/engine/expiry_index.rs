//! The part of RocksDB's expiry index that is known in memory: the entry of a key, and the times that a sweep covers.
//!
//! Guarantees: see [`super::expiry`].

use super::placed::Placed;
use std::ops::Range;

/// State about the expiry index that is kept in memory, under the writer lock.
#[derive(Default)]
pub struct ExpiryIndex {
    placed: Placed,
    /// New entries are made at or after this time, in ms since the Unix epoch.
    open_from_ms: u64,
    /// No entry lies below this time, in ms since the Unix epoch; at most `open_from_ms`.
    swept_until_ms: u64,
}

/// Changes of a key's entry, each as a time in ms since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// Time of an entry to make.
    pub put: Option<u64>,
    /// Time of an entry to delete; the entry may not exist.
    pub delete: Option<u64>,
}

impl ExpiryIndex {
    /// Returns the changes of the index that are needed when a key is set to expire at `expire_ms`. `before_ms` is the
    /// key's expiry before that, 0 if it had none; `None` if the caller did not read the key.
    pub fn place(&mut self, key: &[u8], expire_ms: u64, before_ms: Option<u64>) -> Change {
        let at_ms = expire_ms.max(self.open_from_ms);
        let before_ms = before_ms.filter(|&before_ms| before_ms != 0);
        let delete = match (self.placed.get(key), before_ms) {
            (Some(placed_ms), _) if placed_ms <= at_ms => return Change::default(),
            // The key's entry, whichever it is, is due at `before_ms` or earlier, which is in time.
            (None, Some(before_ms)) if before_ms <= expire_ms => return Change::default(),
            (placed_ms, before_ms) => placed_ms.or(before_ms),
        };
        self.placed.set(key, at_ms);
        Change { put: Some(at_ms), delete }
    }

    /// Returns the time of the entry to delete when a key stops expiring. `expire_ms` is the key's expiry before that,
    /// 0 if it had none.
    pub fn forget(&mut self, key: &[u8], expire_ms: u64) -> Option<u64> {
        self.placed.take(key).or((expire_ms != 0).then_some(expire_ms))
    }

    /// Notes that an entry is about to be deleted.
    pub fn forget_entry(&mut self, entry: &Entry) {
        if self.placed.get(&entry.key) == Some(entry.at_ms) {
            self.placed.take(&entry.key);
        }
    }

    /// Forgets all remembered entries. Called when all entries are about to be deleted, and when the entries noted last
    /// were never made.
    pub fn clear(&mut self) {
        self.placed.clear();
    }

    /// Returns to the initial state, because entries may have been made and deleted without this struct: the sweeps
    /// begin at time 0.
    pub fn reset(&mut self) {
        if self.open_from_ms > 0 {
            *self = Self::default();
        }
    }

    /// Begins a sweep and returns the range of times whose entries are all due. The entries are in RocksDB once the
    /// groups that are open or on their way to the logs at this call are settled.
    pub fn begin_sweep(&mut self, now_ms: u64) -> Range<u64> {
        self.open_from_ms = self.open_from_ms.max(now_ms.saturating_add(1));
        self.swept_until_ms..self.open_from_ms
    }

    /// Ends a sweep: all entries below `until_ms` were dealt with.
    pub fn end_sweep(&mut self, until_ms: u64) {
        self.swept_until_ms = until_ms.min(self.open_from_ms);
    }
}

/// An entry of the index. [`super::keyspace::Keyspace::settle_entry`] deals with an entry that is due.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Time of the entry, in ms since the Unix epoch.
    pub at_ms: u64,
    /// The user key.
    pub key: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(at_ms: u64) -> Change {
        Change { put: Some(at_ms), delete: None }
    }

    #[test]
    fn a_key_that_is_expired_anew_keeps_the_entry_that_is_due_in_time() {
        let mut index = ExpiryIndex::default();
        assert_eq!(index.place(b"k", 100, None), put(100));
        assert_eq!(index.place(b"k", 100, None), Change::default());
        assert_eq!(index.place(b"k", 200, Some(100)), Change::default());
        assert_eq!(index.place(b"k", 90, Some(200)), Change { put: Some(90), delete: Some(100) });
        assert_eq!(index.forget(b"k", 90), Some(90));
        assert_eq!(index.place(b"k", 300, Some(0)), put(300));
    }

    #[test]
    fn what_is_not_remembered_is_told_by_when_the_key_was_to_expire() {
        let mut index = ExpiryIndex::default();
        assert_eq!(index.place(b"k", 200, Some(100)), Change::default(), "it has an entry at 100 or before");
        assert_eq!(index.place(b"k", 50, Some(100)), Change { put: Some(50), delete: Some(100) });
        assert_eq!(index.forget(b"other", 70), Some(70));
        assert_eq!(index.forget(b"other", 0), None);
        index.clear();
        assert_eq!(index.place(b"k", 60, None), put(60));
    }

    #[test]
    fn no_entry_is_made_where_a_sweep_goes_or_went() {
        let mut index = ExpiryIndex::default();
        assert_eq!(index.begin_sweep(99), 0..100);
        assert_eq!(index.place(b"early", 50, None), put(100), "the clock was set back");
        assert_eq!(index.begin_sweep(99), 0..100, "the sweep before has not ended");
        index.end_sweep(100);
        assert_eq!(index.begin_sweep(80), 100..100, "there is nothing to sweep");
        assert_eq!(index.begin_sweep(150), 100..151);
        index.reset();
        assert_eq!(index.begin_sweep(10), 0..11);
    }
}
