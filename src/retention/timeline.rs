//! One line of history, and what the policy promises of it.
//!
//! Pure. Outside the fine window there are two kinds of restore points. The first kind needs few or no chunks: bases,
//! and the ends of compacted runs, which need the runs that lead there. The second kind is any other commit, which
//! needs the chunks that lead to it. A period is represented by the last base in it; without a base, by the last end
//! of a run; without either, by the last commit.

use crate::archive::layout::ChunkName;
use crate::archive::lineage::Lineage;
use crate::csn::{CommitTime, Csn, Epoch};
use crate::history::reach::CsnRange;
use crate::keep::{Period, Tier, Windows, micros};
use crate::plain_name::PlainName;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// Why commits are promised.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Why {
    /// The policy keeps everything.
    Everything,
    /// The commits lie within the fine window.
    Fine,
    /// The commit represents a period.
    Period(Period),
    /// The newest base and everything after it stay.
    Newest,
    /// A mark names the commit.
    Mark(PlainName),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str("everything is kept"),
            Self::Fine => f.write_str("fine"),
            Self::Period(period) => period.fmt(f),
            Self::Newest => f.write_str("newest base"),
            Self::Mark(name) => write!(f, "mark {name}"),
        }
    }
}

impl Serialize for Why {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Commits that stay restorable.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Promise {
    /// The last epoch of the line on which the commits lie.
    pub leaf: Epoch,
    /// The range of commits; the promise covers those that can be restored before the prune.
    pub commits: CsnRange,
    /// The reason.
    pub why: Why,
}

/// When the commits of a chunk were made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Time of the first commit.
    pub first: CommitTime,
    /// Time of the last commit.
    pub last: CommitTime,
}

/// A stretch of commits of one chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The chunk.
    pub chunk: ChunkName,
    /// First commit of the chunk that is used on this line.
    pub from: Csn,
    /// Last commit of the chunk that is used on this line.
    pub until: Csn,
    /// Times of the chunk's commits; `None` within the fine window.
    pub span: Option<Span>,
}

/// A restore point that needs few or no chunks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RestorePoint {
    /// Csn of the restored commit.
    pub csn: Csn,
    /// Time of that commit.
    pub time: CommitTime,
    /// Whether the point is a base; otherwise it is the end of a run.
    pub is_base: bool,
}

/// One line of history, as retention sees it.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// The line.
    pub lineage: Lineage,
    /// The last commit that the newest line has too and that is promised there; 0 on the newest line itself.
    pub after: Csn,
    /// Whether the line is the newest line of the archive.
    pub is_newest: bool,
    /// Whether the line has, or had before a prune, commits that are not on the newest line.
    pub has_own: bool,
    /// The stretches of commits in chunks, by csn.
    pub pieces: Vec<Piece>,
    /// Usable bases and ends of runs, by csn.
    pub restore_points: Vec<RestorePoint>,
}

impl Timeline {
    fn bases(&self) -> impl DoubleEndedIterator<Item = &RestorePoint> {
        self.restore_points.iter().filter(|point| point.is_base)
    }

    /// Returns the last known csn.
    #[must_use]
    pub fn end(&self) -> Csn {
        let pieces = self.pieces.last().map(|piece| piece.until);
        pieces.max(self.restore_points.last().map(|point| point.csn)).unwrap_or(self.after).max(self.after)
    }

    fn promise(&self, from: Csn, until: Csn, why: Why) -> Promise {
        let commits = CsnRange { from: from.max(Csn(1)), until: until.max(Csn(1)) };
        Promise { leaf: self.lineage.leaf(), commits, why }
    }

    /// Returns the promise that everything stays.
    #[must_use]
    pub fn everything(&self) -> Vec<Promise> {
        if self.end() <= self.after {
            return Vec::new();
        }
        vec![self.promise(self.after.next(), Csn(u64::MAX), Why::Everything)]
    }

    /// Returns the last commit before the fine window. `None` if none of the line's own commits are in the window and
    /// the line is not the newest.
    #[must_use]
    pub fn floor(&self, start: CommitTime) -> Option<Csn> {
        let mut own_pieces = self.pieces.iter().filter(|piece| piece.until > self.after);
        let piece = own_pieces.find(|piece| piece.span.is_none()).map(|piece| piece.from.prev());
        let mut own_bases = self.bases().filter(|point| point.csn > self.after);
        let base = own_bases.find(|point| point.time >= start).map(|point| point.csn);
        match (piece, base) {
            (None, None) => self.is_newest.then(|| self.end()),
            (piece, base) => piece.into_iter().chain(base).min(),
        }
    }

    /// Returns what the policy promises of this line.
    #[must_use]
    pub fn promises(&self, windows: &Windows, now: CommitTime) -> Vec<Promise> {
        let start = CommitTime(now.0.saturating_sub(micros(windows.fine)));
        let mut promises = Vec::new();
        if !self.has_own {
            return promises;
        }
        if let Some(floor) = self.floor(start) {
            let from = if floor > self.after { floor } else { self.after.next() };
            promises.push(self.promise(from, Csn(u64::MAX), Why::Fine));
        }
        let newest = self.bases().next_back().filter(|_| self.is_newest);
        if let Some(newest) = newest {
            promises.push(self.promise(newest.csn, Csn(u64::MAX), Why::Newest));
        } else if self.is_newest && !self.pieces.is_empty() {
            promises.push(self.promise(Csn(1), Csn(u64::MAX), Why::Newest));
        }
        let old_points: Vec<RestorePoint> =
            self.restore_points.iter().filter(|point| point.time < start).copied().collect();
        let old_pieces: Vec<(Piece, Span)> =
            self.pieces.iter().map_while(|piece| piece.span.map(|span| (*piece, span))).collect();
        for tier in &windows.tiers {
            let points = self.tier_points(tier, (start, now), &old_points, &old_pieces);
            promises.extend(points.into_iter().map(|it| self.promise(it.from, it.until, Why::Period(tier.period))));
        }
        promises
    }

    /// Returns the commits that represent a tier's periods before the fine window, which begins at `start`.
    ///
    /// On the newest line, if the tier's first period has no commit, the last commit before it is returned, even if
    /// that commit is older than the tier's span. On any other line only periods from the fork on count. The choice
    /// depends on the line alone, so that it does not change when a promotion abandons the line.
    fn tier_points(
        &self,
        tier: &Tier,
        (start, now): (CommitTime, CommitTime),
        restore_points: &[RestorePoint],
        pieces: &[(Piece, Span)],
    ) -> Vec<CsnRange> {
        let period = tier.period;
        let first = period.of(CommitTime(now.0.saturating_sub(micros(tier.span))));
        let last = period.of(start);
        // The last base of each period that has a base, otherwise the last end of a run.
        let ends = restore_points.iter().filter(|point| !point.is_base);
        let by_age = ends.chain(restore_points.iter().filter(|point| point.is_base));
        let by_period: BTreeMap<u64, Csn> = by_age.map(|point| (period.of(point.time), point.csn)).collect();
        let reached = |span: &Span| (period.of(span.first), period.of(span.last));
        // Periods that lie wholly before the fork are the same on the newest line, which promises them.
        let first = if self.is_newest { first } else { first.max(self.fork_period(period, restore_points, pieces)) };
        let one = |csn: &Csn| CsnRange { from: *csn, until: *csn };
        let mut points: Vec<CsnRange> = by_period.range(first..=last).map(|(_, csn)| one(csn)).collect();
        let mut has_first = by_period.contains_key(&first);
        let mut before = by_period.range(..first).next_back().map(|(number, csn)| (*number, one(csn)));
        let mut reached_before = 0;
        for (nth, (piece, span)) in pieces.iter().enumerate() {
            let (mut begins, ends) = reached(span);
            if piece.from > piece.chunk.first {
                // The piece does not begin with its chunk's first commit, so the time of the piece's first commit is
                // unknown.
                begins = begins.max(reached_before).min(ends);
            }
            reached_before = ends;
            has_first |= begins <= first && first <= ends;
            // The periods whose last commit lies in this piece: those that end before the next piece begins.
            let next_begins = match pieces.get(nth + 1) {
                Some((next, span)) if next.from == next.chunk.first => period.of(span.first),
                Some(_) => ends + 1,
                None => u64::MAX,
            };
            if next_begins <= begins {
                continue;
            }
            let until = ends.min(next_begins - 1);
            // In a piece over several periods it is unknown which commit is the last of a period, so the whole piece
            // is kept.
            let point = CsnRange { from: if begins == ends { piece.until } else { piece.from }, until: piece.until };
            if until < first {
                if before.is_none_or(|(number, _)| number < until) {
                    before = Some((until, point));
                }
                continue;
            }
            let (from, until) = (begins.max(first), until.min(last));
            if from <= until && (by_period.range(from..=until).count() as u64) < until - from + 1 {
                points.push(point);
            }
        }
        if self.is_newest && !has_first {
            points.extend(before.map(|(_, point)| point));
        }
        points
    }

    /// Returns the period of the last known commit at or before the fork. The fork lies in that period or in a later
    /// one.
    fn fork_period(&self, period: Period, restore_points: &[RestorePoint], pieces: &[(Piece, Span)]) -> u64 {
        let base = restore_points.iter().rfind(|point| point.csn <= self.after).map(|point| period.of(point.time));
        let piece = pieces.iter().rfind(|(piece, _)| piece.from <= self.after).map(|(_, span)| period.of(span.first));
        base.max(piece).unwrap_or_default()
    }
}
