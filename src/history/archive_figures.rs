//! What an archive holds, in few figures: for metrics.

use super::abandoned::Abandoned;
use super::line::History;
use super::times::Times;
use crate::archive::listing::Listing;
use crate::clock;
use crate::csn::{CommitTime, Csn};

/// What a listing showed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArchiveFigures {
    /// Objects, without the archive's small records.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// From here on every commit of the line can be restored, up to the archived watermark; none: nothing can be.
    pub from: Option<Csn>,
    /// Its time, if it could be read.
    pub from_time: Option<CommitTime>,
    /// When the archive was listed, by this machine's clock.
    pub listed: CommitTime,
    /// Commits that lie on no line that is followed.
    pub abandoned: Vec<Abandoned>,
}

impl ArchiveFigures {
    /// Counts what a history's listing shows.
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

/// Objects of a listing and their bytes.
fn count(listing: &Listing) -> (u64, u64) {
    let own = listing.bases.values().chain(listing.runs.values());
    let bases = own.flat_map(|own| own.manifest.iter().chain(own.cuts.values()).chain(own.files.values()));
    let all = bases.chain(listing.chunks.values()).chain(listing.ssts.values());
    all.fold((0, 0), |(objects, bytes), stored| (objects + 1, bytes + stored.size))
}
