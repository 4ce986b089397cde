//! The content of an archive in few figures, for metrics.

use super::abandoned::Abandoned;
use super::line::History;
use super::times::Times;
use crate::archive::listing::Listing;
use crate::clock;
use crate::csn::{CommitTime, Csn};

/// The figures of one listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArchiveFigures {
    /// Number of objects, without the archive's small records.
    pub objects: u64,
    /// Bytes of these objects.
    pub bytes: u64,
    /// First commit of the newest restorable range: every commit of the line from here up to the archived watermark can
    /// be restored. `None` if no commit can be restored.
    pub from: Option<Csn>,
    /// Commit time of `from`; `None` if no small read tells it.
    pub from_time: Option<CommitTime>,
    /// When the archive was listed, by this machine's clock.
    pub listed: CommitTime,
    /// Abandoned commits: archived commits that do not lie on the newest line.
    pub abandoned: Vec<Abandoned>,
}

impl ArchiveFigures {
    /// Computes the figures of a history's listing.
    pub async fn of(history: &History) -> Self {
        let from = history.reach().ranges.last().map(|range| range.from);
        let from_time = match from {
            Some(from) => Times::of(history).time_of(from).await,
            None => None,
        };
        let (objects, bytes) = count(&history.listing);
        let abandoned = Abandoned::all(&history.listing);
        for left in &abandoned {
            tracing::warn!(%left, "the archive holds commits that lie on no line of history");
        }
        Self { objects, bytes, from, from_time, listed: CommitTime(clock::now_micros()), abandoned }
    }
}

/// Returns the number of objects of a listing and their bytes.
fn count(listing: &Listing) -> (u64, u64) {
    let own = listing.bases.values().chain(listing.runs.values());
    let bases = own.flat_map(|own| own.manifest.iter().chain(own.cuts.values()).chain(own.files.values()));
    let all = bases.chain(listing.chunks.values()).chain(listing.ssts.values());
    all.fold((0, 0), |(objects, bytes), stored| (objects + 1, bytes + stored.size))
}
