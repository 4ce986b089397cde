//! The manifest of a base: what makes the files of a base one state, and what each of them must be.
//!
//! Guarantees: a decoded manifest is the one that was encoded, to the bit (a BLAKE3 digest of its canonical JSON stands
//! in it), its positions fit together, and every file name in it is plain: safe as an object name and as a path.
//! Does not: read or write files; see `base` and `publish`.

use crate::archive::digested;
use crate::archive::layout::{BaseName, ObjectName};
use crate::archive::listing::BaseStart;
use crate::archive::put::SINGLE_PUT_BYTES_MAX;
use crate::cluster::ClusterId;
use crate::csn::{CommitTime, Csn, Epoch, HistoryHash, WalSeq};
use crate::directory::LastRole;
use crate::error::Result;
use crate::plain_name::{PLAIN_NAME_BYTES_MAX, PlainName};
use crate::position::Position;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;

/// Version of the manifest that this build writes and reads.
pub const MANIFEST_FORMAT: u32 = 3;

/// The largest manifest: it is created by a single request. Enough for some 60 000 SSTs.
pub const MANIFEST_BYTES_MAX: usize = SINGLE_PUT_BYTES_MAX as usize;

/// Digits of its content hash in the object name of a file.
pub(super) const HASH_DIGITS: usize = 16;

/// Longest file name: the object name adds a dash and digits.
pub(super) const NAME_BYTES_MAX: usize = PLAIN_NAME_BYTES_MAX - 1 - HASH_DIGITS;

/// One base: a state of all engines.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// See [`MANIFEST_FORMAT`].
    pub format: u32,
    /// Whose state it is.
    pub cluster: ClusterId,
    /// Generation of the history it was cut from.
    pub epoch: Epoch,
    /// The later one of the two cuts: the disk engines', since they are cut last. With the completion applied, every
    /// engine is at this csn; without one, the memory engines need the commits from `memory.csn` on.
    pub csn: Csn,
    /// Commit time of `csn`.
    pub time: CommitTime,
    /// History hash after `csn`.
    pub hash: HistoryHash,
    /// How the engines' positions relate.
    pub level: Level,
    /// How it was cut.
    pub cut: CutRecord,
    /// The memory engines.
    pub memory: MemoryPart,
    /// The disk engines.
    pub disk: DiskPart,
    /// Chunk files, in csn order, that carry exactly the commits above `memory.csn` up to `csn` with their memory ops
    /// only. Empty if the memory image is at `csn` already, or if the level is not strict.
    pub completion: Vec<FileRef>,
    /// Bytes that the archive did not have before.
    pub bytes_new: u64,
    /// Bytes of SSTs that an earlier base had brought.
    pub bytes_shared: u64,
    /// Milliseconds from the cut of the memory engines until the manifest was written.
    pub took_ms: u64,
}

/// How the engines' positions in a base relate to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Level {
    /// The completion brings every engine to exactly one csn.
    Strict,
    /// The engines are at different csns, with no more commit time between them than was allowed.
    Bounded,
    /// The engines are at different csns. It needs repair: the completion is still to be made.
    Eventual,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "strict",
            Self::Bounded => "bounded",
            Self::Eventual => "eventual",
        })
    }
}

/// How a base was cut, and by whom.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CutRecord {
    /// The level that was asked for. The manifest's own is strict all the same if nothing was committed between the
    /// cuts, or once the base was repaired.
    pub asked: Level,
    /// Commits between the cuts.
    pub skew_commits: u64,
    /// Commit time between the cuts, in microseconds.
    pub skew_us: u64,
    /// The most that was allowed, in microseconds; none unless the level asked for is bounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_us: Option<u64>,
    /// Node that cut it.
    pub node: String,
    /// What that node was.
    pub role: LastRole,
}

/// The memory engines' part of a base.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryPart {
    /// The last commit in the image.
    pub csn: Csn,
    /// Its commit time.
    pub time: CommitTime,
    /// History hash after it.
    pub hash: HistoryHash,
    /// Number of lists.
    pub lists: u64,
    /// Number of sorted sets.
    pub zsets: u64,
    /// Digests of what the image files hold together.
    pub digests: MemoryDigests,
    /// Image files, each a whole image with keys of its own; never empty.
    pub files: Vec<FileRef>,
}

/// What the image files of a base hold together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryDigests {
    /// List elements and members.
    pub elements: u64,
    /// Digest of all lists.
    #[serde(with = "hex")]
    pub lists: blake3::Hash,
    /// Digest of all sorted sets.
    #[serde(with = "hex")]
    pub zsets: blake3::Hash,
}

/// The disk engines' part of a base: a RocksDB without WAL files.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskPart {
    /// The last commit in RocksDB: the one its system key tells. Below `memory.csn` if what followed touched the memory
    /// engines only.
    pub csn: Csn,
    /// Its commit time.
    pub time: CommitTime,
    /// The generation that made it.
    pub epoch: Epoch,
    /// History hash after it.
    pub hash: HistoryHash,
    /// RocksDB's last sequence.
    pub wal_seq: WalSeq,
    /// What its SSTs hold.
    pub contents: DiskContents,
    /// All files of RocksDB's directory.
    pub files: Vec<DbFile>,
}

/// What the SSTs of a base hold.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskContents {
    /// BLAKE3 of the sorted BLAKE3 hashes of all SSTs: the same bytes in the same files. A digest of keys and values would
    /// take reading everything for each base, although few SSTs are new.
    #[serde(with = "hex")]
    pub digest: blake3::Hash,
    /// By column family.
    pub families: Vec<FamilyContents>,
}

/// What the SSTs of one column family hold.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FamilyContents {
    /// Name of the column family.
    pub name: String,
    /// Entries, older versions of a key and deletions included.
    pub entries: u64,
    /// Deletions among them.
    pub deletions: u64,
    /// Bytes of the SSTs.
    pub bytes: u64,
}

/// A file that belongs to this base alone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRef {
    /// Name within the base: plain, and not the name of another file of it.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// BLAKE3 of the content.
    #[serde(with = "hex")]
    pub blake3: blake3::Hash,
}

/// A file of RocksDB's directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DbFile {
    /// Name in RocksDB's directory; as in [`FileRef`].
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// BLAKE3 of the content.
    #[serde(with = "hex")]
    pub blake3: blake3::Hash,
    /// Whether it is an SST, which lies in the archive under its content hash for all bases, not in this base.
    pub shared: bool,
}

/// A hash as 64 lower-case hexadecimal digits.
pub(super) mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(hash: &blake3::Hash, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hash.to_hex())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<blake3::Hash, D::Error> {
        blake3::Hash::from_hex(String::deserialize(from)?).map_err(D::Error::custom)
    }
}

impl FileRef {
    /// The object that holds it.
    #[must_use]
    pub fn object(&self, base: BaseName) -> ObjectName {
        own_object(base, &self.name, self.blake3)
    }
}

impl DbFile {
    /// The object that holds it.
    #[must_use]
    pub fn object(&self, base: BaseName) -> ObjectName {
        if self.shared { ObjectName::Sst(self.blake3) } else { own_object(base, &self.name, self.blake3) }
    }
}

/// The object of a file that belongs to one base. Its name holds the beginning of the content hash: two nodes may cut
/// a base at the same csn at the same time, and neither may overwrite what the other's manifest refers to.
fn own_object(base: BaseName, name: &str, content: blake3::Hash) -> ObjectName {
    let name = format!("{name}-{}", &content.to_hex()[..HASH_DIGITS]);
    ObjectName::BaseFile(base, name.parse().expect("a manifest has plain and short names only"))
}

impl Manifest {
    /// Which base this is.
    #[must_use]
    pub fn base(&self) -> BaseName {
        BaseName { csn: self.csn, epoch: self.epoch }
    }

    /// Where a restore from it starts.
    #[must_use]
    pub fn start(&self) -> BaseStart {
        let after = if self.level == Level::Strict { self.csn } else { self.memory.csn };
        BaseStart { base: self.base(), after }
    }

    /// The position that a restore from it goes on from; `epoch` is the one that made the commit there.
    #[must_use]
    pub fn start_position(&self, epoch: Epoch) -> Position {
        match self.level {
            Level::Strict => Position { csn: self.csn, time: self.time, epoch, hash: self.hash },
            Level::Bounded | Level::Eventual => {
                let MemoryPart { csn, time, hash, .. } = self.memory;
                Position { csn, time, epoch, hash }
            }
        }
    }

    /// This base with the commits between its cuts: strict.
    #[must_use]
    pub fn completed(mut self, completion: Vec<FileRef>) -> Self {
        let bytes = completion.iter().map(|file| file.bytes).sum::<u64>();
        (self.level, self.completion) = (Level::Strict, completion);
        self.bytes_new += bytes;
        self
    }

    /// Bytes of all its files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let own = self.memory.files.iter().chain(&self.completion).map(|file| file.bytes);
        own.chain(self.disk.files.iter().map(|file| file.bytes)).sum()
    }

    /// Number of its files.
    #[must_use]
    pub fn file_count(&self) -> u64 {
        (self.memory.files.len() + self.completion.len() + self.disk.files.len()) as u64
    }

    /// The stored form: JSON with the digest.
    ///
    /// # Panics
    /// If the manifest contradicts itself.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        digested::encode_consistent(self, self.fault())
    }

    /// Reads the stored form; `what` names it in errors.
    pub fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        digested::decode_consistent(bytes, what, MANIFEST_FORMAT, MANIFEST_BYTES_MAX, Self::fault)
    }

    /// What contradicts itself, if anything does.
    fn fault(&self) -> Option<String> {
        let (memory, disk) = (&self.memory, &self.disk);
        if self.format != MANIFEST_FORMAT {
            return Some(format!("format {}", self.format));
        }
        let later = memory.csn.max(disk.csn);
        if self.csn != later {
            return Some(format!("csn {}, but the later one of the two cuts is at {later}", self.csn));
        }
        if (memory.csn == self.csn && memory.hash != self.hash) || (disk.csn == self.csn && disk.hash != self.hash) {
            return Some(format!("history hash {} at csn {}, the part cut there has another one", self.hash, self.csn));
        }
        let is_newer = |(csn, time)| csn == self.csn && time > self.time;
        if is_newer((memory.csn, memory.time)) || is_newer((disk.csn, disk.time)) || disk.epoch > self.epoch {
            return Some("a part is newer than the whole".to_owned());
        }
        let is_complete = self.completion.is_empty() == (memory.csn == self.csn);
        let is_open = self.completion.is_empty() && memory.csn < self.csn;
        if !(if self.level == Level::Strict { is_complete } else { is_open }) {
            let files = self.completion.len();
            return Some(format!(
                "{}, with {files} completion files from csn {} to csn {}",
                self.level, memory.csn, self.csn
            ));
        }
        if memory.files.is_empty() {
            return Some("no memory image".to_owned());
        }
        if disk.files.iter().any(|file| file.shared != file.name.ends_with(".sst")) {
            return Some("SSTs and no other files are shared".to_owned());
        }
        let mut names = HashSet::new();
        let own = memory.files.iter().chain(&self.completion).map(|file| &file.name);
        let mut all = own.chain(disk.files.iter().map(|file| &file.name));
        let is_plain = |name: &str| name.len() <= NAME_BYTES_MAX && name.parse::<PlainName>().is_ok();
        all.find(|name| !is_plain(name) || !names.insert(*name))
            .map(|name| format!("{name:?} is not usable as a file name, or is there twice"))
    }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
