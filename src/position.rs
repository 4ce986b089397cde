//! A position in history, by which nodes, logs and objects say how far they have got.
//!
//! Guarantees: the stored form has a fixed length, and decoding an encoded position gives the same position.

use crate::csn::{CommitTime, Csn, Epoch, HistoryHash};
use crate::error::{Error, Result};
use crate::record::CommitRecord;

/// Bytes of a stored position.
const POSITION_LEN: usize = 8 + 8 + 4 + 8;

/// Position in history: a commit, and by its hash all commits before it. The system key `csn` holds one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// Number of the commit; 0 before the first.
    pub csn: Csn,
    /// Time of the commit.
    pub time: CommitTime,
    /// Generation of the writer that made the commit.
    pub epoch: Epoch,
    /// History hash after the commit.
    pub hash: HistoryHash,
}

impl Position {
    /// Returns the position of a commit.
    #[must_use]
    pub fn of(commit: &CommitRecord) -> Self {
        Self { csn: commit.csn, time: commit.time, epoch: commit.epoch, hash: commit.hash }
    }

    /// Encodes the position into its stored form.
    #[must_use]
    pub fn encode(&self) -> [u8; POSITION_LEN] {
        let mut out = [0; POSITION_LEN];
        out[..8].copy_from_slice(&self.csn.0.to_le_bytes());
        out[8..16].copy_from_slice(&self.time.0.to_le_bytes());
        out[16..20].copy_from_slice(&self.epoch.0.to_le_bytes());
        out[20..].copy_from_slice(&self.hash.0.to_le_bytes());
        out
    }

    /// Decodes the stored form. Returns a corruption error if the length is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let bytes: &[u8; POSITION_LEN] = bytes.try_into().map_err(|_| {
            Error::corrupt("system key csn", "value", format!("{} bytes instead of {POSITION_LEN}", bytes.len()))
        })?;
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let epoch = u32::from_le_bytes(bytes[16..20].try_into().expect("four bytes"));
        Ok(Self { csn: Csn(word(0)), time: CommitTime(word(8)), epoch: Epoch(epoch), hash: HistoryHash(word(20)) })
    }
}
