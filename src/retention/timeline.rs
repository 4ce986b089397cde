//! One line of history as retention sees it, and what the policy promises of it.
//!
//! Pure. Outside the fine window there are two kinds of restore points: cheap ones, which need no chunks to speak of
//! (bases, and the ends of compacted runs, which need the runs that lead there), and any other commit, which needs the
//! chunks that lead to it. A period is answered by the last base in it; if there is none, by the last end of a run; if
//! there is none, by the last commit.

use crate::archive::layout::ChunkName;
use crate::archive::lineage::Lineage;
use crate::csn::{CommitTime, Csn, Epoch};
use crate::history::reach::CsnRange;
use crate::keep::{Period, Tier, Windows, micros};
use crate::plain_name::PlainName;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// Why something is promised.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Why {
    /// The policy keeps everything.
    Everything,
    /// It lies within the fine window.
    Fine,
    /// It is the state of a period.
    Period(Period),
    /// The newest base and everything after it.
    Newest,
    /// A mark names it.
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
    /// The line of history they lie on, by the epoch it ends in.
    pub leaf: Epoch,
    /// From this one to that one, as far as they can be restored now.
    pub commits: CsnRange,
    /// Why.
    pub why: Why,
}

/// When the commits of a chunk were made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The first.
    pub first: CommitTime,
    /// The last.
    pub last: CommitTime,
}

/// A stretch of commits that one chunk carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The chunk.
    pub chunk: ChunkName,
    /// First commit that counts here.
    pub from: Csn,
    /// Last commit that counts here.
    pub until: Csn,
    /// None: within the fine window.
    pub span: Option<Span>,
}

/// A restore point that needs no chunks to speak of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RestorePoint {
    /// Its commit.
    pub csn: Csn,
    /// When that was made.
    pub time: CommitTime,
    /// Whether it is a base: else the end of a run.
    pub is_base: bool,
}

/// A line of history.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// The line.
    pub lineage: Lineage,
    /// Commits up to here are another line's to care for; 0 on the newest line.
    pub after: Csn,
    /// Whether it is the newest line.
    pub is_newest: bool,
    /// Whether there is, or was before a prune, anything on it that is not on the newest line.
    pub has_own: bool,
    /// Chunks' commits, by csn.
    pub pieces: Vec<Piece>,
    /// Usable bases and ends of runs, by csn.
    pub restore_points: Vec<RestorePoint>,
}

impl Timeline {
    fn bases(&self) -> impl DoubleEndedIterator<Item = &RestorePoint> {
        self.restore_points.iter().filter(|point| point.is_base)
    }

    /// The last csn known.
    #[must_use]
    pub fn end(&self) -> Csn {
        let pieces = self.pieces.last().map(|piece| piece.until);
        pieces.max(self.restore_points.last().map(|point| point.csn)).unwrap_or(self.after).max(self.after)
    }

    fn promise(&self, from: Csn, until: Csn, why: Why) -> Promise {
        let commits = CsnRange { from: from.max(Csn(1)), until: until.max(Csn(1)) };
        Promise { leaf: self.lineage.leaf(), commits, why }
    }

    /// What stays when everything stays.
    #[must_use]
    pub fn everything(&self) -> Vec<Promise> {
        if self.end() <= self.after {
            return Vec::new();
        }
        vec![self.promise(self.after.next(), Csn(u64::MAX), Why::Everything)]
    }

    /// The last commit before what is fine of this line's own; `None` if nothing of it is and it is not the newest.
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

    /// What the policy promises of this line.
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

    /// The commits that answer a tier's periods before the fine window, which begins at `start`.
    ///
    /// On the newest line a period without commits is answered by the last one before it, even if that is older than the
    /// tier reaches. On any other line only periods from its fork on count. What answers a period depends on the line alone,
    /// so that it does not change when the line is left.
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
        // The last base of each period that has one, else the last end of a run.
        let ends = restore_points.iter().filter(|point| !point.is_base);
        let by_age = ends.chain(restore_points.iter().filter(|point| point.is_base));
        let by_period: BTreeMap<u64, Csn> = by_age.map(|point| (period.of(point.time), point.csn)).collect();
        let reached = |span: &Span| (period.of(span.first), period.of(span.last));
        // What lies wholly before the fork is the same on the newest line, which cares for it.
        let first = if self.is_newest { first } else { first.max(self.fork_period(period, restore_points, pieces)) };
        let one = |csn: &Csn| CsnRange { from: *csn, until: *csn };
        let mut points: Vec<CsnRange> = by_period.range(first..=last).map(|(_, csn)| one(csn)).collect();
        let mut has_first = by_period.contains_key(&first);
        let mut before = by_period.range(..first).next_back().map(|(number, csn)| (*number, one(csn)));
        let mut reached_before = 0;
        for (nth, (piece, span)) in pieces.iter().enumerate() {
            let (mut begins, ends) = reached(span);
            if piece.from > piece.chunk.first {
                // Its chunk's first commits count from another one: when its own first was made is not known.
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
            // Of a piece that reaches over several periods it is not known which commit ends which: all of it stays.
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

    /// The period of the last known commit at or before the fork; the fork itself lies in it or behind it.
    fn fork_period(&self, period: Period, restore_points: &[RestorePoint], pieces: &[(Piece, Span)]) -> u64 {
        let base = restore_points.iter().rfind(|point| point.csn <= self.after).map(|point| period.of(point.time));
        let piece = pieces.iter().rfind(|(piece, _)| piece.from <= self.after).map(|(_, span)| period.of(span.first));
        base.max(piece).unwrap_or_default()
    }
}
