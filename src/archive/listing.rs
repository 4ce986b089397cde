//! A listing of the archive, read once: the input of restore plans, `snapshots`, `verify`, `status` and retention.
//!
//! Guarantees: a listing costs one LIST, one GET for each epoch record, and one GET for the next epoch's record, which
//! detects a LIST answer that misses an epoch. Everything decided from a listing is a pure function (see
//! [`super::lineage`]). Base manifests are not read here. A base counts only if its manifest is there: either the
//! manifest of a whole base, or a manifest whose name gives the commit after which chunks are needed.

use super::epochs::EpochTree;
use super::layout::{BaseName, ChunkName, ObjectName, RunName, Section};
use super::store::{Archive, Found};
use crate::csn::{CommitTime, Csn};
use crate::error::Result;
use crate::plain_name::PlainName;
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;

/// Size and age of a listed object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Length in bytes.
    pub size: u64,
    /// Time at which the store received the object, by the store's clock.
    pub modified: DateTime<Utc>,
}

impl Stored {
    /// Returns the time at which the store received the object.
    #[must_use]
    pub fn time(&self) -> CommitTime {
        CommitTime(u64::try_from(self.modified.timestamp_micros()).unwrap_or_default())
    }
}

/// The objects of a base, except the shared SSTs; or the objects of a run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BaseObjects {
    /// The manifest. `None`: the base or run is being uploaded, or its upload or removal was cut off, and no restore
    /// may use it.
    pub manifest: Option<Stored>,
    /// Manifests for engines that were cut at different commits, by the csn after which a restore needs chunks.
    pub cuts: BTreeMap<Csn, Stored>,
    /// The other files of the base or run.
    pub files: BTreeMap<PlainName, Stored>,
}

/// A base from which a restore can start. Ordered by the base's csn.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BaseStart {
    /// The base. No engine in it is beyond its csn.
    pub base: BaseName,
    /// A restore needs the chunks after this commit: the base's csn, or a lower csn if the engines were cut at
    /// different commits.
    pub after: Csn,
}

impl BaseStart {
    /// Returns the start from a base with all engines at its csn.
    #[must_use]
    pub fn whole(base: BaseName) -> Self {
        Self { base, after: base.csn }
    }

    /// Reports whether all engines are at the base's csn.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.after == self.base.csn
    }

    /// Returns the name of the manifest that makes this start usable.
    #[must_use]
    pub fn manifest(&self) -> ObjectName {
        if self.is_whole() { ObjectName::BaseManifest(self.base) } else { ObjectName::BaseCuts(self.base, self.after) }
    }
}

/// Everything in an archive at one time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Listing {
    /// The epoch records.
    pub epochs: EpochTree,
    /// All chunks, by epoch and position.
    pub chunks: BTreeMap<ChunkName, Stored>,
    /// All bases, with or without a manifest, by csn.
    pub bases: BTreeMap<BaseName, BaseObjects>,
    /// All compacted runs, with or without a manifest, by first csn.
    pub runs: BTreeMap<RunName, BaseObjects>,
    /// Shared SSTs, by the hexadecimal hash of their content.
    pub ssts: BTreeMap<String, Stored>,
    /// Named restore points.
    pub marks: BTreeMap<PlainName, Stored>,
    /// Pins of readers and prunes.
    pub pins: BTreeMap<PlainName, Stored>,
    /// Records of how far pruning has thinned history, by number.
    pub thinned: BTreeMap<u32, Stored>,
    /// Number of objects under the prefix that are none of the archive's. They are never read and never removed.
    pub foreign: u64,
}

impl Listing {
    /// Lists the archive and reads its epoch records.
    pub async fn read(archive: &Archive) -> Result<Self> {
        let (found, epochs) = EpochTree::read_with(archive, Section::All).await?;
        Ok(Self { epochs, ..Self::from_found(found) })
    }

    /// Returns the listing without the objects that begin after `csn`: sufficient for a plan to `csn`, and faster.
    #[must_use]
    pub fn up_to(&self, csn: Csn) -> Self {
        let chunks = self.chunks.iter().filter(|(chunk, _)| chunk.first <= csn);
        let chunks = chunks.map(|(chunk, stored)| (*chunk, *stored)).collect();
        let bases = self.bases.iter().filter(|(base, _)| base.csn <= csn);
        let bases = bases.map(|(base, objects)| (*base, objects.clone())).collect();
        let runs = self.runs.iter().filter(|(run, _)| run.last <= csn);
        let runs = runs.map(|(run, objects)| (*run, objects.clone())).collect();
        Self { epochs: self.epochs.clone(), chunks, bases, runs, ..Self::default() }
    }

    fn from_found(found: Found) -> Self {
        let mut listing = Self { foreign: found.foreign, ..Self::default() };
        for object in found.objects {
            let stored = Stored { size: object.size, modified: object.modified };
            match object.name {
                ObjectName::Identity | ObjectName::Epoch(_) | ObjectName::Start(..) => {}
                ObjectName::Chunk(chunk) => {
                    listing.chunks.insert(chunk, stored);
                }
                ObjectName::BaseManifest(base) => {
                    listing.bases.entry(base).or_default().manifest = Some(stored);
                }
                ObjectName::BaseCuts(base, after) => {
                    listing.bases.entry(base).or_default().cuts.insert(after, stored);
                }
                ObjectName::BaseFile(base, file) => {
                    listing.bases.entry(base).or_default().files.insert(file, stored);
                }
                ObjectName::RunManifest(run) => {
                    listing.runs.entry(run).or_default().manifest = Some(stored);
                }
                ObjectName::RunFile(run, file) => {
                    listing.runs.entry(run).or_default().files.insert(file, stored);
                }
                ObjectName::Sst(hash) => {
                    listing.ssts.insert(hash.to_hex().to_string(), stored);
                }
                ObjectName::Mark(mark) => {
                    listing.marks.insert(mark, stored);
                }
                ObjectName::Pin(pin) => {
                    listing.pins.insert(pin, stored);
                }
                ObjectName::Thinned(number) => {
                    listing.thinned.insert(number, stored);
                }
            }
        }
        listing
    }

    /// Returns the length and age of an object; `None` if the object is not there, or is the identity, an epoch record
    /// or a start, which a listing does not keep.
    #[must_use]
    pub fn stored(&self, object: &ObjectName) -> Option<&Stored> {
        match object {
            ObjectName::Identity | ObjectName::Epoch(_) | ObjectName::Start(..) => None,
            ObjectName::Chunk(chunk) => self.chunks.get(chunk),
            ObjectName::BaseManifest(base) => self.bases.get(base)?.manifest.as_ref(),
            ObjectName::BaseCuts(base, after) => self.bases.get(base)?.cuts.get(after),
            ObjectName::BaseFile(base, file) => self.bases.get(base)?.files.get(file),
            ObjectName::RunManifest(run) => self.runs.get(run)?.manifest.as_ref(),
            ObjectName::RunFile(run, file) => self.runs.get(run)?.files.get(file),
            ObjectName::Sst(hash) => self.ssts.get(hash.to_hex().as_str()),
            ObjectName::Mark(mark) => self.marks.get(mark),
            ObjectName::Pin(pin) => self.pins.get(pin),
            ObjectName::Thinned(number) => self.thinned.get(number),
        }
    }

    /// Returns the starts of restores, by csn. Of one base, the start that needs the fewest chunks comes last.
    pub fn base_starts(&self) -> impl DoubleEndedIterator<Item = BaseStart> {
        self.bases.iter().flat_map(|(&base, objects)| {
            let whole = objects.manifest.iter().map(move |_| BaseStart::whole(base));
            objects.cuts.keys().map(move |&after| BaseStart { base, after }).chain(whole)
        })
    }

    /// Returns the bases that can be restored without chunks, by csn.
    pub fn whole_bases(&self) -> impl DoubleEndedIterator<Item = BaseName> {
        self.bases.iter().filter(|(_, objects)| objects.manifest.is_some()).map(|(base, _)| *base)
    }

    /// Returns the runs that a restore can use, by first csn.
    pub fn whole_runs(&self) -> impl DoubleEndedIterator<Item = RunName> {
        self.runs.iter().filter(|(_, objects)| objects.manifest.is_some()).map(|(run, _)| *run)
    }
}
