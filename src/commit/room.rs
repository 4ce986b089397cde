//! Checks many times a second whether the disk has room for writes. Writes are refused before one of them can fail
//! half-way: only a restart could repair a write that failed half-way.
//!
//! RocksDB stops writing when a flush finds no space, and resumes by itself once there is enough space. After any
//! other background error it never resumes. Source: its `ErrorHandler` and `SstFileManagerImpl::ClearError`.

use super::committer::Committer;
use super::gate::RefusalReason;
use super::guards::{LogsGuard, WriterGuard};
use super::logs::Logs;
use super::writer::OPLOG_SLACK;
use crate::engine::disk::Disk;
use crate::error::{Error, Result};
use parking_lot::MutexGuard;
use std::path::Path;
use std::sync::atomic::Ordering;

/// After writes were refused for want of room, they are taken again once the free bytes exceed the limit by this share
/// of the limit.
const MARGIN_DIVISOR: u64 = 4;
/// Below this share of the limit, writes that free space are refused, too: logs and engines need the rest to work.
const LAST_DIVISOR: u64 = 4;

/// Result of one look at the disk.
#[derive(Debug)]
enum Outlook {
    /// All writes can be taken.
    Room,
    /// Only writes that free space can be taken. The text says why, and what to do.
    Low(String),
    /// No write can be taken until there is more space. The text says why, and what to do.
    Full(String),
    /// RocksDB has a background error that it does not recover from.
    Broken(Error),
}

/// Looks at RocksDB and at the file system of `dir`, of which `free_bytes_min` must stay free. `is_short` tells
/// whether the look before found too little room.
fn look(dir: &Path, free_bytes_min: u64, is_short: bool, disk: &Disk) -> Outlook {
    let place = format!("the file system of {}", dir.display());
    match disk.background_error() {
        None => {}
        Some(error) if error.is_want_of_space() => {
            let advice = format!("Free space on {place}; writes are then accepted without a restart");
            return Outlook::Full(format!("RocksDB has no room: {error}. {advice}"));
        }
        Some(error) => return Outlook::Broken(error),
    }
    let margin = if is_short { free_bytes_min / MARGIN_DIVISOR } else { 0 };
    match free_bytes(dir) {
        Ok(free) => judge(free, free_bytes_min, margin, &place),
        // If the file system does not tell its free space, nothing is refused.
        Err(_) => Outlook::Room,
    }
}

/// Judges which writes `free` bytes allow.
fn judge(free: u64, free_bytes_min: u64, margin: u64, place: &str) -> Outlook {
    let wanted = free_bytes_min.saturating_add(margin);
    if free >= wanted {
        return Outlook::Room;
    }
    let found = format!("{free} bytes are free on {place}, but min-free-bytes demands {wanted}");
    let advice = "Free space there, or lower min-free-bytes; writes are then accepted without a restart";
    if free < free_bytes_min / LAST_DIVISOR {
        return Outlook::Full(format!("{found}. {advice}"));
    }
    let taken = "Commands that free space are accepted: DEL, UNLINK, FLUSHALL, EXPIRE, XTRIM, HDEL, SREM, LTRIM, ZREM \
                 and the like";
    Outlook::Low(format!("{found}. {taken}. {advice}"))
}

/// Returns the bytes that a process without privileges can write below `dir`.
pub fn free_bytes(dir: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(dir).map_err(|error| Error::io("ask for the free space of", dir)(error.into()))?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// Returns the bytes that a task which reclaims space may use temporarily: the free bytes above the share of
/// `free_bytes_min` that logs and engines need.
pub fn room_to_reclaim(dir: &Path, free_bytes_min: u64) -> u64 {
    free_bytes(dir).unwrap_or_default().saturating_sub(free_bytes_min / LAST_DIVISOR)
}

impl Committer {
    /// Refuses writes while the file system of `dir` has no room for them, and takes writes again once the file
    /// system, RocksDB and the op-log have room. To be called many times a second.
    pub fn look_for_room(&self, dir: &Path, free_bytes_min: u64) {
        let (was_low, was_full) = (self.gate.stands(RefusalReason::DiskLow), self.gate.stands(RefusalReason::DiskFull));
        let outlook = look(dir, free_bytes_min, was_low || was_full, self.disk());
        match &outlook {
            Outlook::Broken(error) => return self.fail_stop(error),
            Outlook::Full(reason) => return self.refuse_for_want_of_room(RefusalReason::DiskFull, reason.clone()),
            Outlook::Low(reason) => self.refuse_for_want_of_room(RefusalReason::DiskLow, reason.clone()),
            Outlook::Room => {}
        }
        if was_full {
            if self.reserve(&mut self.logs.lock(), OPLOG_SLACK).is_err() {
                return;
            }
            self.gate.open(RefusalReason::DiskFull);
        }
        if matches!(outlook, Outlook::Room) && (was_low || was_full) {
            tracing::info!("the disk has room: writes are accepted");
            self.gate.open(RefusalReason::DiskLow);
        }
    }

    fn refuse_for_want_of_room(&self, obstacle: RefusalReason, reason: String) {
        if !self.gate.stands(RefusalReason::DiskFull) && !self.gate.stands(obstacle) {
            tracing::error!(reason, "the disk has no room: writes are refused until space is freed");
        }
        self.gate.close(obstacle, reason);
    }

    /// Reserves `bytes` in the op-log's active segment; begins a new segment if they do not fit. Refuses after a
    /// failed log write: then the end of the active segment is unknown, and no segment may follow.
    fn reserve(&self, logs: &mut Logs, bytes: usize) -> Result<()> {
        self.require_sound()?;
        let reserved = logs.oplog.reserve(bytes);
        self.note_room(logs);
        let Err(error) = reserved else { return Ok(()) };
        let obstacle = if logs.oplog.is_broken() {
            self.fail_stop(&error);
            RefusalReason::Broken
        } else {
            let advice = if error.is_want_of_space() { "Free space" } else { "Repair the disk" };
            let reason =
                format!("the op-log cannot grow: {error}. {advice}; writes are then accepted without a restart");
            self.refuse_for_want_of_room(RefusalReason::DiskFull, reason);
            RefusalReason::DiskFull
        };
        Err(obstacle.error(self.gate.reason(obstacle).unwrap_or_else(|| error.to_string())))
    }
}

impl WriterGuard<'_> {
    /// Reserves room for a command whose arguments have `bytes`, before the command has any effect. On an error this
    /// command and all later ones are refused until [`Committer::look_for_room`] finds room, or until a restart if the
    /// op-log is broken. The writer lock may be released and taken again meanwhile.
    pub fn reserve(&mut self, bytes: usize) -> Result<()> {
        let committer = self.committer;
        committer.gate.require_open(RefusalReason::DiskFull)?;
        while self.writer.log_bytes(bytes) > committer.log_room.load(Ordering::Acquire) {
            let wanted = self.writer.log_bytes(bytes);
            MutexGuard::unlocked(&mut self.writer, || {
                let mut logs = committer.logs.lock();
                committer.write_queued(&mut logs);
                committer.reserve(&mut logs, wanted)
            })?;
            self.writer.forget_settled(&committer.groups);
        }
        Ok(())
    }
}

impl WriterGuard<'_> {
    /// Reserves room for the effects of the next commit, which can take more than was reserved for its arguments.
    /// After an error the effects must be taken back, or the write would fail half-way.
    pub fn reserve_gathered(&mut self) -> Result<()> {
        let committer = self.committer;
        let wanted = self.writer.log_bytes(0) + self.writer.gathered_frame_bytes();
        if wanted <= committer.log_room.load(Ordering::Acquire) {
            return Ok(());
        }
        // A holder of the writer lock must not wait for the logs' lock. If another thread holds the logs' lock, the
        // write of the group checks the room.
        committer.logs.try_lock().map_or(Ok(()), |mut logs| committer.reserve(&mut logs, wanted))
    }
}

impl LogsGuard<'_> {
    /// Does the same as [`WriterGuard::reserve`], but keeps both locks.
    pub fn reserve(&mut self, bytes: usize) -> Result<()> {
        let wanted = self.guard.writer.log_bytes(bytes);
        self.reserve_logs(wanted)
    }

    /// Reserves `log_bytes` for frames of commits that may take more space on disk. Refuses them while the disk is low
    /// or full.
    pub(super) fn require_room(&mut self, log_bytes: usize) -> Result<()> {
        self.guard.committer.gate.require_open(RefusalReason::DiskLow)?;
        self.reserve_logs(log_bytes)
    }

    fn reserve_logs(&mut self, log_bytes: usize) -> Result<()> {
        let Self { guard: WriterGuard { committer, .. }, logs, .. } = self;
        committer.gate.require_open(RefusalReason::DiskFull)?;
        committer.reserve(logs, log_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::disk::DiskOptions;

    /// Goal: the limit holds, and with a margin once free space was short; a limit of 0 switches the check off; below
    /// a quarter of the limit no write is taken.
    #[test]
    fn the_limit_has_a_margin_and_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(&dir.path().join("db"), &dir.path().join("wal"), DiskOptions::default()).unwrap();
        let free = free_bytes(dir.path()).unwrap();
        let says = |limit, was_short| match look(dir.path(), limit, was_short, &disk) {
            Outlook::Low(reason) if reason.contains("min-free-bytes") && reason.contains("DEL") => "low",
            Outlook::Full(reason) if reason.contains("min-free-bytes") && !reason.contains("DEL") => "full",
            Outlook::Room => "room",
            other => panic!("{other:?}"),
        };
        assert_eq!([says(0, false), says(0, true)], ["room"; 2]);
        assert_eq!(says(free / 8 * 7, false), "room", "as long as it never was short");
        assert_eq!(says(free / 8 * 7, true), "low", "a margin after that");
        assert_eq!(says(free * 2, false), "low");
        assert_eq!([says(free * 8, false), says(u64::MAX, true)], ["full"; 2]);
    }
}
