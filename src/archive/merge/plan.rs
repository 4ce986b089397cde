//! Decides which chunks to merge and which chunks a wider one covers. Pure.
//!
//! Guarantees: a group consists of adjacent chunks of one epoch, each of them small, settled and not closed; no chunk
//! is in two groups; a superseded chunk lies within a strictly wider one of its epoch.

use super::ledger::Known;
use crate::archive::layout::ChunkName;
use crate::chunk::RAW_BYTES_MAX;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

/// Stored bytes up to which a chunk counts as small.
const SMALL_BYTES_MAX: u64 = 512 << 10;

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
    /// Chunks that can be deleted.
    pub superseded: Vec<Superseded>,
}

/// Chunks within a wider chunk that has been there for the grace period.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superseded {
    /// The wider chunk.
    pub wider: ChunkName,
    /// The chunks within the wider one, by csn.
    pub parts: Vec<ChunkName>,
}

/// Plans what to do about these chunks at `now_ms`, in milliseconds since the Unix epoch.
#[must_use]
pub fn plan(chunks: &BTreeMap<ChunkName, Known>, rules: Rules, now_ms: u64) -> MergePlan {
    let mut plan = MergePlan::default();
    let mut ordered: Vec<(ChunkName, Known)> = chunks.iter().map(|(name, known)| (*name, *known)).collect();
    // This order puts a chunk behind every other chunk that contains it.
    ordered.sort_by_key(|(name, _)| (name.epoch, name.first, Reverse(name.last)));
    let is_past = |since_ms: u64, pause: Duration| {
        since_ms.saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)) <= now_ms
    };
    let mut widest: Option<(ChunkName, Known)> = None;
    let mut group = Group::default();
    for (name, known) in ordered {
        if let Some((wider, wider_known)) =
            widest.filter(|(wider, _)| wider.epoch == name.epoch && name.last <= wider.last)
        {
            if is_past(wider_known.since_ms, rules.grace) {
                plan.supersede(wider, name);
            }
            continue;
        }
        widest = Some((name, known));
        let is_small = known.bytes <= SMALL_BYTES_MAX && !known.is_closed && is_past(known.since_ms, rules.settle);
        if !group.is_continued_by(name) || !is_small || group.bytes + known.bytes > RAW_BYTES_MAX as u64 {
            plan.close(&mut group, rules);
        }
        if is_small {
            group.parts.push(name);
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

    fn supersede(&mut self, wider: ChunkName, part: ChunkName) {
        match self.superseded.last_mut().filter(|last| last.wider == wider) {
            Some(last) => last.parts.push(part),
            None => self.superseded.push(Superseded { wider, parts: vec![part] }),
        }
    }
}
