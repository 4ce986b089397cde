//! The archive's part of this node's line of history: finds its commits, and fetches those that this node lacks.
//!
//! Guarantees: commits are fetched only if the archive's writer cannot have reported later ones as archived that lie
//! behind a gap.

use crate::archive::lineage::Lineage;
use crate::archive::listing::{BaseStart, Listing};
use crate::archive::store::Archive;
use crate::archive::thinned::Thinned;
use crate::commit::committer::Committer;
use crate::csn::{Csn, Epoch};
use crate::error::{Error, Result};
use crate::history::catch_up::CatchUp;
use crate::history::reach::Reach;
use crate::history::torn::drop_torn;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Returns, ascending, the csns at which stretches end that the archive holds without a gap: the stretch from the first
/// commit on, and the stretches from each base or compacted run on. Omits an end from which a run leads on, because the
/// run replaces the following chunks, and an end in the thinned range, because pruned commits are not archived again.
/// The last end is always included, so the result is never empty.
pub(super) async fn archived_stretches(archive: &Archive, listing: &Listing, lineage: &Lineage) -> Result<Vec<Csn>> {
    let bases: Vec<BaseStart> = listing.base_starts().filter(|start| lineage.contains(start.base)).collect();
    let starts: BTreeSet<(Csn, Csn)> =
        bases.iter().map(|start| (start.after, start.base.csn)).chain([<_>::default()]).collect();
    let by_chunks = starts.into_iter().map(|(after, csn)| (csn, archived_contiguously(listing, lineage, after)));
    // A base with two cuts is usable only with the chunks between them.
    let by_chunks = by_chunks.filter(|(csn, end)| end >= csn).map(|(_, end)| end);
    let reach = Reach::of(listing, lineage, bases.iter().copied());
    let ends: BTreeSet<Csn> = by_chunks.chain(reach.ranges.iter().map(|range| range.until)).collect();
    let run_leads_on =
        |end: &Csn| listing.whole_runs().any(|run| run.first.prev() == *end && lineage.contains_run(run));
    let thinned = Thinned::listed(archive, listing).await?.until(lineage);
    let last = ends.last().copied();
    let is_owed = |end: &Csn| (*end >= thinned && !run_leads_on(end)) || Some(*end) == last;
    Ok(ends.into_iter().filter(is_owed).collect())
}

/// Lists the archive and returns the listing without torn chunks, and the line of `epoch`, which this node has claimed.
pub(super) async fn read_listing(archive: &Archive, epoch: Epoch) -> Result<(Listing, Lineage)> {
    let mut listing = Listing::read(archive).await?;
    let lineage = Lineage::of(&listing.epochs, epoch).ok_or_else(|| Error::StoreContract {
        url: archive.url().to_owned(),
        detail: format!(
            "does not list epoch {epoch}, which this node has claimed: its listings are stale. Try again later"
        ),
    })?;
    drop_torn(archive, &mut listing, &lineage).await?;
    Ok((listing, lineage))
}

/// Returns the last commit of this line of history that a listing can restore.
pub(super) async fn archived_until(archive: &Archive, listing: &Listing, lineage: &Lineage) -> Result<Csn> {
    let stretches = archived_stretches(archive, listing, lineage).await?;
    Ok(stretches.last().copied().expect("the first commit has an epoch"))
}

/// Returns the last commit of `lineage` that chunks reach from `after` without a gap.
fn archived_contiguously(listing: &Listing, lineage: &Lineage, after: Csn) -> Csn {
    lineage.cover(listing.chunks.keys().copied(), after).reachable(after)
}

/// Returns the end of an archived stretch behind a gap above `until`, if its writer may have reported the stretch as
/// archived: it begins with a base, and chunks follow the base. A base alone, or a chunk whose predecessors were still
/// being uploaded, was never reported as archived.
fn archived_behind_a_gap(listing: &Listing, lineage: &Lineage, until: Csn) -> Option<Csn> {
    let bases = listing.base_starts().filter(|start| start.base.csn > until && lineage.contains(start.base));
    let ends = bases.map(|start| (start.base.csn, archived_contiguously(listing, lineage, start.after)));
    ends.filter(|(base, end)| end > base).map(|(_, end)| end).max()
}

/// Applies the commits that the archive holds on `lineage` without a gap after the committer's last commit; returns the
/// last one's csn. Returns [`Error::Gap`] if the archive's writer may have reported commits behind a gap as archived,
/// and [`Error::OtherHistory`] if the archive's commits do not continue the committer's history.
pub(super) async fn fetch_tail(
    archive: &Archive,
    listing: &Listing,
    lineage: &Lineage,
    committer: &Arc<Committer>,
) -> Result<Csn> {
    let position = committer.position();
    let tail = CatchUp::contiguous(archive, listing, lineage, position);
    if let Some(end) = archived_behind_a_gap(listing, lineage, tail.until()) {
        let (what, expected) = (archive.url().to_owned(), tail.until().next());
        return Err(Error::Gap { what, expected, found: format!("a base after a gap, and commits up to csn {end}") });
    }
    if tail.until() > position.csn {
        tracing::warn!(
            committed = position.csn.0,
            until = tail.until().0,
            "the archive holds commits that the logs lack: they are fetched"
        );
    }
    tail.apply(committer, || false).await?;
    Ok(committer.watermarks.committed.get())
}
