//! Decides which chunks to merge and which chunks a wider one covers. Pure.
//!
//! Guarantees: a group consists of adjacent chunks of one epoch, each of them small, settled and not closed; no chunk
//! is in two groups; a superseded chunk lies within a strictly wider one of its epoch and is in no group.

use crate::archive::layout::ChunkName;
use crate::chunk::RAW_BYTES_MAX;
use crate::retention::superseded::{Superseded, superseded};
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// Stored bytes up to which a chunk counts as small.
const SMALL_BYTES_MAX: u64 = 512 << 10;

/// Percentage of a full chunk's raw bytes from which a chunk counts as full.
const FULL_PERCENT: u64 = 90;

/// The facts about a chunk in the archive by which a merger decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    /// Length in bytes.
    pub bytes: u64,
    /// Time since which the chunk is there, in milliseconds since the Unix epoch: by this process' clock or, if the
    /// chunk was listed, by the store's clock.
    pub since_ms: u64,
    /// Whether the chunk is excluded from merging, because it is full or could not be read.
    pub is_closed: bool,
}

/// Reports whether a chunk with so many raw bytes counts as full.
pub(super) fn is_full(raw_bytes: u64) -> bool {
    raw_bytes * 100 >= RAW_BYTES_MAX as u64 * FULL_PERCENT
}

/// Rules for merging.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// Smallest number of adjacent chunks that are merged, at least 2. It keeps a primary that archives little from
    /// uploading the same commits again in each round.
    pub parts_min: usize,
    /// Age from which a chunk may be merged. The writer of a younger chunk may still be uploading adjacent chunks.
    pub settle: Duration,
    /// Time for which a merged chunk and its parts are there together, for readers with an old listing.
    pub grace: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self { parts_min: 16, settle: Duration::from_secs(30), grace: Duration::from_secs(3600) }
    }
}

impl Rules {
    /// Returns the default rules with another grace period. The settle time is at most the grace period.
    #[must_use]
    pub fn with_grace(grace: Duration) -> Self {
        let usual = Self::default();
        Self { grace, settle: usual.settle.min(grace), ..usual }
    }
}

/// The work of one merge round.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MergePlan {
    /// Groups of adjacent chunks to merge. The merger may split a group if the merged chunk would become too large.
    pub groups: Vec<Vec<ChunkName>>,
    /// Chunks within a wider chunk that has been there for the grace period.
    pub superseded: Vec<Superseded>,
}

/// Plans what to do about these chunks at `now_ms`, in milliseconds since the Unix epoch.
#[must_use]
pub fn plan(chunks: &BTreeMap<ChunkName, Known>, rules: Rules, now_ms: u64) -> MergePlan {
    let is_past = |since_ms: u64, pause: Duration| {
        since_ms.saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)) <= now_ms
    };
    let names = || chunks.keys().copied();
    // A chunk within a wider one is not merged again, however young the wider one is.
    let covered: HashSet<ChunkName> = superseded(names(), |_| true).into_iter().flat_map(|found| found.parts).collect();
    let past_grace = |name: &ChunkName| is_past(chunks[name].since_ms, rules.grace);
    let mut plan = MergePlan { groups: Vec::new(), superseded: superseded(names(), past_grace) };
    let mut group = Group::default();
    for (name, known) in chunks.iter().filter(|(name, _)| !covered.contains(name)) {
        let is_small = known.bytes <= SMALL_BYTES_MAX && !known.is_closed && is_past(known.since_ms, rules.settle);
        if !group.is_continued_by(*name) || !is_small || group.bytes + known.bytes > RAW_BYTES_MAX as u64 {
            plan.close(&mut group, rules);
        }
        if is_small {
            group.parts.push(*name);
            group.bytes += known.bytes;
        }
    }
    plan.close(&mut group, rules);
    plan
}

/// A group under construction.
#[derive(Default)]
struct Group {
    parts: Vec<ChunkName>,
    bytes: u64,
}

impl Group {
    fn is_continued_by(&self, name: ChunkName) -> bool {
        let continues = |last: &ChunkName| last.epoch == name.epoch && last.last.next() == name.first;
        self.parts.last().is_none_or(continues)
    }
}

impl MergePlan {
    fn close(&mut self, group: &mut Group, rules: Rules) {
        let Group { parts, .. } = std::mem::take(group);
        if parts.len() >= rules.parts_min.max(2) {
            self.groups.push(parts);
        }
    }
}
