//! Which chunks to merge and which are there twice. Pure.
//!
//! Guarantees: a group is adjacent chunks of one epoch, each small, settled and not closed; no chunk is in two groups; a
//! superseded chunk lies within a strictly wider one of its epoch.

use super::ledger::Known;
use crate::archive::layout::ChunkName;
use crate::chunk::RAW_BYTES_MAX;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

/// Stored bytes up to which a chunk is small.
const SMALL_BYTES_MAX: u64 = 512 << 10;

/// What is merged, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// Fewer adjacent chunks are left alone, at least 2: so that a primary that archives little does not upload the same
    /// commits again at each round.
    pub parts_min: usize,
    /// A younger chunk is left alone: its writer may be at work around it.
    pub settle: Duration,
    /// How long a merged chunk and its parts are there together, for readers with an old listing.
    pub grace: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self { parts_min: 16, settle: Duration::from_secs(30), grace: Duration::from_secs(3600) }
    }
}

impl Rules {
    /// The usual rules with another grace period. Nothing needs longer to settle than parts have to stay.
    #[must_use]
    pub fn with_grace(grace: Duration) -> Self {
        let usual = Self::default();
        Self { grace, settle: usual.settle.min(grace), ..usual }
    }
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MergePlan {
    /// Chunks to merge, as adjacent parts; the merger may cut a group where a chunk would get too large.
    pub groups: Vec<Vec<ChunkName>>,
    /// Chunks that can go.
    pub superseded: Vec<Superseded>,
}

/// Chunks within a wider one that has been there for the grace period.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superseded {
    /// The wider one.
    pub wider: ChunkName,
    /// What lies in it, by csn.
    pub parts: Vec<ChunkName>,
}

/// What is to be done about these chunks at `now_ms`, milliseconds since the Unix epoch.
#[must_use]
pub fn plan(chunks: &BTreeMap<ChunkName, Known>, rules: Rules, now_ms: u64) -> MergePlan {
    let mut plan = MergePlan::default();
    let mut ordered: Vec<(ChunkName, Known)> = chunks.iter().map(|(name, known)| (*name, *known)).collect();
    // A chunk stands behind every other one it lies in.
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

/// A group that is being gathered.
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
