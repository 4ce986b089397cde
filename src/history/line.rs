//! One line of history in an archive's listing: the input of plans, of catching up and of reports.

use super::reach::Reach;
use super::route::RouteCosts;
use crate::archive::identity;
use crate::archive::layout::{ObjectName, RunName};
use crate::archive::lineage::Lineage;
use crate::archive::listing::{BaseStart, Listing};
use crate::archive::store::Archive;
use crate::archive::thinned::Thinned;
use crate::chunk::ChunkHeader;
use crate::cluster::ClusterId;
use crate::compacted_run::RunManifest;
use crate::csn::{Csn, Epoch, HistoryHash};
use crate::error::{Error, Result};
use crate::snapshot::manifest::Manifest;
use bytes::Bytes;

/// An archive's listing and the line of history that is followed in it.
#[derive(Clone, Debug)]
pub struct History {
    /// The archive that holds the objects.
    pub archive: Archive,
    /// The cluster that owns the archive.
    pub cluster: ClusterId,
    /// The objects that existed at the time of the listing.
    pub listing: Listing,
    /// The line that is followed.
    pub lineage: Lineage,
    /// The costs by which plans choose their routes.
    pub costs: RouteCosts,
}

impl History {
    /// Lists the archive and follows the line of `epoch`, or of the newest epoch if `epoch` is `None`.
    pub async fn read(archive: &Archive, epoch: Option<Epoch>) -> Result<Self> {
        let cluster = identity::require(archive).await?;
        let listing = Listing::read(archive).await?;
        let lineage = match epoch {
            Some(epoch) => Lineage::of(&listing.epochs, epoch),
            None => Lineage::newest(&listing.epochs),
        };
        let lineage = lineage.ok_or_else(|| no_epoch(archive, &listing, epoch))?;
        Ok(Self { archive: archive.clone(), cluster, listing, lineage, costs: RouteCosts::DEFAULT })
    }

    /// Returns which commits can be restored if every base that has a manifest is usable.
    #[must_use]
    pub fn reach(&self) -> Reach {
        self.reach_of(|_| true)
    }

    /// Returns which commits can be restored with the usable bases of the line.
    #[must_use]
    pub fn reach_of(&self, is_usable: impl Fn(&BaseStart) -> bool) -> Reach {
        self.reach_with(is_usable, |_| true)
    }

    /// Returns which commits can be restored with the usable bases and the usable runs of the line.
    #[must_use]
    pub fn reach_with(
        &self,
        is_usable: impl Fn(&BaseStart) -> bool,
        is_run_usable: impl Fn(&RunName) -> bool,
    ) -> Reach {
        let starts = self.listing.base_starts().filter(|start| self.lineage.contains(start.base) && is_usable(start));
        Reach::with_runs(&self.listing, &self.lineage, starts, is_run_usable)
    }

    /// Returns the csn up to which pruning has thinned this line.
    pub async fn thinned_until(&self) -> Result<Csn> {
        Ok(Thinned::listed(&self.archive, &self.listing).await?.until(&self.lineage))
    }

    /// Reads a base's manifest.
    pub async fn manifest(&self, start: BaseStart) -> Result<Manifest> {
        read_manifest(&self.archive, self.cluster, start).await
    }

    /// Reads a run's manifest.
    pub async fn run_manifest(&self, run: RunName) -> Result<RunManifest> {
        read_run_manifest(&self.archive, self.cluster, run).await
    }
}

/// Returns the last commit of a line that chunks reach without a gap from the archive's first chunk on, and the history
/// hash after it. Returns `None` if the archive holds no such chunks.
pub async fn line_end(archive: &Archive, listing: &Listing, line: &Lineage) -> Result<Option<(Csn, HistoryHash)>> {
    let first = listing.chunks.keys().map(|chunk| chunk.first).min().unwrap_or_default();
    let coverage = line.cover(listing.chunks.keys().copied(), first.prev());
    let end = coverage.reachable(first.prev());
    let Some(part) = coverage.uses.iter().find(|part| part.use_until == end) else { return Ok(None) };
    if part.chunk.last != end {
        // The line leaves the chunk's epoch at this commit, so the record of the fork tells the hash.
        let fork = line.branches().iter().find(|branch| branch.from_exclusive == end);
        return Ok(fork.map(|branch| (end, branch.fork_hash)));
    }
    let name = ObjectName::Chunk(part.chunk);
    let header = archive.get_range(&name, 0..ChunkHeader::ENCODED_LEN as u64).await?;
    let header = header.ok_or_else(|| vanished(archive, &name))?;
    let header = ChunkHeader::decode(&header, &full_name(archive, &name))?;
    Ok(Some((end, header.hash_after)))
}

/// Reads a run's manifest and checks that it describes this run of this cluster.
pub(crate) async fn read_run_manifest(archive: &Archive, cluster: ClusterId, run: RunName) -> Result<RunManifest> {
    let name = ObjectName::RunManifest(run);
    let what = full_name(archive, &name);
    let decode = |bytes: Bytes| {
        let manifest = RunManifest::decode(&bytes, &what)?;
        if manifest.run() != run || manifest.cluster != cluster {
            let detail = format!("the manifest describes {} of cluster {}", manifest.run(), manifest.cluster);
            return Err(Error::corrupt(&what, "content", detail));
        }
        Ok(manifest)
    };
    archive.get_as(&name, decode).await?.ok_or_else(|| vanished(archive, &name))
}

/// Reads a base's manifest and checks that it describes this base of this cluster.
pub(crate) async fn read_manifest(archive: &Archive, cluster: ClusterId, start: BaseStart) -> Result<Manifest> {
    let name = start.manifest();
    let what = full_name(archive, &name);
    let decode = |bytes: Bytes| {
        let manifest = Manifest::decode(&bytes, &what)?;
        if manifest.start() != start || manifest.cluster != cluster {
            let (base, after) = (manifest.base(), manifest.start().after);
            let detail =
                format!("the manifest describes {base} with chunks after csn {after}, of cluster {}", manifest.cluster);
            return Err(Error::corrupt(&what, "content", detail));
        }
        Ok(manifest)
    };
    archive.get_as(&name, decode).await?.ok_or_else(|| vanished(archive, &name))
}

fn no_epoch(archive: &Archive, listing: &Listing, epoch: Option<Epoch>) -> Error {
    let known: Vec<String> = listing.epochs.records().map(|record| record.epoch.to_string()).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    match epoch {
        Some(epoch) => Error::Unreachable {
            target: format!("epoch {epoch}"),
            reason: format!("{} has no such epoch", archive.url()),
            nearest: format!("epochs {known}"),
        },
        None => Error::Unreachable {
            target: "latest".to_owned(),
            reason: format!("{} has no epoch: no primary has archived to it yet", archive.url()),
            nearest: "none".to_owned(),
        },
    }
}

/// Returns an object's full name, for messages.
pub(crate) fn full_name(archive: &Archive, name: &ObjectName) -> String {
    format!("{}/{name}", archive.url())
}

/// Builds the error for a listed object that does not exist when it is read.
pub(crate) fn vanished(archive: &Archive, name: &ObjectName) -> Error {
    Error::Vanished { what: full_name(archive, name) }
}

/// Reports whether an error means that the object itself is unusable, so that another object may replace it.
pub(crate) fn is_unusable(error: &Error) -> bool {
    matches!(error, Error::Corrupt { .. } | Error::Version { .. })
}
