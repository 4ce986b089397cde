//! One line of history through the tree of epochs, and which chunks carry it.
//!
//! Pure. A path from the root to an epoch is cut at its forks: of each epoch, the csns up to the next fork on the path
//! count. Any chunk that holds such a csn may carry it, because the epochs share this part of history. Commits that a
//! fenced writer archived beyond the fork lie on no path and are never used.
//!
//! Guarantees: the uses that [`Lineage::cover`] returns are in csn order, touch without overlapping, and never pass a
//! fork; uses and gaps together account for every csn asked for.

use super::epochs::{Branch, EpochTree};
use super::layout::{BaseName, ChunkName, RunName};
use crate::csn::{Csn, Epoch};
use crate::directory::EpochStart;
use std::cmp::Reverse;

/// The line of history that ends in one epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lineage {
    branches: Vec<Branch>,
}

/// The part of a chunk that is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkUse {
    /// The chunk.
    pub chunk: ChunkName,
    /// First csn to take from the chunk, at least the chunk's first.
    pub use_from: Csn,
    /// Last csn to take from the chunk, at most the chunk's last.
    pub use_until: Csn,
}

/// Commits that no chunk holds: the csns strictly between `after` and `before`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gap {
    /// The csn before the first missing csn.
    pub after: Csn,
    /// The csn after the last missing csn.
    pub before: Csn,
}

impl Gap {
    /// Returns the number of missing commits.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.before.since(self.after).saturating_sub(1)
    }
}

/// The chunks that carry a history, and the commits that are missing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Coverage {
    /// Uses in csn order. Neighbours touch, except across a gap.
    pub uses: Vec<ChunkUse>,
    /// Gaps in csn order.
    pub gaps: Vec<Gap>,
}

impl Coverage {
    /// Returns the last csn that can be reached without a gap from `after`, the csn from which the coverage was
    /// computed.
    #[must_use]
    pub fn reachable(&self, after: Csn) -> Csn {
        match self.gaps.first() {
            Some(gap) => gap.after,
            None => self.uses.last().map_or(after, |last| last.use_until),
        }
    }
}

impl Lineage {
    /// Returns the line that ends in `epoch`; `None` if there is no such epoch.
    #[must_use]
    pub fn of(tree: &EpochTree, epoch: Epoch) -> Option<Self> {
        tree.ancestry(epoch).map(|branches| Self { branches })
    }

    /// Returns the newest line: the line of the newest epoch, as [`EpochTree::newest_started`] gives it; `None` if
    /// there is no epoch.
    #[must_use]
    pub fn newest(tree: &EpochTree) -> Option<Self> {
        Self::of(tree, tree.newest_started()?.epoch)
    }

    /// Returns the epochs on the path, root first.
    #[must_use]
    pub fn branches(&self) -> &[Branch] {
        &self.branches
    }

    /// Returns the start of each epoch on the path, root first.
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

    /// Returns the epoch in which the line ends.
    #[must_use]
    pub fn leaf(&self) -> Epoch {
        self.branches.last().expect("a lineage has at least the epoch asked for").epoch
    }

    /// Returns the last csn of `epoch` that counts on this line: `None` if the epoch is not on the line,
    /// `Csn(u64::MAX)` for the leaf.
    #[must_use]
    pub fn until(&self, epoch: Epoch) -> Option<Csn> {
        let branch = self.branches.iter().find(|branch| branch.epoch == epoch)?;
        Some(branch.until_inclusive.unwrap_or(Csn(u64::MAX)))
    }

    /// Reports whether the base is a state that this line went through.
    #[must_use]
    pub fn contains(&self, base: BaseName) -> bool {
        self.until(base.epoch).is_some_and(|until| base.csn <= until)
    }

    /// Reports whether the run leads from one state of this line to another. This is so if its last commit lies on the
    /// line.
    #[must_use]
    pub fn contains_run(&self, run: RunName) -> bool {
        self.contains(BaseName { csn: run.last, epoch: run.epoch })
    }

    /// Returns the epoch whose writer made commit `csn` on this line.
    #[must_use]
    pub fn epoch_at(&self, csn: Csn) -> Epoch {
        let holds = |branch: &&Branch| branch.until_inclusive.is_none_or(|until| csn <= until);
        self.branches.iter().find(holds).map_or_else(|| self.leaf(), |branch| branch.epoch)
    }

    /// Returns the last csn known to have existed on this line, by its forks and by the chunks given.
    fn known_until(&self, candidates: &[ChunkUse]) -> Csn {
        let forks = self.branches.last().map_or(Csn::ZERO, |leaf| leaf.from_exclusive);
        candidates.iter().map(|candidate| candidate.use_until).max().unwrap_or(Csn::ZERO).max(forks)
    }

    /// Chooses as few of `chunks` as possible to carry the commits after `after`.
    ///
    /// Csns up to the leaf's fork are known to exist, so they are reported missing even if no chunk follows them.
    pub fn cover(&self, chunks: impl IntoIterator<Item = ChunkName>, after: Csn) -> Coverage {
        let mut candidates: Vec<ChunkUse> = chunks.into_iter().filter_map(|chunk| self.usable(chunk, after)).collect();
        let known_until = self.known_until(&candidates);
        // Of two candidates that end at the same csn, the later start and then the newer epoch carries fewer unneeded
        // commits.
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

    /// Returns the part of a chunk after `after` that counts on this line; `None` if there is none.
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
