//! From what was asked for to a csn and a plan, with as little reading as that takes.
//!
//! A time is found by a binary search over the chunks' headers, each a small ranged GET, and at the end inside one
//! chunk. Guarantees: the answer is exact. A time whose commit may be among missing ones is refused, not guessed.

use super::history::{History, full_name, vanished};
use super::plan::{Plan, Shortfall, SkippedBase, plan};
use super::reach::CsnRange;
use super::target::Target;
use crate::archive::layout::{BaseName, ChunkName, ObjectName};
use crate::archive::lineage::ChunkUse;
use crate::archive::listing::BaseStart;
use crate::chunk::{Chunk, ChunkHeader};
use crate::csn::{CommitTime, Csn};
use crate::error::{Error, Result};
use crate::snapshot::manifest::Manifest;
use std::collections::{HashMap, HashSet};

/// A plan and what it starts from.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What to do.
    pub plan: Plan,
    /// The base's manifest, if the plan has a base.
    pub manifest: Option<Manifest>,
}

impl History {
    /// The plan for a target. A base whose manifest cannot be used is passed over for the one before.
    pub async fn plan(&self, target: Target) -> Result<Planned> {
        let mut times = Times::of(self);
        let mut skipped = Vec::new();
        let asked = match target {
            Target::Latest => None,
            Target::At(csn) => Some(csn),
            Target::Before(time) => Some(times.find(time).await?),
        };
        loop {
            let csn = asked
                .or_else(|| self.reach_of(|start| skipped.iter().all(|skip: &SkippedBase| !skip.is(*start))).latest())
                .unwrap_or_default();
            let mut plan = match plan(&self.listing, &self.lineage, csn, &skipped) {
                Ok(plan) => plan,
                Err(shortfall) => return Err(times.unreachable(target, csn, shortfall, &skipped).await),
            };
            if let (Target::Latest, Some(lost)) = (target, plan.lost.first()) {
                return Err(latest_is_lost(lost, csn));
            }
            let Some(start) = plan.start() else { return Ok(Planned { plan, manifest: None }) };
            match self.manifest(start).await {
                Ok(manifest) => {
                    plan.complete(&manifest);
                    return Ok(Planned { plan, manifest: Some(manifest) });
                }
                Err(error @ (Error::Corrupt { .. } | Error::Version { .. })) => {
                    let BaseStart { base, after } = start;
                    tracing::warn!(%base, %error, "a base cannot be used; the one before is tried");
                    skipped.push(SkippedBase { base, after, why: error.to_string() });
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// "Latest" must not quietly mean "latest before a hole".
fn latest_is_lost(lost: &CsnRange, reachable: Csn) -> Error {
    Error::Unreachable {
        target: Target::Latest.to_string(),
        reason: format!(
            "commits {} to {} are known to exist, but they, or some before them, are missing from the archive",
            lost.from, lost.until
        ),
        nearest: format!("csn:{reachable}, which is the last one before the hole; ask for it by name"),
    }
}

/// Commits whose times can be looked up: those of one chunk, or the one a base lies at.
#[derive(Clone, Copy)]
enum Span {
    Chunk(ChunkUse),
    Base(Csn, CommitTime),
}

impl Span {
    fn first(&self) -> Csn {
        match self {
            Self::Chunk(part) => part.use_from,
            Self::Base(csn, _) => *csn,
        }
    }

    fn last(&self) -> Csn {
        match self {
            Self::Chunk(part) => part.use_until,
            Self::Base(csn, _) => *csn,
        }
    }
}

/// Commit times of one line of history, read when they are asked for.
pub(super) struct Times<'a> {
    history: &'a History,
    /// By csn.
    uses: Vec<ChunkUse>,
    headers: HashMap<ChunkName, ChunkHeader>,
}

impl<'a> Times<'a> {
    pub fn of(history: &'a History) -> Self {
        let uses = history.lineage.cover(history.listing.chunks.keys().copied(), Csn::ZERO).uses;
        Self { history, uses, headers: HashMap::new() }
    }

    /// The last commit at or before `time`.
    async fn find(&mut self, time: CommitTime) -> Result<Csn> {
        let spans = self.spans().await?;
        // Spans with index below `low` begin at or before `time`.
        let (mut low, mut high) = (0, spans.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.begin_of(spans[middle]).await? <= time { low = middle + 1 } else { high = middle }
        }
        let Some(span) = low.checked_sub(1).map(|at| spans[at]) else {
            return Err(self.before_history(time, spans.first().copied()).await);
        };
        let found = self.last_at_or_before(span, time).await?;
        let next = spans.get(low).map(Span::first);
        let is_next_known = match next {
            Some(next) => found < span.last() || found.next() == next,
            None => found < span.last() || found >= self.history.reach().known_until,
        };
        if is_next_known {
            return Ok(found);
        }
        let gap = CsnRange { from: found.next(), until: next.map_or(self.history.reach().known_until, Csn::prev) };
        let reason = format!("the last commit at or before it is csn {found} or one of csn {gap}, which are missing");
        let (below, above) = (Some(CsnRange { from: found, until: found }), self.history.reach().around(found).1);
        Err(self.unreachable(Target::Before(time), found, Shortfall { reason, below, above }, &[]).await)
    }

    /// The chunks' parts, and between them the bases that no chunk reaches.
    async fn spans(&self) -> Result<Vec<Span>> {
        let mut spans: Vec<Span> = self.uses.iter().copied().map(Span::Chunk).collect();
        let is_covered = |csn: Csn| {
            let after = self.uses.partition_point(|part| part.use_from <= csn);
            after > 0 && self.uses[after - 1].use_until >= csn
        };
        let mut seen = HashSet::new();
        for base in self.history.listing.whole_bases() {
            if !self.history.lineage.contains(base) || is_covered(base.csn) {
                continue;
            }
            match self.history.manifest(BaseStart::whole(base)).await {
                Ok(manifest) if seen.insert(base.csn) => spans.push(Span::Base(base.csn, manifest.time)),
                Ok(_) | Err(Error::Corrupt { .. } | Error::Version { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        spans.sort_by_key(Span::first);
        Ok(spans)
    }

    /// Time of a span's first commit, or of an earlier one in the same chunk.
    async fn begin_of(&mut self, span: Span) -> Result<CommitTime> {
        match span {
            Span::Chunk(part) => Ok(self.header(part.chunk).await?.first_time),
            Span::Base(_, time) => Ok(time),
        }
    }

    async fn header(&mut self, chunk: ChunkName) -> Result<&ChunkHeader> {
        if !self.headers.contains_key(&chunk) {
            let name = ObjectName::Chunk(chunk);
            let archive = &self.history.archive;
            let range = 0..ChunkHeader::ENCODED_LEN as u64;
            let bytes = archive.get_range(&name, range).await?.ok_or_else(|| vanished(archive, &name))?;
            self.headers.insert(chunk, ChunkHeader::decode(&bytes, &full_name(archive, &name))?);
        }
        Ok(&self.headers[&chunk])
    }

    /// The span's last commit at or before `time`, which is not before the span's begin.
    async fn last_at_or_before(&mut self, span: Span, time: CommitTime) -> Result<Csn> {
        let part = match span {
            Span::Base(csn, _) => return Ok(csn),
            Span::Chunk(part) => part,
        };
        if self.header(part.chunk).await?.last_time <= time {
            return Ok(part.use_until);
        }
        let name = ObjectName::Chunk(part.chunk);
        let archive = &self.history.archive;
        let bytes = archive.get(&name).await?.ok_or_else(|| vanished(archive, &name))?;
        let chunk = Chunk::open(bytes, &full_name(archive, &name))?;
        let mut found = chunk.header().first;
        for commit in chunk.commits() {
            let commit = commit?;
            if commit.time > time || commit.csn > part.use_until {
                break;
            }
            found = commit.csn;
        }
        Ok(found)
    }

    async fn before_history(&mut self, time: CommitTime, first: Option<Span>) -> Error {
        let Some(first) = first else {
            let shortfall = Shortfall {
                reason: "the archive holds no commit of this history".to_owned(),
                below: None,
                above: None,
            };
            return self.unreachable(Target::Before(time), Csn::ZERO, shortfall, &[]).await;
        };
        let begin = self.text_of(first.first()).await;
        let reason = format!("the history that is there begins later, with csn {begin}");
        let above = self.history.reach().ranges.first().copied();
        self.unreachable(Target::Before(time), Csn::ZERO, Shortfall { reason, below: None, above }, &[]).await
    }

    /// The shortfall as an error that names the nearest points, with their times where these are cheap to learn.
    async fn unreachable(&mut self, target: Target, csn: Csn, short: Shortfall, skipped: &[SkippedBase]) -> Error {
        let mut nearest = Vec::new();
        for (side, range) in [("below", short.below), ("above", short.above)] {
            let Some(range) = range else { continue };
            let mut text = format!("{side}: csn {}", self.text_of(range.from).await);
            if range.until > range.from {
                text = format!("{text} to csn {}", self.text_of(range.until).await);
            }
            nearest.push(text);
        }
        let mut reason = short.reason;
        for SkippedBase { why, .. } in skipped {
            reason = format!("{reason}; a base cannot be used: {why}");
        }
        Error::Unreachable {
            target: if matches!(target, Target::At(_)) || csn == Csn::ZERO {
                target.to_string()
            } else {
                format!("{target} (csn {csn})")
            },
            reason,
            nearest: if nearest.is_empty() { "none".to_owned() } else { nearest.join("; ") },
        }
    }

    /// A csn, with its time if a header or a manifest tells it.
    async fn text_of(&mut self, csn: Csn) -> String {
        self.time_of(csn).await.map_or_else(|| csn.to_string(), |time| format!("{csn} ({time})"))
    }

    /// The time of a commit, if a chunk begins or ends with it or a base lies at it. A failure to read is no time.
    pub async fn time_of(&mut self, csn: Csn) -> Option<CommitTime> {
        let part = self.uses.iter().find(|part| part.use_from <= csn && csn <= part.use_until).copied();
        if let Some(ChunkUse { chunk, .. }) = part
            && (chunk.first == csn || chunk.last == csn)
        {
            let header = self.header(chunk).await.ok()?;
            return Some(if chunk.first == csn { header.first_time } else { header.last_time });
        }
        let is_there = |base: &BaseName| base.csn == csn && self.history.lineage.contains(*base);
        let base = self.history.listing.whole_bases().find(is_there)?;
        self.history.manifest(BaseStart::whole(base)).await.ok().map(|manifest| manifest.time)
    }
}
