//! What the archive holds, read once: the material of restore plans, `snapshots`, `verify`, `status` and retention.
//!
//! Guarantees: one LIST plus one GET for each epoch record; everything decided from it is a pure function (see
//! [`super::lineage`]). Base manifests are not read here. A base counts only if its manifest is there.

use super::epochs::EpochTree;
use super::layout::{BaseName, ChunkName, ObjectName, PlainName, RunName, Section};
use super::store::{Archive, Found};
use crate::csn::Epoch;
use crate::error::Result;
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;

/// Size and age of an object whose name says the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Length in bytes.
    pub size: u64,
    /// When the store received it, by the store's clock.
    pub modified: DateTime<Utc>,
}

/// A base's objects, the shared SSTs excepted; or a run's.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BaseObjects {
    /// The manifest. None: it is being uploaded, or its upload or removal was cut off; not to be restored from.
    pub manifest: Option<Stored>,
    /// The files beside it.
    pub files: BTreeMap<PlainName, Stored>,
}

/// Everything in an archive at one time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Listing {
    /// The epoch records.
    pub epochs: EpochTree,
    /// All chunks, by epoch and position.
    pub chunks: BTreeMap<ChunkName, Stored>,
    /// All bases, whole or not, by csn.
    pub bases: BTreeMap<BaseName, BaseObjects>,
    /// All compacted runs, whole or not, by first csn.
    pub runs: BTreeMap<RunName, BaseObjects>,
    /// Shared SSTs, by the hexadecimal hash of their content.
    pub ssts: BTreeMap<String, Stored>,
    /// Named restore points.
    pub marks: BTreeMap<PlainName, Stored>,
    /// Objects under the prefix that are none of the archive's; never read, never removed.
    pub foreign: u64,
}

impl Listing {
    /// Reads the archive's names and epoch records.
    pub async fn read(archive: &Archive) -> Result<Self> {
        let found = archive.list(Section::All).await?;
        let epochs: Vec<Epoch> = found
            .objects
            .iter()
            .filter_map(|object| if let ObjectName::Epoch(epoch) = object.name { Some(epoch) } else { None })
            .collect();
        let epochs = EpochTree::read_these(archive, epochs.into_iter()).await?;
        Ok(Self { epochs, ..Self::from_found(found) })
    }

    fn from_found(found: Found) -> Self {
        let mut listing = Self { foreign: found.foreign, ..Self::default() };
        for object in found.objects {
            let stored = Stored { size: object.size, modified: object.modified };
            match object.name {
                ObjectName::Identity | ObjectName::Epoch(_) => {}
                ObjectName::Chunk(chunk) => {
                    listing.chunks.insert(chunk, stored);
                }
                ObjectName::BaseManifest(base) => {
                    listing.bases.entry(base).or_default().manifest = Some(stored);
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
            }
        }
        listing
    }

    /// The bases that can be restored from, by csn.
    pub fn whole_bases(&self) -> impl DoubleEndedIterator<Item = BaseName> {
        self.bases.iter().filter(|(_, objects)| objects.manifest.is_some()).map(|(base, _)| *base)
    }

    /// The runs that can be restored with, by first csn.
    pub fn whole_runs(&self) -> impl DoubleEndedIterator<Item = RunName> {
        self.runs.iter().filter(|(_, objects)| objects.manifest.is_some()).map(|(run, _)| *run)
    }
}
