//! Which objects bring a directory to a target: the base, the chunks, and what cannot be had.
//!
//! Pure: from a listing, a line of history and a csn to a plan. Guarantees: a plan's chunks carry every commit after its
//! base (or after nothing) up to the target, once and in order, from this line of history only; among the usable bases
//! the newest at or below the target is taken, because a restore from it reads the least. No base is taken of which an
//! engine is beyond the target. What cannot be planned is answered with the nearest commits that can.

use super::reach::{CsnRange, Reach, leads, runs};
use crate::archive::layout::{BaseName, ChunkName};
use crate::archive::lineage::{ChunkUse, Coverage, Lineage};
use crate::archive::listing::{BaseStart, Listing};
use crate::csn::{Csn, Epoch};
use crate::snapshot::manifest::Manifest;
use serde::{Serialize, Serializer};
use std::collections::HashMap;
use std::fmt;

/// What to read, and in which order, to get to a csn.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Plan {
    /// The commit to end at.
    pub target: Csn,
    /// The generation that made the target's commit.
    pub epoch: Epoch,
    /// The generation whose line of history is followed; `epoch` or a descendant of it.
    pub leaf: Epoch,
    /// What to start from; none: from nothing.
    #[serde(serialize_with = "as_text_or_null")]
    pub base: Option<BaseName>,
    /// The commit after which the chunks begin: the base's, or, if its engines were cut at different commits, the lowest
    /// of theirs; 0 without a base.
    pub after: Csn,
    /// Bases nearer to the target that could not be used, and why.
    pub skipped: Vec<SkippedBase>,
    /// In csn order, touching each other.
    pub chunks: Vec<ChunkStep>,
    /// Objects to fetch. SSTs are among them once [`Plan::complete`] knows them.
    pub objects: u64,
    /// Bytes of the base, known once [`Plan::complete`] was told; 0 before and without a base.
    pub base_bytes: u64,
    /// Bytes of the chunks.
    pub log_bytes: u64,
    /// Later commits of this line of history that cannot be restored because something before them is missing.
    pub lost: Vec<CsnRange>,
    /// The line of history.
    #[serde(skip)]
    pub lineage: Lineage,
}

/// What to take from one chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct ChunkStep {
    /// The chunk.
    #[serde(serialize_with = "as_text")]
    pub chunk: ChunkName,
    /// First csn to take from it.
    pub use_from: Csn,
    /// Last csn to take from it.
    pub use_until: Csn,
    /// Its length.
    pub bytes: u64,
    /// Whether the step before is the one chunk its writer can have named as its predecessor.
    #[serde(skip)]
    pub is_linked: bool,
}

/// A base that was passed over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SkippedBase {
    /// The base.
    #[serde(serialize_with = "as_text")]
    pub base: BaseName,
    /// The commit after which it needs chunks.
    pub after: Csn,
    /// What is wrong with it.
    pub why: String,
}

/// Why a csn cannot be had, and what can.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shortfall {
    /// What stands in the way.
    pub reason: String,
    /// The nearest restorable commits below.
    pub below: Option<CsnRange>,
    /// The nearest restorable commits above.
    pub above: Option<CsnRange>,
}

/// A name in its text form.
pub(super) fn as_text<T: fmt::Display, S: Serializer>(name: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(name)
}

fn as_text_or_null<T: fmt::Display, S: Serializer>(name: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
    match name {
        Some(name) => to.collect_str(name),
        None => to.serialize_none(),
    }
}

impl SkippedBase {
    /// Whether it is this one.
    #[must_use]
    pub fn is(&self, start: BaseStart) -> bool {
        (self.base, self.after) == (start.base, start.after)
    }
}

impl Plan {
    /// Adds what only the base's manifest tells.
    pub fn complete(&mut self, manifest: &Manifest) {
        assert_eq!(self.start(), Some(manifest.start()), "the manifest of the plan's own base");
        let own = manifest.memory.files.len() + manifest.completion.len() + manifest.disk.files.len();
        self.objects = self.chunks.len() as u64 + own as u64 + 1;
        self.base_bytes = manifest.bytes();
    }

    /// The base and how it starts.
    #[must_use]
    pub fn start(&self) -> Option<BaseStart> {
        self.base.map(|base| BaseStart { base, after: self.after })
    }

    /// Bytes to fetch.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.base_bytes + self.log_bytes
    }

    /// Commits to apply after the base.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.target.since(self.after)
    }
}

/// Plans the way to `target` on `lineage`. `skipped` are bases that turned out to be unusable.
pub fn plan(listing: &Listing, lineage: &Lineage, target: Csn, skipped: &[SkippedBase]) -> Result<Plan, Shortfall> {
    let usable = |start: &BaseStart| lineage.contains(start.base) && !skipped.iter().any(|skip| skip.is(*start));
    let reach = Reach::of(listing, lineage, listing.base_starts().filter(usable));
    if !reach.contains(target) {
        return Err(shortfall(&reach, lineage, target));
    }
    let runs = runs(listing, lineage);
    let below = listing.base_starts().rev().filter(usable).skip_while(|start| start.base.csn > target);
    let start = below.into_iter().find(|start| leads(&runs, *start, target));
    let after = start.map_or(Csn::ZERO, |start| start.after);
    let coverage = lineage.cover(listing.chunks.keys().copied(), after);
    let chunks = steps(listing, &coverage, target);
    let reached = chunks.last().map_or(after, |step| step.use_until);
    assert_eq!(reached, target, "what is in reach is reached from the newest base");
    let base = start.map(|start| start.base);
    let base_objects = base.map_or(0, |base| listing.bases[&base].files.len() as u64 + 1);
    Ok(Plan {
        target,
        epoch: lineage.epoch_at(target),
        leaf: lineage.leaf(),
        base,
        after,
        skipped: skipped.iter().filter(|skip| skip.base.csn > after && skip.base.csn <= target).cloned().collect(),
        objects: chunks.len() as u64 + base_objects,
        base_bytes: 0,
        log_bytes: chunks.iter().map(|step| step.bytes).sum(),
        lost: reach.gaps.iter().copied().filter(|gap| gap.until > target).collect(),
        chunks,
        lineage: lineage.clone(),
    })
}

/// The uses up to `target`, with what the listing knows about their chunks. Stops at the first gap.
pub(super) fn steps(listing: &Listing, coverage: &Coverage, target: Csn) -> Vec<ChunkStep> {
    let reachable = coverage.reachable(target).min(target);
    let mut endings: HashMap<(Epoch, Csn), u32> = HashMap::new();
    listing.chunks.keys().for_each(|chunk| *endings.entry((chunk.epoch, chunk.last)).or_default() += 1);
    let mut steps: Vec<ChunkStep> = Vec::new();
    for &ChunkUse { chunk, use_from, use_until } in &coverage.uses {
        if use_from > reachable {
            break;
        }
        // After a crash a writer may have cut the same commits twice: then either chunk may be the one it went on from.
        let is_predecessor = |before: ChunkName| {
            before.epoch == chunk.epoch
                && before.last.next() == chunk.first
                && endings[&(chunk.epoch, before.last)] == 1
        };
        let is_linked = steps.last().is_some_and(|step| is_predecessor(step.chunk));
        let bytes = listing.chunks.get(&chunk).map_or(0, |stored| stored.size);
        steps.push(ChunkStep { chunk, use_from, use_until: use_until.min(reachable), bytes, is_linked });
    }
    steps
}

fn shortfall(reach: &Reach, lineage: &Lineage, target: Csn) -> Shortfall {
    let (below, above) = reach.around(target);
    let epoch = lineage.leaf();
    let reason = match reach.known_until {
        Csn::ZERO => format!("the archive holds no commit of epoch {epoch}'s history"),
        until if target > until => format!("the history of epoch {epoch} ends at csn {until}"),
        _ => match reach.gaps.iter().find(|gap| gap.contains(target)) {
            Some(gap) => format!("csn {gap} cannot be restored: chunks are missing there"),
            None => "the chunks up to it are no longer there".to_owned(),
        },
    };
    Shortfall { reason, below, above }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
