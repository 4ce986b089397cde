//! The names of the archive's objects. Only this file formats and parses them.
//!
//! Guarantees: `parse` accepts exactly what `Display` writes, so one object has one name; positions in names have a
//! fixed width, so that a listing is in csn order. Every other object under the prefix is foreign and is left alone.

use crate::csn::{Csn, Epoch};
use crate::plain_name::PlainName;
use serde::Serializer;
use std::fmt;

const MANIFEST: &str = "manifest.json";
const CUTS_BEGIN: &str = "manifest-after-";

/// Name of a chunk: the writer's epoch and the csns of the chunk, both ends included. Ordered by epoch, then by
/// position.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChunkName {
    /// Epoch of the writer that uploaded the chunk.
    pub epoch: Epoch,
    /// First csn in the chunk, at least 1.
    pub first: Csn,
    /// Last csn in the chunk, at least `first`.
    pub last: Csn,
}

/// Name of a base: the csn of its state and the epoch of its writer. Ordered by csn.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BaseName {
    /// The csn up to which the base is complete.
    pub csn: Csn,
    /// Epoch of the history from which the base was cut.
    pub epoch: Epoch,
}

/// Name of a compacted run: the csns whose net change the run holds, both ends included, and the epoch on whose line
/// these csns lie. Ordered by first csn.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RunName {
    /// First csn in the run, at least 1.
    pub first: Csn,
    /// Last csn in the run, at least `first`.
    pub last: Csn,
    /// Epoch that made the run's last commit. Ancestors of this epoch may have made the earlier commits.
    pub epoch: Epoch,
}

/// Name of one object below the archive's prefix.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ObjectName {
    /// Format and cluster ID; create-only.
    Identity,
    /// Record of an epoch; create-only. This object is the fence.
    Epoch(Epoch),
    /// The n-th start of an epoch's writer, counted from 1; create-only, so that only one process writes.
    Start(Epoch, u32),
    /// A chunk.
    Chunk(ChunkName),
    /// Manifest of a base: without it the base does not count. Written last, deleted first.
    BaseManifest(BaseName),
    /// Manifest of a base whose engines were cut at different commits: a restore also needs the chunks after this csn,
    /// which is below the base's csn. A [`ObjectName::BaseManifest`] supersedes it.
    BaseCuts(BaseName, Csn),
    /// Another file of a base.
    BaseFile(BaseName, PlainName),
    /// An SST shared by bases, named by the BLAKE3 hash of its content.
    Sst(blake3::Hash),
    /// Manifest of a run: without it the run does not count. Written last, deleted first.
    RunManifest(RunName),
    /// Another file of a run.
    RunFile(RunName, PlainName),
    /// A named restore point.
    Mark(PlainName),
    /// A pin of a reader or of a prune, which holds for a limited time.
    Pin(PlainName),
    /// Record of how far pruning has thinned history; create-only. The record with the highest number counts.
    Thinned(u32),
}

impl fmt::Display for ChunkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chunks/{}/{}-{}.chunk", self.epoch.padded(), self.first.padded(), self.last.padded())
    }
}

impl fmt::Display for BaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bases/{}-{}", self.csn.padded(), self.epoch.padded())
    }
}

impl fmt::Display for RunName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "runs/{}-{}-{}", self.first.padded(), self.last.padded(), self.epoch.padded())
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => f.write_str("walferry.json"),
            Self::Epoch(epoch) => write!(f, "epochs/{}.json", epoch.padded()),
            Self::Start(epoch, number) => write!(f, "epochs/{}/{number:08}.json", epoch.padded()),
            Self::Chunk(chunk) => chunk.fmt(f),
            Self::BaseManifest(base) => write!(f, "{base}/{MANIFEST}"),
            Self::BaseCuts(base, after) => write!(f, "{base}/{CUTS_BEGIN}{}.json", after.padded()),
            Self::BaseFile(base, file) => write!(f, "{base}/{file}"),
            Self::Sst(hash) => write!(f, "sst/{}.sst", hash.to_hex()),
            Self::RunManifest(run) => write!(f, "{run}/{MANIFEST}"),
            Self::RunFile(run, file) => write!(f, "{run}/{file}"),
            Self::Mark(name) => write!(f, "marks/{name}.json"),
            Self::Pin(name) => write!(f, "pins/{name}.json"),
            Self::Thinned(number) => write!(f, "thinned/{number:08}.json"),
        }
    }
}

impl ObjectName {
    /// Parses a name below the prefix; returns `None` for a foreign object.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let name = match text.split_once('/') {
            None => Self::Identity,
            Some(("epochs", rest)) => {
                let rest = rest.strip_suffix(".json")?;
                match rest.split_once('/') {
                    Some((epoch, number)) => Self::Start(Epoch(epoch.parse().ok()?), number.parse().ok()?),
                    None => Self::Epoch(Epoch(rest.parse().ok()?)),
                }
            }
            Some(("chunks", rest)) => {
                let (epoch, range) = rest.split_once('/')?;
                let (first, last) = range.strip_suffix(".chunk")?.split_once('-')?;
                let (first, last) = (Csn(first.parse().ok()?), Csn(last.parse().ok()?));
                if first == Csn::ZERO || last < first {
                    return None;
                }
                Self::Chunk(ChunkName { epoch: Epoch(epoch.parse().ok()?), first, last })
            }
            Some(("bases", rest)) => {
                let (base, file) = rest.split_once('/')?;
                let (csn, epoch) = base.split_once('-')?;
                let base = BaseName { csn: Csn(csn.parse().ok()?), epoch: Epoch(epoch.parse().ok()?) };
                match file.strip_prefix(CUTS_BEGIN).and_then(|rest| rest.strip_suffix(".json")) {
                    Some(after) => {
                        let after = Csn(after.parse().ok()?);
                        (after < base.csn).then_some(Self::BaseCuts(base, after))?
                    }
                    None if file == MANIFEST => Self::BaseManifest(base),
                    None => Self::BaseFile(base, file.parse().ok()?),
                }
            }
            Some(("sst", rest)) => Self::Sst(blake3::Hash::from_hex(rest.strip_suffix(".sst")?).ok()?),
            Some(("runs", rest)) => {
                let (run, file) = rest.split_once('/')?;
                let (first, rest) = run.split_once('-')?;
                let (last, epoch) = rest.split_once('-')?;
                let (first, last) = (Csn(first.parse().ok()?), Csn(last.parse().ok()?));
                if first == Csn::ZERO || last < first {
                    return None;
                }
                let run = RunName { first, last, epoch: Epoch(epoch.parse().ok()?) };
                if file == MANIFEST { Self::RunManifest(run) } else { Self::RunFile(run, file.parse().ok()?) }
            }
            Some(("marks", rest)) => Self::Mark(rest.strip_suffix(".json")?.parse().ok()?),
            Some(("pins", rest)) => Self::Pin(rest.strip_suffix(".json")?.parse().ok()?),
            Some(("thinned", rest)) => Self::Thinned(rest.strip_suffix(".json")?.parse().ok()?),
            Some(_) => return None,
        };
        // Another spelling of a name (other width, a sign, upper case) would name another object.
        (name.to_string() == text).then_some(name)
    }
}

/// A part of the archive that can be listed on its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Section {
    /// Every object under the prefix.
    All,
    /// Epoch records and the starts of their writers.
    Epochs,
    /// One epoch's chunks.
    Chunks(Epoch),
    /// Manifests and other files of bases.
    Bases,
    /// Shared SSTs.
    Ssts,
    /// Manifests and other files of runs.
    Runs,
    /// Named restore points.
    Marks,
    /// Pins.
    Pins,
    /// Records of how far pruning has thinned history.
    Thinned,
}

impl Section {
    /// Returns the section's directory, without slashes at either end; empty for [`Section::All`].
    #[must_use]
    pub fn directory(self) -> String {
        match self {
            Self::All => String::new(),
            Self::Epochs => "epochs".to_owned(),
            Self::Chunks(epoch) => format!("chunks/{}", epoch.padded()),
            Self::Bases => "bases".to_owned(),
            Self::Ssts => "sst".to_owned(),
            Self::Runs => "runs".to_owned(),
            Self::Marks => "marks".to_owned(),
            Self::Pins => "pins".to_owned(),
            Self::Thinned => "thinned".to_owned(),
        }
    }
}

/// Serializes a name in its text form.
pub(crate) fn as_text<T: fmt::Display, S: Serializer>(name: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunk(epoch: u32, first: u64, last: u64) -> ObjectName {
        ObjectName::Chunk(ChunkName { epoch: Epoch(epoch), first: Csn(first), last: Csn(last) })
    }

    #[test]
    fn names_are_the_documented_ones() {
        let base = BaseName { csn: Csn(42), epoch: Epoch(3) };
        let hash = blake3::hash(b"x");
        let plain = |text: &str| text.parse::<PlainName>().expect("plain");
        for (name, text) in [
            (ObjectName::Identity, "walferry.json".to_owned()),
            (ObjectName::Epoch(Epoch(3)), "epochs/00000003.json".to_owned()),
            (ObjectName::Start(Epoch(3), 2), "epochs/00000003/00000002.json".to_owned()),
            (chunk(3, 7, 12), "chunks/00000003/00000000000000000007-00000000000000000012.chunk".to_owned()),
            (ObjectName::BaseManifest(base), "bases/00000000000000000042-00000003/manifest.json".to_owned()),
            (
                ObjectName::BaseCuts(base, Csn(40)),
                "bases/00000000000000000042-00000003/manifest-after-00000000000000000040.json".to_owned(),
            ),
            (
                ObjectName::BaseFile(base, plain("memory-0.img")),
                "bases/00000000000000000042-00000003/memory-0.img".to_owned(),
            ),
            (ObjectName::Sst(hash), format!("sst/{hash}.sst")),
            (
                ObjectName::RunManifest(RunName { first: Csn(7), last: Csn(42), epoch: Epoch(3) }),
                "runs/00000000000000000007-00000000000000000042-00000003/manifest.json".to_owned(),
            ),
            (
                ObjectName::RunFile(RunName { first: Csn(7), last: Csn(42), epoch: Epoch(3) }, plain("sub-000000.sst")),
                "runs/00000000000000000007-00000000000000000042-00000003/sub-000000.sst".to_owned(),
            ),
            (ObjectName::Mark(plain("before-upgrade")), "marks/before-upgrade.json".to_owned()),
            (ObjectName::Pin(plain("restore-7")), "pins/restore-7.json".to_owned()),
            (ObjectName::Thinned(12), "thinned/00000012.json".to_owned()),
        ] {
            assert_eq!(name.to_string(), text);
            assert_eq!(ObjectName::parse(&text), Some(name));
        }
    }

    #[test]
    fn foreign_names_are_not_taken_for_ours() {
        for text in [
            "",
            "readme.txt",
            "epochs/3.json",
            "epochs/+0000003.json",
            "epochs/00000003.json.tmp",
            "epochs/00000003/2.json",
            "epochs/00000003/00000002/x.json",
            "chunks/00000001/00000000000000000000-00000000000000000012.chunk",
            "chunks/00000001/00000000000000000013-00000000000000000012.chunk",
            "chunks/00000001/7-12.chunk",
            "chunks/1/00000000000000000007-00000000000000000012.chunk",
            "chunks/00000001/x/00000000000000000007-00000000000000000012.chunk",
            "bases/00000000000000000042-00000003/",
            "bases/00000000000000000042-00000003/a/b",
            "bases/00000000000000000042-00000003/.hidden",
            "bases/00000000000000000042-00000003/manifest-after-40.json",
            "bases/00000000000000000042-00000003/manifest-after-00000000000000000042.json",
            "sst/ABCD.sst",
            "runs/00000000000000000043-00000000000000000042-00000003/manifest.json",
            "runs/00000000000000000000-00000000000000000042-00000003/manifest.json",
            "runs/00000000000000000007-00000000000000000042/manifest.json",
            "runs/7-42-3/manifest.json",
            "marks/.json",
            "marks/a/b.json",
            "other/x",
        ] {
            assert_eq!(ObjectName::parse(text), None, "{text}");
        }
        let upper = format!("sst/{}.sst", blake3::hash(b"x").to_hex().to_uppercase());
        assert_eq!(ObjectName::parse(&upper), None);
    }

    proptest! {
        #[test]
        fn any_text_either_is_a_name_or_is_foreign(text in "\\PC{0,80}") {
            if let Some(name) = ObjectName::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn chunk_names_survive(epoch: u32, a in 1..u64::MAX, b in 1..u64::MAX) {
            let name = chunk(epoch, a.min(b), a.max(b));
            prop_assert_eq!(ObjectName::parse(&name.to_string()), Some(name));
        }
    }
}
