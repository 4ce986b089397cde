//! The sweeper deletes expired keys.
//!
//! Guarantees: each expired key is deleted by a commit of its own. The writer lock is held for a limited number of
//! keys at a time, and the rows that those keys need are read from RocksDB before. One look deletes a limited number
//! of keys, so that clients keep the processor; the other expired keys wait, hidden from readers. If keys have waited
//! long, a look deletes more of them.

use super::committer::Committer;
use super::groups::GroupNumber;
use super::guards::WriterGuard;
use crate::engine::batch::Family;
use crate::engine::expiry;
use crate::engine::expiry_index::Entry;
use crate::engine::key;
use crate::engine::keyspace::AccessError;
use crate::engine::rows::RowAccess;
use crate::error::Result;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Keys in memory that one look deletes at most, and entries of the expiry index that it deals with. 50 looks a second
/// make 25,600 of each.
const KEYS_PER_LOOK: usize = 512;
/// Factor by which a look deals with more entries of the expiry index if the first of them is late.
const LATE_FACTOR: usize = 4;
/// Milliseconds after its due time from which an entry is late.
const LATE_MS: u64 = 10_000;
/// Keys that are dealt with while the writer lock is held once, at most.
const KEYS_PER_TURN: usize = 64;
/// Time that the writer lock is held, after which no further entry of the expiry index is taken.
const TURN_TIME: Duration = Duration::from_micros(300);
/// Bytes that a key's deletion takes in the op-log beside the key itself, at most.
const DELETION_BYTES: usize = 64;

/// Deletes the expired keys of one committer.
pub struct Sweeper {
    committer: Arc<Committer>,
    sweep: Option<Sweep>,
}

/// A walk over the expiry index that is under way.
struct Sweep {
    /// Expiry times of the entries to deal with, in milliseconds since the Unix epoch.
    range: Range<u64>,
    /// The group that must be settled before RocksDB holds all entries of `range`.
    group: Option<GroupNumber>,
    /// The last entry that was dealt with; `None` at the beginning.
    after: Option<Entry>,
}

impl Sweeper {
    /// Makes a sweeper that has not looked yet.
    #[must_use]
    pub fn new(committer: Arc<Committer>) -> Self {
        Self { committer, sweep: None }
    }

    /// Deletes keys that have expired by `now_ms`, up to the limit of one look.
    pub fn look(&mut self, now_ms: u64) -> Result<()> {
        self.sweep_memory(now_ms)?;
        let mut left = KEYS_PER_LOOK;
        while left > 0 {
            let sweep = self.sweep.get_or_insert_with(|| begin(&self.committer, now_ms));
            if sweep.range.is_empty() {
                self.sweep = None;
                return Ok(());
            }
            if sweep.group.is_some_and(|group| self.committer.groups.outcome(group).is_none()) {
                // The group is not settled: the next look goes on once it is.
                self.committer.write_soon();
                return Ok(());
            }
            let entries = expiry::entries(self.committer.disk(), &sweep.range, sweep.after.as_ref(), left)?;
            let Some(first) = entries.first() else {
                let mut guard = self.committer.lock_writer();
                guard.writer().expiries.end_sweep(sweep.range.end);
                let _ = guard.leave_open();
                self.sweep = None;
                return Ok(());
            };
            let is_late = left == KEYS_PER_LOOK && first.at_ms.saturating_add(LATE_MS) < now_ms;
            left = left.saturating_sub(entries.len()) + if is_late { (LATE_FACTOR - 1) * KEYS_PER_LOOK } else { 0 };
            for entries in entries.chunks(KEYS_PER_TURN) {
                settle(&self.committer, now_ms, entries, &mut sweep.after)?;
            }
        }
        Ok(())
    }

    fn sweep_memory(&self, now_ms: u64) -> Result<()> {
        if self.committer.memory().expiring() == 0 {
            return Ok(());
        }
        let mut left = KEYS_PER_LOOK;
        while left > 0 {
            let mut guard = self.committer.lock_writer();
            let due = self.committer.memory().expired(now_ms, KEYS_PER_TURN.min(left));
            let bytes = due.iter().map(|key| key.len() + DELETION_BYTES).sum();
            let done = guard.reserve(bytes).and_then(|()| {
                due.iter().try_for_each(|key| {
                    let deleted = unlocked(guard.keyspace(now_ms).find_to_change(key).map(drop));
                    guard.commit();
                    deleted
                })
            });
            leave(&self.committer, guard);
            done?;
            if due.is_empty() {
                break;
            }
            left = left.saturating_sub(due.len());
        }
        Ok(())
    }
}

fn begin(committer: &Committer, now_ms: u64) -> Sweep {
    let mut guard = committer.lock_writer();
    let range = guard.writer().expiries.begin_sweep(now_ms);
    Sweep { range, group: guard.leave_open(), after: None }
}

/// Deals with entries that are due. Takes the writer lock several times if they take long.
fn settle(committer: &Committer, now_ms: u64, mut entries: &[Entry], after: &mut Option<Entry>) -> Result<()> {
    for entry in entries {
        // Brings the row into the row cache before the lock is taken.
        committer.disk().row(Family::Default, &key::meta(&entry.key), RowAccess::Unlocked)?;
    }
    while !entries.is_empty() {
        let mut guard = committer.lock_writer();
        let bytes = entries.iter().map(|entry| entry.key.len() + DELETION_BYTES).sum();
        let done = guard.reserve(bytes).and_then(|()| settle_some(&mut guard, now_ms, entries));
        leave(committer, guard);
        let (settled, rest) = entries.split_at(done?);
        *after = settled.last().cloned();
        entries = rest;
    }
    Ok(())
}

/// Deals with entries until [`TURN_TIME`] has passed. Returns how many it dealt with.
fn settle_some(guard: &mut WriterGuard<'_>, now_ms: u64, entries: &[Entry]) -> Result<usize> {
    let started = Instant::now();
    let mut settled = 0;
    for entry in entries {
        if settled > 0 && started.elapsed() > TURN_TIME {
            break;
        }
        match unlocked(guard.keyspace(now_ms).settle_entry(entry)) {
            Ok(true) => drop(guard.commit()),
            Ok(false) => {}
            Err(error) => {
                guard.commit();
                return Err(error);
            }
        }
        settled += 1;
    }
    // Entries whose keys had not expired change the expiry index only; the last of these changes are committed here.
    guard.commit();
    Ok(settled)
}

/// Releases the writer lock and arranges that the commits are written.
pub(super) fn leave(committer: &Committer, mut guard: WriterGuard<'_>) {
    let is_full = guard.is_full() && !guard.hand_over();
    let _ = guard.leave_open();
    if is_full {
        committer.write_open_group();
    } else {
        committer.write_soon();
    }
}

pub(super) fn unlocked<T>(access: std::result::Result<T, AccessError>) -> Result<T> {
    access.map_err(|error| match error {
        AccessError::Failed(error) => error,
        AccessError::NeedsLock | AccessError::TooLarge => {
            unreachable!("the writer lock is held, and no limit of effects is set")
        }
    })
}

#[cfg(test)]
#[path = "sweep_tests.rs"]
mod tests;
