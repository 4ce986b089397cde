//! The content that the newest line of history must have at any csn.
//!
//! History is a sequence of eras; each epoch begins an era. Within an era every commit is a step of a writer's line or
//! the deletion of a mayfly, so that `csn = offset + positions + deletions`. A server at `csn` must hold a prefix of
//! each writer's line, and the lengths of the prefixes must add up.

use super::super::dump::Dump;
use super::line::{Kind, Line, foreign_keys};
use std::ops::RangeInclusive;

/// The commits under one epoch.
#[derive(Clone)]
pub(crate) struct Era {
    /// The epoch.
    pub epoch: u64,
    /// The last commit that the era shares with the previous era.
    pub fork: u64,
    /// The commit at which the lines begin: at or after the fork. The commits between are those of the previous era's
    /// lines, although they belong to this epoch.
    pub begin: u64,
    /// Number of commits that no writer made: csn minus positions and deletions.
    pub offset: i64,
    /// The line of each writer.
    pub lines: Vec<Line>,
}

/// A moment without load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Quiet {
    /// The last commit.
    pub csn: u64,
    /// A time in microseconds since the Unix epoch, after that commit and before the next.
    pub at_us: u64,
}

/// The newest line of history.
pub(super) struct Chronicle {
    /// The eras, oldest first; never empty.
    pub eras: Vec<Era>,
    /// Ends of rounds that lie on the newest line of history.
    pub quiets: Vec<Quiet>,
    /// Ranges of commits whose content is not known exactly, because a power cut took some of them.
    pub hazy: Vec<RangeInclusive<u64>>,
}

impl Era {
    /// Returns the positions of all writers in a dump, or the first difference between the dump and the lines.
    pub(crate) fn find(&self, found: &Dump) -> Result<Vec<u64>, String> {
        let foreign = foreign_keys(found, self.lines.len());
        if !foreign.is_empty() {
            return Err(format!("keys that nobody wrote: {foreign:?}"));
        }
        self.lines.iter().map(|line| line.find_in(found)).collect()
    }

    /// Returns the number of positions of writers whose keys expire; each such position leads to one deletion.
    pub(crate) fn mayflies(&self, positions: &[u64]) -> u64 {
        let is_mayfly = |(line, position): (&Line, &u64)| if line.kind == Kind::Mayfly { *position } else { 0 };
        self.lines.iter().zip(positions).map(is_mayfly).sum()
    }

    /// Returns the csn for these positions, once every mayfly is deleted.
    pub(crate) fn settled_csn(&self, positions: &[u64]) -> u64 {
        let made = positions.iter().sum::<u64>() + self.mayflies(positions);
        self.offset.checked_add_unsigned(made).and_then(|csn| csn.try_into().ok()).expect("a csn is not negative")
    }

    /// Judges a dump that was read at a csn.
    pub(crate) fn judge(&self, csn: u64, found: &Dump) -> Result<(), String> {
        let positions = self.find(found)?;
        let (most, mayflies) = (self.settled_csn(&positions), self.mayflies(&positions));
        if csn > most || csn + mayflies < most {
            return Err(format!(
                "positions {positions:?} make csn {} to {most}, not {csn}: commits are missing or twice there",
                most - mayflies
            ));
        }
        Ok(())
    }
}

impl Chronicle {
    /// Returns the current era.
    pub(super) fn now(&self) -> &Era {
        self.eras.last().expect("a chronicle is never empty")
    }

    /// Returns the current era for changes.
    pub(super) fn now_mut(&mut self) -> &mut Era {
        self.eras.last_mut().expect("a chronicle is never empty")
    }

    /// Begins an era, and forgets the quiet moments beyond its fork, which are not on the newest line.
    pub(super) fn begin(&mut self, era: Era) {
        self.quiets.retain(|quiet| quiet.csn <= era.fork);
        self.eras.push(era);
    }

    /// Returns the era of a csn on the newest line.
    pub(super) fn era_of(&self, csn: u64) -> &Era {
        self.eras.iter().rev().find(|era| era.begin <= csn).unwrap_or(&self.eras[0])
    }

    /// Judges a dump that was read at a csn of the newest line; returns `false` if its content is not known exactly.
    pub(super) fn judge(&self, csn: u64, found: &Dump) -> Result<bool, String> {
        if self.hazy.iter().any(|range| range.contains(&csn)) {
            return Ok(false);
        }
        self.era_of(csn).judge(csn, found).map(|()| true)
    }
}
