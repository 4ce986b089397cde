//! Whether the disk has room for writes: looked at many times a second, so that writes are refused before one of them
//! fails half-way, which nothing but a restart could mend.
//!
//! RocksDB stops writing when a flush finds no space, and goes on by itself once there is enough again; after any other
//! error in the background it never does (its `ErrorHandler` and `SstFileManagerImpl::ClearError`).

use super::committer::{Committer, Turn};
use super::gate::Obstacle;
use crate::engine::disk::Disk;
use crate::error::{Error, Result};
use std::path::Path;

/// Writes that were refused for want of room are taken again when this share of the limit is free beyond it.
const MARGIN_DIVISOR: u64 = 4;

/// Room in the op-log that is kept ready beyond what a command's arguments ask for.
const OPLOG_SLACK: usize = 64 << 10;

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
                let mut turn = self.join();
                if turn.reserve_in_log(OPLOG_SLACK).is_ok() {
                    tracing::info!("there is room on the disk again: writes are taken");
                    self.gate.open(Obstacle::DiskFull);
                }
                // Who left the group open writes it.
                let _ = turn.leave_open();
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
}

impl Turn<'_> {
    /// Makes sure there is room for a command whose arguments have `bytes`, before it has any effect. Refused, and so is
    /// every later one, until [`Committer::look_for_room`] finds room, or until a restart if the op-log is broken.
    pub fn reserve(&mut self, bytes: usize) -> Result<()> {
        let wanted = self.writer().effects.bytes() + 2 * bytes + OPLOG_SLACK;
        self.require_room(wanted)
    }

    pub(super) fn require_room(&mut self, log_bytes: usize) -> Result<()> {
        let refused = |reason| Err(Error::Refused { reason });
        self.committer.gate.reason(Obstacle::DiskFull).map_or(Ok(()), refused)?;
        self.reserve_in_log(log_bytes)
    }

    fn reserve_in_log(&mut self, bytes: usize) -> Result<()> {
        let Err(error) = self.writer().oplog().reserve(bytes) else { return Ok(()) };
        let obstacle = if self.writer().oplog().is_broken() {
            self.committer.fail_stop(&error);
            Obstacle::Broken
        } else {
            let advice = if error.is_want_of_space() { "Free space" } else { "See to the disk" };
            let reason =
                format!("the op-log cannot grow: {error}. {advice}; writes are taken again by themselves then");
            self.committer.refuse_for_want_of_room(reason);
            Obstacle::DiskFull
        };
        Err(Error::Refused { reason: self.committer.gate.reason(obstacle).unwrap_or_else(|| error.to_string()) })
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
