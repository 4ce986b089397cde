//! The manifest of a base: what makes the files of a base one state, and what each of them must be.
//!
//! Guarantees: a decoded manifest is the one that was encoded, to the bit (a BLAKE3 digest of its canonical JSON stands
//! in it), its positions fit together, and every file name in it is plain: safe as an object name and as a path.
//! Does not: read or write files; see `base` and `publish`.

use crate::archive::layout::{BaseName, ObjectName, PLAIN_NAME_BYTES_MAX, PlainName};
use crate::archive::put::SINGLE_PUT_BYTES_MAX;
use crate::cluster::ClusterId;
use crate::csn::{CommitTime, Csn, Epoch, WalSeq};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashSet;

/// Version of the manifest that this build writes, and the newest it reads.
pub const MANIFEST_FORMAT: u32 = 1;

/// The largest manifest: it is created by a single request. Enough for some 60 000 SSTs.
pub const MANIFEST_BYTES_MAX: usize = SINGLE_PUT_BYTES_MAX as usize;

/// Digits of its content hash in the object name of a file.
pub(super) const HASH_DIGITS: usize = 16;

/// Longest file name: the object name adds a dash and digits.
pub(super) const NAME_BYTES_MAX: usize = PLAIN_NAME_BYTES_MAX - 1 - HASH_DIGITS;

/// Field that holds the digest of all others.
pub(super) const DIGEST: &str = "digest";

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
    /// The csn every engine is at once the completion is applied: the later one of the two cuts.
    pub csn: Csn,
    /// Commit time of `csn`.
    pub time: CommitTime,
    /// How the engines' positions relate.
    pub level: Level,
    /// The memory engines.
    pub memory: MemoryPart,
    /// The disk engines.
    pub disk: DiskPart,
    /// Chunk files, in csn order, that carry exactly the commits above `memory.csn` up to `csn` with their memory ops
    /// only. Empty if the memory image is at `csn` already.
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
}

/// The memory engines' part of a base.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryPart {
    /// The last commit in the image.
    pub csn: Csn,
    /// Its commit time.
    pub time: CommitTime,
    /// Number of lists.
    pub lists: u64,
    /// Number of sorted sets.
    pub zsets: u64,
    /// Image files; never empty.
    pub files: Vec<FileRef>,
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
    /// RocksDB's last sequence.
    pub wal_seq: WalSeq,
    /// All files of RocksDB's directory.
    pub files: Vec<DbFile>,
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
        let fault = self.fault();
        assert!(fault.is_none(), "a manifest must be consistent: {fault:?}");
        let mut fields = serde_json::to_value(self).expect("a manifest is plain data");
        let digest = digest(&fields);
        fields.as_object_mut().expect("a struct").insert(DIGEST.to_owned(), digest.into());
        let mut text = serde_json::to_vec_pretty(&fields).expect("a manifest is plain data");
        text.push(b'\n');
        text
    }

    /// Reads the stored form; `what` names it in errors.
    pub fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        let corrupt = |detail: String| Error::corrupt(what, "content", detail);
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(corrupt(format!("{} bytes; a manifest has at most {MANIFEST_BYTES_MAX}", bytes.len())));
        }
        let mut fields: Value = serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
        let object = fields.as_object_mut().ok_or_else(|| corrupt("not a JSON object".to_owned()))?;
        let format = object.get("format").and_then(Value::as_u64).ok_or_else(|| corrupt("no format".to_owned()))?;
        if format > u64::from(MANIFEST_FORMAT) {
            let found = u32::try_from(format).unwrap_or(u32::MAX);
            return Err(Error::Version { what: what.to_owned(), found, known: MANIFEST_FORMAT });
        }
        let told = object.remove(DIGEST).unwrap_or_default();
        let found = digest(&fields);
        if told.as_str() != Some(&found) {
            return Err(corrupt(format!("the digest is {found}, the manifest says {told}")));
        }
        let manifest: Self = serde_json::from_value(fields).map_err(|error| corrupt(error.to_string()))?;
        manifest.fault().map_or(Ok(manifest), |fault| Err(corrupt(fault)))
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
        if memory.time > self.time || disk.time > self.time || disk.epoch > self.epoch {
            return Some("a part is newer than the whole".to_owned());
        }
        if self.completion.is_empty() != (memory.csn == self.csn) {
            let files = self.completion.len();
            return Some(format!("{files} completion files from csn {} to csn {}", memory.csn, self.csn));
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

/// BLAKE3 of the fields as compact JSON with sorted keys.
pub(super) fn digest(fields: &Value) -> String {
    blake3::hash(&serde_json::to_vec(fields).expect("a value is plain data")).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(name: &str) -> FileRef {
        FileRef { name: name.to_owned(), bytes: 7, blake3: blake3::hash(name.as_bytes()) }
    }

    fn sample() -> Manifest {
        let db = |name: &str, shared| DbFile { name: name.to_owned(), bytes: 9, blake3: blake3::hash(b"x"), shared };
        Manifest {
            format: MANIFEST_FORMAT,
            cluster: ClusterId([7; 16]),
            epoch: Epoch(3),
            csn: Csn(42),
            time: CommitTime(1_790_000_000_123_456),
            level: Level::Strict,
            memory: MemoryPart {
                csn: Csn(40),
                time: CommitTime(1_790_000_000_000_000),
                lists: 2,
                zsets: 1,
                files: vec![file("memory.image")],
            },
            disk: DiskPart {
                csn: Csn(42),
                time: CommitTime(1_790_000_000_123_456),
                epoch: Epoch(3),
                wal_seq: WalSeq(u64::MAX),
                files: vec![db("000012.sst", true), db("CURRENT", false)],
            },
            completion: vec![file("41-42.chunk")],
            bytes_new: 32,
            bytes_shared: 0,
            took_ms: 5,
        }
    }

    #[test]
    fn a_manifest_survives_and_any_flipped_bit_is_found() {
        let bytes = sample().encode();
        assert_eq!(Manifest::decode(&bytes, "m").unwrap(), sample());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // Only the line feed behind the object is no part of it.
            if bit / 8 + 1 < bytes.len() {
                assert!(Manifest::decode(&flipped, "m").is_err(), "bit {bit}");
            }
        }
        for end in 0..bytes.len() - 1 {
            assert!(Manifest::decode(&bytes[..end], "m").is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let text = String::from_utf8(sample().encode()).unwrap().replace("\"format\": 1", "\"format\": 2");
        let error = Manifest::decode(text.as_bytes(), "m").unwrap_err();
        assert!(matches!(error, Error::Version { found: 2, known: MANIFEST_FORMAT, .. }), "{error}");
    }

    #[test]
    fn a_manifest_that_contradicts_itself_is_refused() {
        let changes: [fn(&mut Manifest); 7] = [
            |m| m.csn = Csn(43),
            |m| m.completion.clear(),
            |m| m.memory.csn = Csn(42),
            |m| m.memory.files.clear(),
            |m| m.disk.files[0].name = "../evil.sst".to_owned(),
            |m| m.disk.files[1].name = "memory.image".to_owned(),
            |m| m.disk.files[1].shared = true,
        ];
        for change in changes {
            let mut manifest = sample();
            change(&mut manifest);
            let mut fields = serde_json::to_value(&manifest).unwrap();
            let digest = digest(&fields);
            fields.as_object_mut().unwrap().insert(DIGEST.to_owned(), digest.into());
            let error = Manifest::decode(&serde_json::to_vec(&fields).unwrap(), "m").unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        }
    }

    #[test]
    fn files_are_found_under_their_objects() {
        let manifest = sample();
        let name = |object: ObjectName| object.to_string();
        let dir = "bases/00000000000000000042-00000003";
        let hash = blake3::hash(b"memory.image").to_hex();
        let image = format!("{dir}/memory.image-{}", &hash[..16]);
        assert_eq!(name(manifest.memory.files[0].object(manifest.base())), image);
        let hash = blake3::hash(b"x");
        let current = format!("{dir}/CURRENT-{}", &hash.to_hex()[..16]);
        assert_eq!(name(manifest.disk.files[1].object(manifest.base())), current);
        assert_eq!(name(manifest.disk.files[0].object(manifest.base())), format!("sst/{hash}.sst"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_an_error(bytes: Vec<u8>) {
            prop_assert!(Manifest::decode(&bytes, "m").is_err());
        }
    }
}
