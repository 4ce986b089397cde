//! One line of history through the tree of epochs, and which chunks carry it.
//!
//! Pure. A path from the root to an epoch is cut at its forks: of an epoch, csns up to the next fork on the path count,
//! from whichever chunk holds them, because the epochs share that part of history. What a fenced writer archived
//! beyond the fork lies on no path and is never used.
//!
//! Guarantees: the uses [`Lineage::cover`] gives are in csn order, touch without overlapping, never pass a fork, and
//! together with the gaps they account for every csn asked for.

use super::epochs::{Branch, EpochTree};
use super::layout::{BaseName, ChunkName, RunName};
use crate::csn::{Csn, Epoch};
use crate::directory::EpochStart;
use std::cmp::Reverse;

/// The history that ends in one epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lineage {
    branches: Vec<Branch>,
}

/// What to take from one chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkUse {
    /// The chunk.
    pub chunk: ChunkName,
    /// First csn to take from it, at least its first.
    pub use_from: Csn,
    /// Last csn to take from it, at most its last.
    pub use_until: Csn,
}

/// Commits no chunk holds: those strictly between the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gap {
    /// The csn before the first missing one.
    pub after: Csn,
    /// The csn after the last missing one.
    pub before: Csn,
}

impl Gap {
    /// How many commits are missing.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.before.since(self.after).saturating_sub(1)
    }
}

/// Which chunks carry a history, and what of it is not there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Coverage {
    /// In csn order; neighbours touch, except across a gap.
    pub uses: Vec<ChunkUse>,
    /// In csn order.
    pub gaps: Vec<Gap>,
}

impl Coverage {
    /// The last csn that can be reached without a gap from `after`, the csn the coverage was asked from.
    #[must_use]
    pub fn reachable(&self, after: Csn) -> Csn {
        match self.gaps.first() {
            Some(gap) => gap.after,
            None => self.uses.last().map_or(after, |last| last.use_until),
        }
    }
}

impl Lineage {
    /// The line that ends in `epoch`; `None` if there is no such epoch.
    #[must_use]
    pub fn of(tree: &EpochTree, epoch: Epoch) -> Option<Self> {
        tree.ancestry(epoch).map(|branches| Self { branches })
    }

    /// The newest line: that of the newest epoch whose writer has started; `None` if there is no epoch.
    #[must_use]
    pub fn newest(tree: &EpochTree) -> Option<Self> {
        Self::of(tree, tree.newest_started()?.epoch)
    }

    /// The epochs on the path, root first.
    #[must_use]
    pub fn branches(&self) -> &[Branch] {
        &self.branches
    }

    /// The generations on the path, root first.
    #[must_use]
    pub fn starts(&self) -> Vec<EpochStart> {
        let start = |branch: &Branch| EpochStart {
            epoch: branch.epoch,
            incarnation: branch.incarnation,
            fork: branch.from_exclusive,
            hash: branch.fork_hash,
        };
        self.branches.iter().map(start).collect()
    }

    /// The epoch it ends in.
    #[must_use]
    pub fn leaf(&self) -> Epoch {
        self.branches.last().expect("a lineage has at least the epoch asked for").epoch
    }

    /// The last csn of `epoch` that counts on this line: `None` if the epoch is not on it, `Csn(u64::MAX)` for the leaf.
    #[must_use]
    pub fn until(&self, epoch: Epoch) -> Option<Csn> {
        let branch = self.branches.iter().find(|branch| branch.epoch == epoch)?;
        Some(branch.until_inclusive.unwrap_or(Csn(u64::MAX)))
    }

    /// Whether the base is a state this line went through.
    #[must_use]
    pub fn contains(&self, base: BaseName) -> bool {
        self.until(base.epoch).is_some_and(|until| base.csn <= until)
    }

    /// Whether the run leads from one state of this line to another.
    #[must_use]
    pub fn contains_run(&self, run: RunName) -> bool {
        self.contains(BaseName { csn: run.last, epoch: run.epoch })
    }

    /// The epoch whose writer made commit `csn` on this line.
    #[must_use]
    pub fn epoch_at(&self, csn: Csn) -> Epoch {
        let holds = |branch: &&Branch| branch.until_inclusive.is_none_or(|until| csn <= until);
        self.branches.iter().find(holds).map_or_else(|| self.leaf(), |branch| branch.epoch)
    }

    /// The last csn known to have existed on this line: by its forks and by the chunks given.
    fn known_until(&self, candidates: &[ChunkUse]) -> Csn {
        let forks = self.branches.last().map_or(Csn::ZERO, |leaf| leaf.from_exclusive);
        candidates.iter().map(|candidate| candidate.use_until).max().unwrap_or(Csn::ZERO).max(forks)
    }

    /// Which of `chunks` carry the commits after `after`, with as few chunks as possible.
    ///
    /// Csns up to the leaf's fork are known to exist, so that they are reported missing even if nothing follows them.
    pub fn cover(&self, chunks: impl IntoIterator<Item = ChunkName>, after: Csn) -> Coverage {
        let mut candidates: Vec<ChunkUse> = chunks.into_iter().filter_map(|chunk| self.usable(chunk, after)).collect();
        let known_until = self.known_until(&candidates);
        // Of two that reach equally far, the later start and then the newer epoch carries less that is not needed.
        candidates.sort_by_key(|candidate| (candidate.chunk.first, Reverse(candidate.use_until)));
        let mut coverage = Coverage::default();
        let mut candidates = candidates.into_iter().peekable();
        let mut best: Option<ChunkUse> = None;
        let mut reached = after;
        while reached < known_until {
            let next = reached.next();
            while let Some(candidate) = candidates.next_if(|candidate| candidate.chunk.first <= next) {
                if best.is_none_or(|best| preference(&best) < preference(&candidate)) {
                    best = Some(candidate);
                }
            }
            match best.take_if(|best| best.use_until >= next) {
                Some(found) => {
                    coverage.uses.push(ChunkUse { use_from: next, ..found });
                    reached = found.use_until;
                }
                None => {
                    let before = candidates.peek().map_or_else(|| known_until.next(), |after| after.chunk.first);
                    coverage.gaps.push(Gap { after: reached, before });
                    reached = before.prev();
                }
            }
        }
        coverage
    }

    /// The part of a chunk that counts on this line after `after`; `None` if there is none.
    fn usable(&self, chunk: ChunkName, after: Csn) -> Option<ChunkUse> {
        let use_until = self.until(chunk.epoch)?.min(chunk.last);
        if use_until <= after {
            return None;
        }
        let use_from = chunk.first.max(after.next());
        (use_from <= use_until).then_some(ChunkUse { chunk, use_from, use_until })
    }
}

fn preference(candidate: &ChunkUse) -> (Csn, Csn, Epoch) {
    (candidate.use_until, candidate.chunk.first, candidate.chunk.epoch)
}

#[cfg(test)]
#[path = "lineage_tests.rs"]
mod tests;
