//! The manifest of a base: which files make up the base, what each file must contain, and which state they form
//! together.
//!
//! Guarantees: a decoded manifest equals the encoded one bit by bit (the manifest contains a BLAKE3 digest of its
//! canonical JSON), its positions are consistent, and every file name in it is plain: safe as an object name and as a
//! path. Non-goals: reading and writing files; see `base` and `publish`.

use super::image::Counts;
use crate::archive::digested;
use crate::archive::layout::{BaseName, ObjectName};
use crate::archive::listing::BaseStart;
use crate::archive::put::SINGLE_PUT_BYTES_MAX;
use crate::cluster::ClusterId;
use crate::csn::{CommitTime, Csn, Epoch, HistoryHash, WalSeq};
use crate::directory::LastRole;
use crate::engine::memory::{Memory, Type};
use crate::error::{Error, Result};
use crate::plain_name::{PLAIN_NAME_BYTES_MAX, PlainName};
use crate::position::Position;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;

/// Version of the manifest that this build writes and reads.
pub const MANIFEST_FORMAT: u32 = 4;

/// Largest size of an encoded manifest, in bytes: a single request creates the object. Enough for some 60 000 SSTs.
pub const MANIFEST_BYTES_MAX: usize = SINGLE_PUT_BYTES_MAX as usize;

/// Returns an error if an encoded manifest is too long to be stored or read; `advice` tells what to do.
pub(crate) fn require_storable(name: &ObjectName, manifest: &[u8], advice: &'static str) -> Result<()> {
    let (found, limit) = (manifest.len(), MANIFEST_BYTES_MAX);
    if found > limit {
        return Err(Error::OverLimit { what: format!("the manifest {name}"), found, limit, advice });
    }
    Ok(())
}

/// Number of digits of the content hash in a file's object name.
pub(crate) const HASH_DIGITS: usize = 16;

/// Longest file name in bytes: the object name appends a dash and [`HASH_DIGITS`] digits.
pub(crate) const NAME_BYTES_MAX: usize = PLAIN_NAME_BYTES_MAX - 1 - HASH_DIGITS;

/// The manifest of one base: a state of all engines.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// See [`MANIFEST_FORMAT`].
    pub format: u32,
    /// The cluster that the state belongs to.
    pub cluster: ClusterId,
    /// Epoch of the history that the base was cut from.
    pub epoch: Epoch,
    /// The later csn of the two cuts: the disk engines' csn where they are later, because they are cut last. With the
    /// completion applied, every engine is at this csn; without a completion, the keys in memory need the commits
    /// above `memory.csn`.
    pub csn: Csn,
    /// Commit time of `csn`.
    pub time: CommitTime,
    /// History hash after `csn`.
    pub hash: HistoryHash,
    /// How the positions of the engines relate to each other.
    pub level: Level,
    /// How the base was cut, and by which node.
    pub cut: CutRecord,
    /// The keys in memory.
    pub memory: MemoryPart,
    /// The disk engines.
    pub disk: DiskPart,
    /// Chunk files, in csn order, that carry exactly the commits above `memory.csn` up to `csn`, with memory ops only.
    /// Empty if the memory image is at `csn` already, or if the level is not strict.
    pub completion: Vec<FileRef>,
    /// Bytes of the base's files that the archive did not have before.
    pub bytes_new: u64,
    /// Bytes of the SSTs that an earlier base had uploaded.
    pub bytes_shared: u64,
    /// Milliseconds from the start of the cut, before RocksDB's flush, until the manifest was encoded.
    pub took_ms: u64,
}

/// How the engines' positions in a base relate to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Level {
    /// The completion brings every engine to exactly one csn.
    Strict,
    /// The engines are at different csns, with at most the allowed commit time between the cuts.
    Bounded,
    /// The engines are at different csns. The base needs repair: its completion does not exist yet.
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

/// How a base was cut, and by which node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CutRecord {
    /// The level that was requested. The manifest's level is strict whatever was requested if nothing was committed
    /// between the cuts, or once the base was repaired.
    pub asked: Level,
    /// Commits between the cuts.
    pub skew_commits: u64,
    /// Commit time between the cuts, in microseconds.
    pub skew_us: u64,
    /// The largest skew that was allowed, in microseconds; `None` unless the requested level is bounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_us: Option<u64>,
    /// Name of the node that cut the base.
    pub node: String,
    /// Role of that node at the time of the cut.
    pub role: LastRole,
}

/// The part of the keys in memory of a base.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryPart {
    /// The last commit in the image.
    pub csn: Csn,
    /// Commit time of `csn`.
    pub time: CommitTime,
    /// History hash after `csn`.
    pub hash: HistoryHash,
    /// Numbers of keys in all image files together.
    pub keys: TypeCounts,
    /// Number of fields, members and elements in all image files together; a string counts as one.
    pub elements: u64,
    /// Digest of the keys in all image files together, with their expiries and values.
    #[serde(with = "hex")]
    pub digest: blake3::Hash,
    /// Image files, each a complete image of a disjoint set of keys; never empty.
    pub files: Vec<FileRef>,
}

/// Numbers of keys, by type.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypeCounts {
    /// Number of strings.
    pub strings: u64,
    /// Number of hashes.
    pub hashes: u64,
    /// Number of sets.
    pub sets: u64,
    /// Number of lists.
    pub lists: u64,
    /// Number of sorted sets.
    pub zsets: u64,
}

impl TypeCounts {
    /// Returns the numbers of keys of an image's content.
    #[must_use]
    pub fn of(counts: &Counts) -> Self {
        let [strings, hashes, sets, lists, zsets] = counts.keys;
        Self { strings, hashes, sets, lists, zsets }
    }

    /// Returns the numbers of keys in memory.
    #[must_use]
    pub fn in_memory(memory: &Memory) -> Self {
        let [strings, hashes, sets, lists, zsets] = Type::ALL.map(|of| memory.len_of(of) as u64);
        Self { strings, hashes, sets, lists, zsets }
    }
}

/// The disk engines' part of a base: a RocksDB without WAL files.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskPart {
    /// The last commit in RocksDB, as its system key states. Below `memory.csn` if all later commits touched the
    /// keys in memory only.
    pub csn: Csn,
    /// Commit time of `csn`.
    pub time: CommitTime,
    /// Epoch that made the commit.
    pub epoch: Epoch,
    /// History hash after `csn`.
    pub hash: HistoryHash,
    /// RocksDB's last sequence number.
    pub wal_seq: WalSeq,
    /// Digest and counts of the SSTs' content.
    pub contents: DiskContents,
    /// All files of RocksDB's directory.
    pub files: Vec<DbFile>,
}

/// Digest and counts of the content of a base's SSTs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskContents {
    /// BLAKE3 of the sorted BLAKE3 hashes of all SSTs: equal for the same bytes in the same files. A digest of keys
    /// and values would need every SST to be read for each base, although few SSTs are new.
    #[serde(with = "hex")]
    pub digest: blake3::Hash,
    /// Contents of each column family.
    pub families: Vec<FamilyContents>,
}

/// Counts of the content of one column family's SSTs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FamilyContents {
    /// Name of the column family.
    pub name: String,
    /// Number of entries, older versions of a key and deletions included.
    pub entries: u64,
    /// Number of deletions among the entries.
    pub deletions: u64,
    /// Bytes of the SSTs.
    pub bytes: u64,
}

/// A file that belongs to this base alone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRef {
    /// Name within the base: plain, and unique among the files of the base.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 of the content.
    #[serde(with = "hex")]
    pub blake3: blake3::Hash,
}

/// A file of RocksDB's directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DbFile {
    /// Name in RocksDB's directory; the rules are those of [`FileRef::name`].
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 of the content.
    #[serde(with = "hex")]
    pub blake3: blake3::Hash,
    /// Whether the file is an SST. The archive stores an SST under its content hash for all bases, any other file
    /// under this base.
    pub shared: bool,
}

/// A hash as 64 lower-case hexadecimal digits.
pub(crate) mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(hash: &blake3::Hash, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hash.to_hex())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<blake3::Hash, D::Error> {
        blake3::Hash::from_hex(String::deserialize(from)?).map_err(D::Error::custom)
    }
}

impl FileRef {
    /// Returns the name of the object that holds the file.
    #[must_use]
    pub fn object(&self, base: BaseName) -> ObjectName {
        own_object(base, &self.name, self.blake3)
    }
}

impl DbFile {
    /// Returns the name of the object that holds the file.
    #[must_use]
    pub fn object(&self, base: BaseName) -> ObjectName {
        if self.shared { ObjectName::Sst(self.blake3) } else { own_object(base, &self.name, self.blake3) }
    }
}

/// Returns the object name of a file that belongs to one base. The name holds the beginning of the content hash: two
/// nodes may cut a base at the same csn at the same time, and neither may overwrite the files that the other's
/// manifest refers to.
fn own_object(base: BaseName, name: &str, content: blake3::Hash) -> ObjectName {
    let name = format!("{name}-{}", &content.to_hex()[..HASH_DIGITS]);
    ObjectName::BaseFile(base, name.parse().expect("a manifest has plain and short names only"))
}

impl Manifest {
    /// Returns the name of the base.
    #[must_use]
    pub fn base(&self) -> BaseName {
        BaseName { csn: self.csn, epoch: self.epoch }
    }

    /// Returns the base with the csn after which a restore from it needs chunks.
    #[must_use]
    pub fn start(&self) -> BaseStart {
        let after = if self.level == Level::Strict { self.csn } else { self.memory.csn };
        BaseStart { base: self.base(), after }
    }

    /// Returns the position at which a restore from this base continues; `epoch` is the epoch that made the commit
    /// there.
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

    /// Returns this base as a strict one, with the commits between its cuts in `completion`.
    #[must_use]
    pub fn completed(mut self, completion: Vec<FileRef>) -> Self {
        let bytes = completion.iter().map(|file| file.bytes).sum::<u64>();
        (self.level, self.completion) = (Level::Strict, completion);
        self.bytes_new += bytes;
        self
    }

    /// Returns the bytes of all files of the base.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let own = self.memory.files.iter().chain(&self.completion).map(|file| file.bytes);
        own.chain(self.disk.files.iter().map(|file| file.bytes)).sum()
    }

    /// Returns the number of files of the base.
    #[must_use]
    pub fn file_count(&self) -> u64 {
        (self.memory.files.len() + self.completion.len() + self.disk.files.len()) as u64
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
        digested::decode_consistent(bytes, what, MANIFEST_FORMAT, MANIFEST_BYTES_MAX, Self::fault)
    }

    /// Describes the first contradiction within the manifest; `None` if there is none.
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
            return Some(format!(
                "the base has the history hash {} at csn {}, but its part that was cut at this csn has another one",
                self.hash, self.csn
            ));
        }
        let is_newer = |(csn, time)| csn == self.csn && time > self.time;
        if is_newer((memory.csn, memory.time)) || is_newer((disk.csn, disk.time)) || disk.epoch > self.epoch {
            return Some("a part has a higher csn than the base".to_owned());
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
            .map(|name| format!("{name:?} is not a valid file name, or occurs twice"))
    }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
