//! The manifest of a compacted run.
//!
//! Guarantees: a decoded manifest equals the encoded one bit by bit (it contains a digest, as the manifest of a base
//! does), its positions are consistent, and every file name in it is plain.

use crate::archive::digested;
use crate::archive::layout::{ObjectName, RunName};
use crate::cluster::ClusterId;
use crate::compacted_run::delta::RangeDelete;
use crate::csn::{CommitTime, Csn, Epoch, HistoryHash};
use crate::engine::batch::{self, Family};
use crate::error::{Error, Result};
use crate::grain::Grain;
use crate::plain_name::PlainName;
use crate::position::Position;
use crate::snapshot::manifest::{FileRef, HASH_DIGITS, MANIFEST_BYTES_MAX, NAME_BYTES_MAX, hex};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Version of the manifest that this build writes and reads.
pub const RUN_FORMAT: u32 = 3;

/// The manifest of one compacted run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunManifest {
    /// See [`RUN_FORMAT`].
    pub format: u32,
    /// The cluster that the commits belong to.
    pub cluster: ClusterId,
    /// Epoch that made the last commit.
    pub epoch: Epoch,
    /// The first commit; the run applies to the state before it.
    pub first: Csn,
    /// The last commit.
    pub last: Csn,
    /// Time of the first commit.
    pub first_time: CommitTime,
    /// Time of the last commit.
    pub last_time: CommitTime,
    /// History hash before the first commit.
    pub hash_before: HistoryHash,
    /// History hash after the last commit.
    pub hash_after: HistoryHash,
    /// The reason why the run ends at `last`.
    pub grain: Grain,
    /// Uncompressed bytes of the effects of the run's commits, which a restore over the run need not replay.
    pub raw_bytes: u64,
    /// Number of rows that the run sets in RocksDB.
    pub puts: u64,
    /// Number of rows that the run deletes in RocksDB, without those in `ranges`.
    pub deletes: u64,
    /// Number of keys in memory that the run touches: an upper bound of those that it changes.
    pub memory_keys: u64,
    /// Ranges of rows to delete before the files are ingested.
    pub ranges: Vec<RunRange>,
    /// SST files; the files of one family do not overlap.
    pub disk: Vec<RunFile>,
    /// Chunk files, to be applied in order. Each file holds one commit with memory ops, under the csn
    /// `last`.
    pub memory: Vec<FileRef>,
}

/// A range of rows to delete, from `from` (inclusive) to `to` (exclusive).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRange {
    /// The column family.
    pub family: String,
    /// Hexadecimal digits of the first key.
    pub from: String,
    /// Hexadecimal digits of the end of the range, which is not deleted.
    pub to: String,
}

/// An SST file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunFile {
    /// The column family.
    pub family: String,
    /// Name within the run: plain, and unique among the files of the run.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 of the content.
    #[serde(with = "hex")]
    pub blake3: blake3::Hash,
}

impl RunRange {
    /// Returns the stored form of a range.
    #[must_use]
    pub fn of(range: &RangeDelete) -> Self {
        let digits = |key: &[u8]| key.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { family: range.family.name().to_owned(), from: digits(&range.from), to: digits(&range.to) }
    }

    /// Decodes the range; `None` if the family is unknown or a key is not hexadecimal.
    #[must_use]
    pub fn range(&self) -> Option<RangeDelete> {
        let byte = |at: usize, text: &str| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
        let key = |text: &str| (0..text.len()).step_by(2).map(|at| byte(at, text)).collect::<Option<Vec<u8>>>();
        Some(RangeDelete { family: family(&self.family)?, from: key(&self.from)?, to: key(&self.to)? })
    }
}

fn family(name: &str) -> Option<Family> {
    Family::ALL.into_iter().find(|family| family.name() == name)
}

/// Returns the object name of a file of a run. As with bases, the name holds the beginning of the content hash: two
/// nodes may build the same run at the same time, and neither may overwrite the files that the other's manifest refers
/// to.
fn object(run: RunName, name: &str, content: blake3::Hash) -> ObjectName {
    let name = format!("{name}-{}", &content.to_hex()[..HASH_DIGITS]);
    ObjectName::RunFile(run, name.parse().expect("a manifest has plain and short names only"))
}

impl RunFile {
    /// Returns the column family of the file's rows.
    ///
    /// # Panics
    /// Panics if the file is not from a manifest that was decoded or encoded.
    #[must_use]
    pub fn family(&self) -> Family {
        family(&self.family).expect("a manifest names families that exist")
    }
}

impl RunManifest {
    /// Returns the name of the run.
    #[must_use]
    pub fn run(&self) -> RunName {
        RunName { first: self.first, last: self.last, epoch: self.epoch }
    }

    /// Returns the position of a state after the run was applied.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { csn: self.last, time: self.last_time, epoch: self.epoch, hash: self.hash_after }
    }

    /// Checks that the run can be applied to a state at position `at`: only to the state before its first commit.
    /// Errors: [`Error::OtherHistory`] if the history hash differs, [`Error::Gap`] if the csn or the time does not
    /// fit.
    pub fn validate(&self, at: Position) -> Result<()> {
        // An epoch may begin at an earlier time.
        let is_in_order = at.time <= self.first_time || at.epoch < self.epoch;
        if at.csn.next() == self.first && is_in_order {
            if at.hash == self.hash_before {
                return Ok(());
            }
            let (expected, found) = (at.hash, self.hash_before);
            return Err(Error::OtherHistory { what: format!("run {}", self.run()), csn: at.csn, expected, found });
        }
        let (what, found) = (self.run().to_string(), format!("a state at csn {}, committed {}", at.csn, at.time));
        Err(Error::Gap { what, expected: self.first.prev(), found })
    }

    /// Returns the objects of the run's files with their lengths and hashes: first those of [`RunManifest::disk`],
    /// then those of [`RunManifest::memory`].
    pub fn objects(&self) -> impl Iterator<Item = (ObjectName, u64, blake3::Hash)> {
        let disk = self.disk.iter().map(|file| (&file.name, file.bytes, file.blake3));
        let all = disk.chain(self.memory.iter().map(|file| (&file.name, file.bytes, file.blake3)));
        all.map(|(name, bytes, blake3)| (object(self.run(), name, blake3), bytes, blake3))
    }

    /// Returns the number of files of the run.
    #[must_use]
    pub fn files(&self) -> u64 {
        (self.disk.len() + self.memory.len()) as u64
    }

    /// Returns the bytes of all files of the run.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.disk.iter().map(|file| file.bytes).chain(self.memory.iter().map(|file| file.bytes)).sum()
    }

    /// Returns the range deletes as records of a write batch, and the number of records.
    #[must_use]
    pub fn range_records(&self) -> (Vec<u8>, u32) {
        let mut records = Vec::new();
        for range in &self.ranges {
            let RangeDelete { family, from, to } = range.range().expect("a manifest has whole ranges only");
            batch::push_delete_range(&mut records, family, &from, &to);
        }
        (records, self.ranges.len() as u32)
    }

    /// Returns the stored form: JSON with the digest.
    ///
    /// # Panics
    /// Panics if the manifest contradicts itself.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        digested::encode_consistent(self, self.fault())
    }

    /// Decodes the stored form; `what` names the manifest in errors.
    pub fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        digested::decode_consistent(bytes, what, RUN_FORMAT, MANIFEST_BYTES_MAX, Self::fault)
    }

    /// Describes the first contradiction within the manifest; `None` if there is none.
    fn fault(&self) -> Option<String> {
        if self.format != RUN_FORMAT {
            return Some(format!("format {}", self.format));
        }
        if self.first == Csn::ZERO || self.first > self.last || self.last == Csn(u64::MAX) {
            return Some(format!("csn {} to {}", self.first, self.last));
        }
        if self.first_time > self.last_time {
            return Some(format!("times from {} to {}", self.first_time, self.last_time));
        }
        if let Some(range) = self.ranges.iter().find(|range| range.range().is_none_or(|found| found.from > found.to)) {
            return Some(format!("{range:?} is no range"));
        }
        if let Some(file) = self.disk.iter().find(|file| family(&file.family).is_none()) {
            return Some(format!("{:?} is of family {:?}", file.name, file.family));
        }
        let mut names = HashSet::new();
        let is_plain = |name: &str| name.len() <= NAME_BYTES_MAX && name.parse::<PlainName>().is_ok();
        let mut all = self.disk.iter().map(|file| &file.name).chain(self.memory.iter().map(|file| &file.name));
        all.find(|name| !is_plain(name) || !names.insert(*name))
            .map(|name| format!("{name:?} is not a valid file name, or occurs twice"))
    }
}
