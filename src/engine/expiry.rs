//! Expiry as an effect: the index of the disk keys that expire, and the deletion of keys that are due. Only a primary
//! deletes. A replica hides an expired key until its primary's deletion arrives.
//!
//! The index in RocksDB has entries (time, key). An entry is a hint: the key's metadata decides, and is read when the
//! entry is due. Settling a due entry does one of three things:
//!
//! ```text
//! the key has expired       key and entry are deleted
//! the key expires later     the entry is replaced by one at the later time
//! else                      the entry is deleted
//! ```
//!
//! Guarantees: a key that expires has an entry, and a sweep leaves no entry behind in the range that it covers. A key
//! whose value or expiry is set repeatedly gets no further entry while it has one that is due in time, so that there is
//! about one entry for each key. A sweep covers the entries between two times once: while it runs, new entries are made
//! only above those times. So the cost of a sweep follows from the number of entries that came due, and a sweep finds
//! them without a lock.

use super::batch::Family;
use super::disk::Disk;
use super::expiry_index::{Change, Entry};
use super::key;
use super::keyspace::{Access, Keyspace};
use super::meta::Home;
use crate::error::{Error, Result};
use std::ops::Range;

/// Reads up to `limit` entries of a sweep, from the first one behind `after` if `after` is given. Needs no lock.
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
    /// Updates the expiry index for a disk key that expires at `expire_ms` from this commit on; does nothing for 0
    /// (never). `before_ms` is the key's expiry before this commit, 0: never; `None` if the caller did not read the
    /// key.
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

    /// Deletes a disk key's entry of the expiry index. `expire_ms` is the key's expiry before this commit, 0: never.
    pub fn forget_expiry(&mut self, key: &[u8], expire_ms: u64) {
        let held = self.held();
        if let Some(at_ms) = held.expiries.forget(key, expire_ms) {
            held.effects.delete(Family::Default, &key::expiry(at_ms, key));
        }
    }

    /// Deals with an entry of the expiry index that is due: deletes the key if it has expired, and replaces or deletes
    /// the entry. Reports whether the key had expired. A call that fails has no effect.
    pub fn settle_entry(&mut self, entry: &Entry) -> Access<bool> {
        let found = self.look(&entry.key)?;
        let is_on_disk = found.home() == Some(Home::Disk);
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
