//! The durable file: a small file that tells the next start how far the logs were synced.
//!
//! Guarantees: the file names a position that was durable when the file was written. The file may lag, because it is
//! written without a sync of its own: it can prove a loss, but never the absence of one. Two slots are written in
//! turn, each with its own CRC, so that a torn write leaves the older slot.

use crate::csn::{Csn, Epoch};
use crate::error::Result;
use crate::io::{Io, LogFile};
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;

const SLOT_LEN: usize = 32;
const MAGIC: [u8; 4] = *b"WFDM";
const FILE: &str = "durable";

/// How far the logs were synced, and in which epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Durable {
    /// Highest csn known to be durable.
    pub csn: Csn,
    /// Epoch of the writer.
    pub epoch: Epoch,
}

/// The open durable file.
#[derive(Debug)]
pub struct DurableFile {
    io: Arc<dyn Io>,
    file: LogFile,
    next_slot: u64,
}

impl DurableFile {
    /// Opens or creates the file in `dir`, and returns the newest position in it.
    pub fn open(io: Arc<dyn Io>, dir: &Path) -> Result<(Self, Durable)> {
        let path = dir.join(FILE);
        if !path.exists() {
            io.create_zeroed(&path, 2 * SLOT_LEN as u64)?;
        }
        let bytes = io.read_file(&path)?;
        let slots = bytes.chunks(SLOT_LEN).map(decode);
        // The epoch counts before the csn: a new epoch may begin at a lower csn than the one before reached.
        let rank = |durable: &Durable| (durable.epoch, durable.csn);
        let (newest, told) = slots.enumerate().fold((1, Durable::default()), |best, (nth, slot)| match slot {
            Some(slot) if rank(&slot) > rank(&best.1) => (nth as u64, slot),
            _ => best,
        });
        let file = io.open(&path)?;
        Ok((Self { io, file, next_slot: 1 - newest.min(1) }, told))
    }

    /// Records that everything up to `durable` is synced.
    pub fn write(&mut self, durable: Durable) -> Result<()> {
        let mut slot = [0; SLOT_LEN];
        slot[..4].copy_from_slice(&MAGIC);
        slot[4..8].copy_from_slice(&durable.epoch.0.to_le_bytes());
        slot[8..16].copy_from_slice(&durable.csn.0.to_le_bytes());
        let crc = crc32fast::hash(&slot[..SLOT_LEN - 4]);
        slot[SLOT_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        self.io.write_at(&self.file, self.next_slot * SLOT_LEN as u64, Bytes::copy_from_slice(&slot))?;
        self.next_slot = 1 - self.next_slot;
        Ok(())
    }
}

fn decode(slot: &[u8]) -> Option<Durable> {
    let slot: &[u8; SLOT_LEN] = slot.try_into().ok()?;
    let word = |at: usize| u32::from_le_bytes(slot[at..at + 4].try_into().expect("four bytes"));
    let is_valid = slot[..4] == MAGIC && crc32fast::hash(&slot[..SLOT_LEN - 4]) == word(SLOT_LEN - 4);
    let csn = u64::from_le_bytes(slot[8..16].try_into().expect("eight bytes"));
    is_valid.then(|| Durable { csn: Csn(csn), epoch: Epoch(word(4)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::StdIo;
    use crate::io::testing::{FAULTS, each_step};

    #[test]
    fn a_torn_slot_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let io: Arc<dyn Io> = Arc::new(StdIo);
        let (mut file, told) = DurableFile::open(Arc::clone(&io), dir.path()).unwrap();
        assert_eq!(told, Durable::default());
        for csn in [5, 9, 12] {
            file.write(Durable { csn: Csn(csn), epoch: Epoch(1) }).unwrap();
        }
        let reopened = || DurableFile::open(Arc::clone(&io), dir.path()).unwrap().1.csn;
        assert_eq!(reopened(), Csn(12));
        let path = dir.path().join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        let newest = bytes.chunks(SLOT_LEN).position(|slot| decode(slot).unwrap().csn == Csn(12)).unwrap();
        bytes[newest * SLOT_LEN + 9] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(reopened(), Csn(9));
    }

    /// Goal: whichever step fails, the file holds a position that was recorded, and at worst the last but one.
    #[test]
    fn a_failing_step_leaves_a_file_that_is_true() {
        each_step(&FAULTS, |case| {
            let dir = tempfile::tempdir().unwrap();
            let mut recorded = 0;
            if let Ok((mut file, _)) = DurableFile::open(case.io(), dir.path()) {
                for csn in 1..=4 {
                    if file.write(Durable { csn: Csn(csn), epoch: Epoch(1) }).is_ok() {
                        recorded = csn;
                    }
                }
            }
            let told = DurableFile::open(Arc::new(StdIo), dir.path()).unwrap().1.csn.0;
            let lowest = if case.io.has_struck() { recorded.saturating_sub(1) } else { 4 };
            assert!((lowest..=4).contains(&told), "recorded {recorded}, told {told}");
        });
    }

    #[test]
    fn a_generation_that_began_lower_replaces_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let io: Arc<dyn Io> = Arc::new(StdIo);
        let (mut file, _) = DurableFile::open(Arc::clone(&io), dir.path()).unwrap();
        file.write(Durable { csn: Csn(100), epoch: Epoch(1) }).unwrap();
        let (mut file, _) = DurableFile::open(Arc::clone(&io), dir.path()).unwrap();
        let lower = Durable { csn: Csn(80), epoch: Epoch(2) };
        file.write(lower).unwrap();
        let (mut file, told) = DurableFile::open(Arc::clone(&io), dir.path()).unwrap();
        assert_eq!(told, lower);
        let higher = Durable { csn: Csn(81), epoch: Epoch(2) };
        file.write(higher).unwrap();
        assert_eq!(DurableFile::open(io, dir.path()).unwrap().1, higher);
    }
}
