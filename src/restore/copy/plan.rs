//! Plans which objects make a range of history restorable from another archive.
//!
//! Pure. Guarantees: every commit of the range can be restored from the plan's objects alone, and every object that
//! they refer to is among them. If the range is incomplete, the error states the range that is complete.

use crate::archive::epochs::EpochRecord;
use crate::archive::lineage::Lineage;
use crate::archive::listing::{BaseStart, Listing};
use crate::archive::pins::PinRange;
use crate::csn::{Csn, Epoch};
use crate::history::reach::{CsnRange, Reach, leads, stretches};
use crate::history::step::{BaseStep, ChunkStep, Step};

/// The objects to copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopyPlan {
    /// Commits that can be restored from the copy. Ends with the chunk that holds the last requested commit, or later,
    /// at a fork.
    pub range: CsnRange,
    /// The objects, in the order in which they are copied: the base that the range begins with, unless the range begins
    /// with the first commit; the line's later bases in the range; and the chunks in csn order. Whole chunks are copied,
    /// even if only a part counts.
    pub steps: Vec<Step>,
    /// The records of the line's epochs, root first.
    pub epochs: Vec<EpochRecord>,
}

impl CopyPlan {
    /// Returns the range of history that the copy reads.
    #[must_use]
    pub fn pin(&self) -> PinRange {
        let after = |step: &Step| match step {
            Step::Base(step) => step.after,
            Step::Chunk(step) => step.use_from.prev(),
            Step::Run(step) => step.run.first.prev(),
        };
        let from = self.steps.iter().map(after).min();
        PinRange {
            from: from.unwrap_or(self.range.from),
            until: self.range.until,
            epoch: self.epochs.last().map(|record| record.epoch),
        }
    }

    /// Returns the bases.
    pub fn bases(&self) -> impl Iterator<Item = BaseStart> {
        self.steps.iter().filter_map(Step::base).map(BaseStep::start)
    }

    /// Returns the chunks.
    pub fn chunks(&self) -> impl Iterator<Item = ChunkStep> {
        self.steps.iter().filter_map(Step::chunk)
    }
}

/// A range that cannot be copied completely.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Incomplete {
    /// The requested commits.
    pub asked: CsnRange,
    /// The restorable commits without a gap around the end of the requested range; `None` if the end cannot be
    /// restored.
    pub possible: Option<CsnRange>,
}

/// Plans the copy of `lineage`'s commits from `from` up to `until`. If `from` is `None`, the copy begins with the first
/// commit that leads to `until` without a gap.
pub fn plan(
    listing: &Listing,
    lineage: &Lineage,
    is_usable: impl Fn(&BaseStart) -> bool,
    from: Option<Csn>,
    until: Csn,
) -> Result<CopyPlan, Incomplete> {
    let bases: Vec<BaseStart> =
        listing.base_starts().filter(|start| lineage.contains(start.base) && is_usable(start)).collect();
    // Runs are not copied, so commits that only runs reach are out of reach for the copy.
    let reach = Reach::with_runs(listing, lineage, bases.iter().copied(), |_| false);
    let stretches = stretches(listing, lineage);
    let possible = reach.ranges.iter().copied().find(|range| range.contains(until));
    let asked = CsnRange { from: from.unwrap_or(until), until };
    let possible = possible.filter(|range| range.contains(asked.from)).ok_or(Incomplete { asked, possible })?;
    let from = from.unwrap_or(possible.from);
    let is_start = |start: &&BaseStart| start.base.csn <= from && leads(&stretches, **start);
    let start = bases.iter().rfind(is_start).copied();
    let after = start.map_or(Csn::ZERO, |start| start.after);
    let mut until = until;
    let mut leaf = lineage.epoch_at(until);
    loop {
        let is_within = |start: &&BaseStart| after.max(Csn(1)) <= start.after && start.base.csn <= until;
        let bases: Vec<BaseStart> = bases.iter().filter(is_within).copied().collect();
        let chunks = chunks(listing, lineage, after, until);
        let newest = bases.iter().map(|start| start.base.epoch).chain(chunks.iter().map(|step| step.chunk.epoch)).max();
        leaf = newest.map_or(leaf, |newest| newest.max(leaf));
        // The record of the newest epoch states that history continues to its fork, so the copy must reach the fork.
        let fork = fork_of(lineage, leaf);
        if fork > until && possible.contains(fork) {
            until = fork;
            continue;
        }
        let end = chunks.last().map_or(until, |step| step.use_until.max(until));
        let epochs = lineage.branches().iter().filter(|branch| branch.epoch <= leaf);
        let epochs = epochs.filter_map(|branch| listing.epochs.get(branch.epoch).cloned()).collect();
        let bases = bases.into_iter().map(|start| Step::Base(start.into()));
        let steps = bases.chain(chunks.into_iter().map(Step::Chunk)).collect();
        return Ok(CopyPlan { range: CsnRange { from, until: end }, steps, epochs });
    }
}

fn fork_of(lineage: &Lineage, epoch: Epoch) -> Csn {
    let branch = lineage.branches().iter().find(|branch| branch.epoch == epoch);
    branch.map_or(Csn::ZERO, |branch| branch.from_exclusive)
}

/// Returns the line's chunks with commits after `after`, up to the chunk that holds `until`.
fn chunks(listing: &Listing, lineage: &Lineage, after: Csn, until: Csn) -> Vec<ChunkStep> {
    let uses = lineage.cover(listing.chunks.keys().copied(), after).uses;
    let wanted = uses.into_iter().filter(|part| part.use_from <= until);
    let step = |part: crate::archive::lineage::ChunkUse| ChunkStep {
        chunk: part.chunk,
        use_from: part.use_from,
        use_until: part.use_until,
        bytes: listing.chunks.get(&part.chunk).map_or(0, |stored| stored.size),
    };
    wanted.map(step).collect()
}
