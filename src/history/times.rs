//! Commit times of one line of history, read only when they are needed.
//!
//! A time is found by a binary search over the headers of the chunks, each read with a small ranged GET, and then by a
//! search inside one chunk. Where runs replaced chunks, the manifests of the runs give the times of their first and
//! last commits. So the end of an hour is found although the chunks of that hour no longer exist.
//!
//! Times never decrease within an epoch. They may decrease where an epoch begins, if the times before it lay in the
//! future. Therefore the search goes epoch by epoch, the newest first, and returns the last commit in csn order at or
//! before the requested time. A time that the clock reached twice is therefore the later epoch's. Guarantees: the
//! answer is exact. If a missing commit may have the requested time, the answer is an error and never a guess.

use super::line::is_unusable;
use super::line::{History, full_name, vanished};
use super::plan::{Shortfall, SkippedBase};
use super::reach::CsnRange;
use super::target::Target;
use crate::archive::layout::{BaseName, ChunkName, ObjectName, RunName};
use crate::archive::lineage::{ChunkUse, Coverage, Gap};
use crate::archive::listing::BaseStart;
use crate::chunk::{Chunk, ChunkHeader};
use crate::compacted_run::RunManifest;
use crate::csn::{CommitTime, Csn};
use crate::error::{Error, Result};
use bytes::Bytes;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// A range of commits whose times can be looked up.
#[derive(Clone, Copy)]
enum Span {
    Chunk(ChunkUse),
    Base(Csn, CommitTime),
    /// The commits from one csn to another that only this run covers; other spans cover the run's other commits.
    Run(RunName, CsnRange),
}

impl Span {
    fn first(&self) -> Csn {
        match self {
            Self::Chunk(part) => part.use_from,
            Self::Base(csn, _) => *csn,
            Self::Run(_, part) => part.from,
        }
    }

    fn last(&self) -> Csn {
        match self {
            Self::Chunk(part) => part.use_until,
            Self::Base(csn, _) => *csn,
            Self::Run(_, part) => part.until,
        }
    }
}

/// Looks up commit times of one line of history and caches the headers and manifests that it reads.
pub(crate) struct Times<'a> {
    history: &'a History,
    coverage: Coverage,
    headers: HashMap<ChunkName, ChunkHeader>,
    runs: HashMap<RunName, RunManifest>,
    /// Runs whose manifests are damaged or of an unknown version.
    bad_runs: HashSet<RunName>,
}

impl<'a> Times<'a> {
    pub(crate) fn of(history: &'a History) -> Self {
        let coverage = history.lineage.cover(history.listing.chunks.keys().copied(), Csn::ZERO);
        Self { history, coverage, headers: HashMap::new(), runs: HashMap::new(), bad_runs: HashSet::new() }
    }

    /// Returns the last commit at or before `time`.
    pub(crate) async fn find(&mut self, time: CommitTime) -> Result<Csn> {
        loop {
            let bad_runs = self.bad_runs.len();
            match self.find_once(time).await {
                // Other runs may give the time without the run that turned out to be unusable.
                Err(error) if is_unusable(&error) && self.bad_runs.len() > bad_runs => {}
                outcome => return outcome,
            }
        }
    }

    async fn find_once(&mut self, time: CommitTime) -> Result<Csn> {
        let spans = self.spans().await?;
        for stretch in self.stretches(&spans).into_iter().rev() {
            if self.begin_of(&spans[stretch.clone()], 0).await? <= time {
                return self.find_in(&spans, stretch, time).await;
            }
            self.require_beginning(&spans, stretch.start, time).await?;
        }
        Err(self.before_history(time, spans.first().copied()).await)
    }

    /// Divides the spans into stretches, one per epoch, within which times never decrease.
    fn stretches(&self, spans: &[Span]) -> Vec<Range<usize>> {
        let forks = self.history.lineage.branches().iter().map(|branch| branch.from_exclusive);
        let mut starts: Vec<usize> =
            forks.map(|fork| spans.partition_point(|span| span.first() <= fork)).chain([0, spans.len()]).collect();
        starts.sort_unstable();
        starts.dedup();
        starts.windows(2).map(|pair| pair[0]..pair[1]).collect()
    }

    /// Returns an error if a commit that is missing before the span `at` may have the time `time`, although that span
    /// begins later. This is possible only if times decreased there.
    async fn require_beginning(&mut self, spans: &[Span], at: usize, time: CommitTime) -> Result<()> {
        let Some(before) = at.checked_sub(1).map(|before| spans[before]) else { return Ok(()) };
        let missing = CsnRange { from: before.last().next(), until: spans[at].first().prev() };
        if missing.from > missing.until || self.begin_of(&spans[at..], 0).await? >= self.end_of(before).await? {
            return Ok(());
        }
        Err(self.one_of_missing(time, missing).await)
    }

    /// Returns the last commit at or before `time` in a stretch whose first commit is at or before `time`.
    async fn find_in(&mut self, spans: &[Span], stretch: Range<usize>, time: CommitTime) -> Result<Csn> {
        // Invariant: the spans of the stretch with an index below `low` begin at or before `time`.
        let (mut low, mut high) = (1, stretch.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.begin_of(&spans[stretch.clone()], middle).await? <= time { low = middle + 1 } else { high = middle }
        }
        let low = stretch.start + low;
        let span = spans[low - 1];
        let known_until = self.history.reach().known_until;
        let missing = match self.last_at_or_before(span, time).await? {
            Some(found) => {
                let next = spans.get(low).map(Span::first);
                let is_next_known = match next {
                    Some(next) => found < span.last() || found.next() == next,
                    None => found < span.last() || found >= known_until,
                };
                if is_next_known {
                    return Ok(found);
                }
                CsnRange { from: found.next(), until: next.map_or(known_until, Csn::prev) }
            }
            None => return Err(self.inside_a_run(time, span).await),
        };
        Err(self.one_of_missing(time, missing).await)
    }

    /// Builds the error for a time that a missing commit may have.
    async fn one_of_missing(&mut self, time: CommitTime, missing: CsnRange) -> Error {
        let found = missing.from.prev();
        let reason =
            format!("the last commit at or before this time is csn {found} or one of csn {missing}, which are missing");
        let (below, above) = (Some(CsnRange { from: found, until: found }), self.history.reach().around(found).1);
        self.unreachable(&Target::Before(time), found, Shortfall { reason, below, above }, &[]).await
    }

    /// Builds the error for a time within commits that only a run covers.
    async fn inside_a_run(&mut self, time: CommitTime, span: Span) -> Error {
        let reach = self.history.reach();
        let (below, above) = (reach.around(span.first()).0, reach.around(span.first()).1);
        let commits = CsnRange { from: span.first(), until: span.last() };
        let reason =
            format!("the last commit at or before this time is one of csn {commits}, which only a compacted run holds");
        let short = Shortfall { reason, below, above };
        self.unreachable(&Target::Before(time), Csn::ZERO, short, &[]).await
    }

    /// Returns the spans of the line in csn order: the used parts of chunks, the parts that only runs cover, and the
    /// bases that no chunk and no run covers.
    async fn spans(&self) -> Result<Vec<Span>> {
        let mut spans: Vec<Span> = self.coverage.uses.iter().copied().map(Span::Chunk).collect();
        spans.extend(self.run_spans());
        spans.sort_by_key(Span::first);
        let is_covered = |csn: Csn| {
            let after = spans.partition_point(|span| span.first() <= csn);
            after > 0 && spans[after - 1].last() >= csn
        };
        let mut seen = HashSet::new();
        let mut bases = Vec::new();
        for base in self.history.listing.whole_bases() {
            if !self.history.lineage.contains(base) || is_covered(base.csn) {
                continue;
            }
            match self.history.manifest(BaseStart::whole(base)).await {
                Ok(manifest) if seen.insert(base.csn) => bases.push(Span::Base(base.csn, manifest.time)),
                Ok(_) => {}
                Err(error) if is_unusable(&error) => {}
                Err(error) => return Err(error),
            }
        }
        spans.extend(bases);
        spans.sort_by_key(Span::first);
        Ok(spans)
    }

    /// Returns spans for the commits that no chunk carries. Each span ends with the last commit of a run or at the end
    /// of the gap.
    fn run_spans(&self) -> Vec<Span> {
        let is_usable = |run: &RunName| self.history.lineage.contains_run(*run) && !self.bad_runs.contains(run);
        let mut runs: Vec<RunName> = self.history.listing.whole_runs().filter(is_usable).collect();
        // If several runs have the same last commit, the shortest comes first.
        runs.sort_by_key(|run| (run.last, Reverse(run.first)));
        let end = self.coverage.uses.last().map_or(Csn::ZERO, |part| part.use_until);
        let behind = Gap { after: end, before: Csn(u64::MAX) };
        let mut spans = Vec::new();
        for gap in self.coverage.gaps.iter().filter(|gap| gap.after < end).chain([&behind]) {
            let mut reached = gap.after;
            for run in runs.iter().filter(|run| run.last > gap.after && run.first < gap.before) {
                let (from, until) = (run.first.max(reached.next()), run.last.min(gap.before.prev()));
                if from <= until {
                    spans.push(Span::Run(*run, CsnRange { from, until }));
                    reached = until;
                }
            }
        }
        spans
    }

    /// Returns the time of the first commit of the span `at`. If a run does not tell that time, returns an earlier time
    /// that is not before the first commit of the preceding span. All spans are of one epoch.
    async fn begin_of(&mut self, spans: &[Span], at: usize) -> Result<CommitTime> {
        let mut at = at;
        loop {
            match spans[at] {
                Span::Chunk(part) => return Ok(self.header(part.chunk).await?.first_time),
                Span::Base(_, time) => return Ok(time),
                Span::Run(run, part) if run.first == part.from || at == 0 => {
                    return Ok(self.run(run).await?.first_time);
                }
                Span::Run(..) => match spans[at - 1] {
                    Span::Chunk(part) if part.use_until == part.chunk.last => {
                        return Ok(self.header(part.chunk).await?.last_time);
                    }
                    Span::Run(before, part) if part.until == before.last => {
                        return Ok(self.run(before).await?.last_time);
                    }
                    Span::Base(_, time) => return Ok(time),
                    Span::Chunk(_) | Span::Run(..) => at -= 1,
                },
            }
        }
    }

    /// Returns the time of the last commit of a span or, for a part of a run, a time that is not earlier.
    async fn end_of(&mut self, span: Span) -> Result<CommitTime> {
        Ok(match span {
            Span::Chunk(part) => self.header(part.chunk).await?.last_time,
            Span::Base(_, time) => time,
            Span::Run(run, _) => self.run(run).await?.last_time,
        })
    }

    async fn run(&mut self, run: RunName) -> Result<&RunManifest> {
        if !self.runs.contains_key(&run) {
            match self.history.run_manifest(run).await {
                Ok(manifest) => drop(self.runs.insert(run, manifest)),
                Err(error) => {
                    if is_unusable(&error) {
                        self.bad_runs.insert(run);
                    }
                    return Err(error);
                }
            }
        }
        Ok(&self.runs[&run])
    }

    async fn header(&mut self, chunk: ChunkName) -> Result<&ChunkHeader> {
        if !self.headers.contains_key(&chunk) {
            let name = ObjectName::Chunk(chunk);
            let archive = &self.history.archive;
            let range = 0..ChunkHeader::ENCODED_LEN as u64;
            let is_header = |bytes: &Bytes| ChunkHeader::decode(bytes, "").is_ok();
            let bytes = archive.get_range_sensible(&name, range, is_header).await?;
            let bytes = bytes.ok_or_else(|| vanished(archive, &name))?;
            self.headers.insert(chunk, ChunkHeader::decode(&bytes, &full_name(archive, &name))?);
        }
        Ok(&self.headers[&chunk])
    }

    /// Returns the span's last commit at or before `time`, which must not lie before the span's first commit. Returns
    /// `None` if only a run covers the commits in question.
    async fn last_at_or_before(&mut self, span: Span, time: CommitTime) -> Result<Option<Csn>> {
        let part = match span {
            Span::Base(csn, _) => return Ok(Some(csn)),
            Span::Run(run, part) => {
                let is_over = part.until == run.last && self.run(run).await?.last_time <= time;
                return Ok(is_over.then_some(run.last));
            }
            Span::Chunk(part) => part,
        };
        if self.header(part.chunk).await?.last_time <= time {
            return Ok(Some(part.use_until));
        }
        let name = ObjectName::Chunk(part.chunk);
        let archive = &self.history.archive;
        let bytes = archive.get_sensible(&name, ChunkHeader::is_of).await?.ok_or_else(|| vanished(archive, &name))?;
        let chunk = Chunk::open(bytes, &full_name(archive, &name))?;
        let mut found = chunk.header().first;
        for commit in chunk.commits() {
            let commit = commit?;
            if commit.time > time || commit.csn > part.use_until {
                break;
            }
            found = commit.csn;
        }
        Ok(Some(found))
    }

    async fn before_history(&mut self, time: CommitTime, first: Option<Span>) -> Error {
        let Some(first) = first else {
            let shortfall = Shortfall {
                reason: "the archive holds no commit of this history".to_owned(),
                below: None,
                above: None,
            };
            return self.unreachable(&Target::Before(time), Csn::ZERO, shortfall, &[]).await;
        };
        let begin = self.text_of(first.first()).await;
        let reason = format!("the archived history begins later, with csn {begin}");
        let above = self.history.reach().ranges.first().copied();
        self.unreachable(&Target::Before(time), Csn::ZERO, Shortfall { reason, below: None, above }, &[]).await
    }

    /// Converts a shortfall to an error that names the nearest restorable commits, with their times where one small
    /// read tells them.
    pub(crate) async fn unreachable(
        &mut self,
        target: &Target,
        csn: Csn,
        short: Shortfall,
        skipped: &[SkippedBase],
    ) -> Error {
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

    /// Returns the text of a csn, with its time if a header or a manifest tells it.
    async fn text_of(&mut self, csn: Csn) -> String {
        self.time_of(csn).await.map_or_else(|| csn.to_string(), |time| format!("{csn} ({time})"))
    }

    /// Returns the time of a commit if a chunk begins or ends with it, a run ends with it or a base is at it. Returns
    /// `None` otherwise, and if the object cannot be read.
    pub(crate) async fn time_of(&mut self, csn: Csn) -> Option<CommitTime> {
        let part = self.coverage.uses.iter().find(|part| part.use_from <= csn && csn <= part.use_until).copied();
        if let Some(ChunkUse { chunk, .. }) = part
            && (chunk.first == csn || chunk.last == csn)
        {
            let header = self.header(chunk).await.ok()?;
            return Some(if chunk.first == csn { header.first_time } else { header.last_time });
        }
        let is_there = |base: &BaseName| base.csn == csn && self.history.lineage.contains(*base);
        if let Some(base) = self.history.listing.whole_bases().find(is_there)
            && let Ok(manifest) = self.history.manifest(BaseStart::whole(base)).await
        {
            return Some(manifest.time);
        }
        let ends = |run: &RunName| run.last == csn && self.history.lineage.contains_run(*run);
        let run = self.history.listing.whole_runs().find(ends)?;
        self.run(run).await.ok().map(|manifest| manifest.last_time)
    }
}
