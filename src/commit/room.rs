//! Whether the disk has room for writes: looked at many times a second, so that writes are refused before one of them
//! fails half-way, which nothing but a restart could mend.
//!
//! RocksDB stops writing when a flush finds no space, and goes on by itself once there is enough again; after any other
//! error in the background it never does (its `ErrorHandler` and `SstFileManagerImpl::ClearError`).

use super::committer::Committer;
use super::gate::Obstacle;
use super::logs::Logs;
use super::turn::{Joined, Turn};
use super::writer::OPLOG_SLACK;
use crate::engine::disk::Disk;
use crate::error::{Error, Result};
use parking_lot::MutexGuard;
use std::path::Path;
use std::sync::atomic::Ordering;

/// Writes that were refused for want of room are taken again when this share of the limit is free beyond it.
const MARGIN_DIVISOR: u64 = 4;

/// What a look at the disk shows.
#[derive(Debug)]
enum Outlook {
    /// Writes can be taken.
    Room,
    /// They cannot until there is more space: why, and what to do.
    Short(String),
    /// RocksDB gave up.
    Broken(Error),
}

/// Looks at RocksDB and at the file system of `dir`, of which `free_bytes_min` must stay free. `is_short`: what the
/// look before showed.
fn look(dir: &Path, free_bytes_min: u64, is_short: bool, disk: &Disk) -> Outlook {
    let advice =
        format!("Free space on the file system of {}; writes are taken again by themselves then", dir.display());
    match disk.background_error() {
        None => {}
        Some(error) if error.is_want_of_space() => {
            return Outlook::Short(format!("RocksDB has no room: {error}. {advice}"));
        }
        Some(error) => return Outlook::Broken(error),
    }
    let wanted = if is_short { free_bytes_min + free_bytes_min / MARGIN_DIVISOR } else { free_bytes_min };
    match free_bytes(dir) {
        Ok(free) if free < wanted => {
            Outlook::Short(format!("{free} bytes are free, min-free-bytes asks for {wanted}. {advice}"))
        }
        // A file system that does not tell is no reason to refuse anything.
        Ok(_) | Err(_) => Outlook::Room,
    }
}

/// Bytes that a process without privileges could still write below `dir`.
pub fn free_bytes(dir: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(dir).map_err(|error| Error::io("ask for the free space of", dir)(error.into()))?;
    Ok(stat.f_bavail * stat.f_frsize)
}

impl Committer {
    /// Refuses writes while the file system of `dir` has no room for them, and takes them again when it has; RocksDB and
    /// the op-log must agree. To be called many times a second.
    pub fn look_for_room(&self, dir: &Path, free_bytes_min: u64) {
        let was_short = self.gate.stands(Obstacle::DiskFull);
        match look(dir, free_bytes_min, was_short, self.disk()) {
            Outlook::Broken(error) => self.fail_stop(&error),
            Outlook::Short(reason) => self.refuse_for_want_of_room(reason),
            Outlook::Room if was_short => {
                if self.reserve(&mut self.logs.lock(), OPLOG_SLACK).is_ok() {
                    tracing::info!("there is room on the disk again: writes are taken");
                    self.gate.open(Obstacle::DiskFull);
                }
            }
            Outlook::Room => {}
        }
    }

    fn refuse_for_want_of_room(&self, reason: String) {
        if !self.gate.stands(Obstacle::DiskFull) {
            tracing::error!(reason, "the disk has no room: writes are refused until it has");
        }
        self.gate.close(Obstacle::DiskFull, reason);
    }

    /// An error while writes are refused for want of room.
    fn require_room(&self) -> Result<()> {
        self.gate.reason(Obstacle::DiskFull).map_or(Ok(()), |reason| Err(Error::Refused { reason }))
    }

    /// Makes sure that the op-log takes `bytes` without a new segment. Never after a failed log write: where the segment
    /// ends is unknown then, and another one must not follow.
    fn reserve(&self, logs: &mut Logs, bytes: usize) -> Result<()> {
        self.require_sound()?;
        let reserved = logs.oplog.reserve(bytes);
        self.note_room(logs);
        let Err(error) = reserved else { return Ok(()) };
        let obstacle = if logs.oplog.is_broken() {
            self.fail_stop(&error);
            Obstacle::Broken
        } else {
            let advice = if error.is_want_of_space() { "Free space" } else { "See to the disk" };
            let reason =
                format!("the op-log cannot grow: {error}. {advice}; writes are taken again by themselves then");
            self.refuse_for_want_of_room(reason);
            Obstacle::DiskFull
        };
        Err(Error::Refused { reason: self.gate.reason(obstacle).unwrap_or_else(|| error.to_string()) })
    }
}

impl Joined<'_> {
    /// Makes sure there is room for a command whose arguments have `bytes`, before it has any effect. Refused, and so is
    /// every later one, until [`Committer::look_for_room`] finds room, or until a restart if the op-log is broken. The
    /// lock may be let go meanwhile.
    pub fn reserve(&mut self, bytes: usize) -> Result<()> {
        let committer = self.committer;
        committer.require_room()?;
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

impl Turn<'_> {
    /// As [`Joined::reserve`]; both locks stay held.
    pub fn reserve(&mut self, bytes: usize) -> Result<()> {
        let wanted = self.joined.writer.log_bytes(bytes);
        self.require_room(wanted)
    }

    /// Makes sure there is room for frames of `log_bytes`.
    pub(super) fn require_room(&mut self, log_bytes: usize) -> Result<()> {
        let Self { joined: Joined { committer, .. }, logs, .. } = self;
        committer.require_room()?;
        committer.reserve(logs, log_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::disk::DiskOptions;

    /// Goal: the limit counts, and with a margin once it was reached; 0 switches it off.
    #[test]
    fn the_limit_has_a_margin() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(&dir.path().join("db"), &dir.path().join("wal"), DiskOptions::default()).unwrap();
        let free = free_bytes(dir.path()).unwrap();
        let is_short = |limit, was_short| match look(dir.path(), limit, was_short, &disk) {
            Outlook::Short(reason) => reason.contains("min-free-bytes") && reason.contains("Free space"),
            Outlook::Room => false,
            Outlook::Broken(error) => panic!("{error}"),
        };
        assert!(!is_short(0, false) && !is_short(0, true));
        assert!(!is_short(free / 8 * 7, false), "room as long as it never was short");
        assert!(is_short(free / 8 * 7, true), "a margin after that");
        assert!(is_short(free * 2, false));
    }
}
