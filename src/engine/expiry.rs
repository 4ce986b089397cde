//! Expiry as an effect: the index of the disk keys that expire, and how what is due is deleted. Only a primary deletes; a
//! replica hides what has expired until its primary's deletion arrives.
//!
//! ```text
//! entry    (time, key), in RocksDB; a hint: what holds is the key's metadata, which is looked at when the entry is due
//! due      expired: key and entry go      expires later: the key is entered anew      else: the entry goes
//! ```
//!
//! Guarantees: a key that expires has an entry, and no entry is left behind a sweep. A key that is set or expired anew
//! gets no further entry while it has one that is due in time, so that there is about one of each key.
//! A sweep goes through the entries between two times once: whoever makes an entry while it runs makes it above them.
//! So what a sweep costs follows from the entries that came due, and it needs no lock to find them.

use super::batch::Family;
use super::disk::Disk;
use super::key;
use super::keyspace::{Access, Found, Keyspace};
use super::memory::Memory;
use super::placed::Placed;
use crate::error::{Error, Result};
use std::ops::Range;

/// What is kept in memory about the expiry index. Under the writer lock.
#[derive(Default)]
pub struct ExpiryIndex {
    placed: Placed,
    /// Entries are made at or after this time, in ms since the Unix epoch.
    open_from_ms: u64,
    /// No entry stands below this time; at most `open_from_ms`.
    swept_until_ms: u64,
}

/// What becomes of a key's entry, each as a time in ms since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// An entry to make.
    pub put: Option<u64>,
    /// An entry to remove; it may not be there.
    pub delete: Option<u64>,
}

impl ExpiryIndex {
    /// What to do about a key that expires at `expire_ms` from now on. `before_ms` is when it was to expire so far, 0 if
    /// never; `None` if the caller did not look.
    pub fn place(&mut self, key: &[u8], expire_ms: u64, before_ms: Option<u64>) -> Change {
        let at_ms = expire_ms.max(self.open_from_ms);
        let before_ms = before_ms.filter(|&before_ms| before_ms != 0);
        let delete = match (self.placed.get(key), before_ms) {
            (Some(placed_ms), _) if placed_ms <= at_ms => return Change::default(),
            // Whatever entry it has, that one is due in time.
            (None, Some(before_ms)) if before_ms <= expire_ms => return Change::default(),
            (placed_ms, before_ms) => placed_ms.or(before_ms),
        };
        self.placed.set(key, at_ms);
        Change { put: Some(at_ms), delete }
    }

    /// The entry to remove of a key that expires no more; `expire_ms` is when it was to, 0 if never.
    pub fn forget(&mut self, key: &[u8], expire_ms: u64) -> Option<u64> {
        self.placed.take(key).or((expire_ms != 0).then_some(expire_ms))
    }

    /// An entry is about to be removed.
    pub fn forget_entry(&mut self, entry: &Entry) {
        if self.placed.get(&entry.key) == Some(entry.at_ms) {
            self.placed.take(&entry.key);
        }
    }

    /// All entries are about to be removed, or those that were noted last were never made.
    pub fn clear(&mut self) {
        self.placed.clear();
    }

    /// Entries may have been made and removed by somebody else.
    pub fn reset(&mut self) {
        if self.open_from_ms > 0 {
            *self = Self::default();
        }
    }

    /// Begins a sweep: the times between which all entries are due. They are in RocksDB once the groups that are open or on
    /// their way now are settled.
    pub fn begin_sweep(&mut self, now_ms: u64) -> Range<u64> {
        self.open_from_ms = self.open_from_ms.max(now_ms.saturating_add(1));
        self.swept_until_ms..self.open_from_ms
    }

    /// Ends a sweep: all entries below a time were dealt with.
    pub fn end_sweep(&mut self, until_ms: u64) {
        self.swept_until_ms = until_ms.min(self.open_from_ms);
    }
}

/// An entry of the index. Once it is due it goes, and so does its key if that has expired; a key that expires later is
/// entered anew.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The time it stands under, in ms since the Unix epoch.
    pub at_ms: u64,
    /// The user key.
    pub key: Vec<u8>,
}

/// Up to `limit` entries of a sweep, those behind `after` if it is given. Without a lock.
pub fn entries(disk: &Disk, sweep: &Range<u64>, after: Option<&Entry>, limit: usize) -> Result<Vec<Entry>> {
    let end = key::expiry(sweep.end, b"");
    let start = match after {
        Some(after) => [&*key::expiry(after.at_ms, &after.key), &[0]].concat(),
        None => key::expiry(sweep.start, b""),
    };
    let mut cursor = disk.cursor(Family::Default, start..end);
    cursor.seek_to_first();
    let mut found = Vec::new();
    while found.len() < limit
        && let Some(stored) = cursor.key()
    {
        let entry = key::parse_expiry(stored);
        let (at_ms, key) = entry.ok_or_else(|| Error::corrupt("expiry index", "entry", "does not parse"))?;
        found.push(Entry { at_ms, key: key.to_vec() });
        cursor.next();
    }
    cursor.status().map_err(Error::rocks("read the expiry index"))?;
    Ok(found)
}

impl Keyspace<'_> {
    /// Sees to the expiry index for a disk key that expires at `expire_ms`, 0: never, from this commit on. `before_ms`: when
    /// it was to expire so far; `None`: nobody looked.
    pub(super) fn note_expiry(&mut self, key: &[u8], expire_ms: u64, before_ms: Option<u64>) {
        if expire_ms != 0 {
            let held = self.held();
            let Change { put, delete } = held.expiries.place(key, expire_ms, before_ms);
            if let Some(at_ms) = delete {
                held.effects.delete(Family::Default, &key::expiry(at_ms, key));
            }
            if let Some(at_ms) = put {
                held.effects.put(Family::Default, &key::expiry(at_ms, key), b"");
            }
        }
    }

    /// Removes a disk key's entry of the expiry index. `expire_ms`: when the key was to expire, 0: never.
    pub fn forget_expiry(&mut self, key: &[u8], expire_ms: u64) {
        let held = self.held();
        if let Some(at_ms) = held.expiries.forget(key, expire_ms) {
            held.effects.delete(Family::Default, &key::expiry(at_ms, key));
        }
    }

    /// Deals with an entry of the expiry index that is due, see [`Entry`]; whether its key had expired. A failure
    /// had no effect.
    pub fn settle_entry(&mut self, entry: &Entry) -> Access<bool> {
        let found = self.look(&entry.key)?;
        let is_on_disk = matches!(found, Found::String(_) | Found::Collection(_));
        let is_expired = is_on_disk && self.is_expired(found.expire_ms());
        if is_expired {
            self.delete_value(&entry.key, &found)?;
        }
        let held = self.held();
        held.effects.delete(Family::Default, &key::expiry(entry.at_ms, &entry.key));
        held.expiries.forget_entry(entry);
        if is_expired {
            self.forget_expiry(&entry.key, 0);
        } else if is_on_disk {
            self.note_expiry(&entry.key, found.expire_ms(), None);
        }
        Ok(is_expired)
    }
}

/// Up to `limit` keys of the memory engines that were due at a time, the earliest first.
#[must_use]
pub fn due_in_memory(memory: &Memory, now_ms: u64, limit: usize) -> Vec<Vec<u8>> {
    let lists = memory.lists.expired(now_ms, limit);
    let zsets = memory.zsets.expired(now_ms, limit - lists.len());
    lists.iter().chain(&zsets).map(|key| key.to_vec()).collect()
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
