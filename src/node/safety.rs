//! The progress of commits towards safety, and how old the commits are that a loss would take.
//!
//! Guarantees: the figures stay true when nothing happens: archived commits have no age. A reported lag is never less
//! than the true lag, however far a replica or an archive is behind and however the clock is set.

use super::bases::Bases;
use super::core::Core;
use super::roles::ArchivingStatus;
use crate::clock;
use crate::csn::{CommitTime, Csn};
use crate::ship::feed::FeedStatus;
use std::time::Duration;

/// The progress of commits, and the commits that a loss of this machine would cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Safety {
    /// The last commit and its time.
    pub committed: (Csn, CommitTime),
    /// The last commit that a power cut cannot remove.
    pub durable: Csn,
    /// Time since the oldest commit after `durable` was made, or longer; zero if there is none.
    pub durable_lag: Duration,
    /// The last commit that the archive holds without a gap.
    pub archived: Csn,
    /// Commit time of `archived`; `None` if unknown.
    pub archived_time: Option<CommitTime>,
    /// Time since the oldest commit after `archived` was made, or longer; commits of this period would be lost with
    /// this machine. `None` without an archive.
    pub rpo: Option<Duration>,
    /// Every commit from here to `archived` can be restored; `None` if no commit can be restored or the csn is unknown.
    pub restorable_from: Option<Csn>,
    /// Commit time of `restorable_from`; `None` if unknown.
    pub restorable_from_time: Option<CommitTime>,
}

impl Safety {
    /// Collects the progress of commits.
    #[must_use]
    pub fn of(core: &Core, bases: &Bases, archiving: Option<&ArchivingStatus>) -> Self {
        let watermarks = &core.committer.watermarks;
        // The watermarks are read in this order, so that none of them seems to exceed the next one.
        let (archived, durable) = (watermarks.archived.get(), watermarks.durable.get());
        let (committed, time) = (watermarks.committed.get(), core.committer.committed_time());
        let mut safety = Self {
            committed: (committed, time),
            durable,
            durable_lag: core.committer.ages.of_next(durable, committed),
            archived,
            ..Self::default()
        };
        if let Some(archiving) = archiving {
            safety.rpo = Some(core.committer.ages.of_next(archived, committed));
            let is_all_archived = archived >= committed && committed > Csn::ZERO;
            safety.archived_time = if is_all_archived { Some(time) } else { archiving.spool.archived_time };
            let archive_figures = core.archive_figures.lock();
            let base = bases.last().report.map(|report| report.base.csn);
            let known = archive_figures.as_ref().and_then(|archive_figures| archive_figures.from);
            let begun = (archived > Csn::ZERO && !archiving.began_with_hole).then_some(Csn(1));
            safety.restorable_from = known.or(if archiving.began_with_hole { base } else { begun });
            safety.restorable_from_time =
                known.and(archive_figures.as_ref().and_then(|archive_figures| archive_figures.from_time));
        }
        safety
    }
}

/// Returns by how many microseconds the wall clock is ahead of the commit clock; negative if it is behind. 0 on a
/// replica.
pub fn clock_ahead_us(core: &Core) -> i64 {
    let (wall, commits) = (clock::now_micros(), core.committer.clock.now().0);
    let apart = i64::try_from(wall.abs_diff(commits)).unwrap_or(i64::MAX);
    if wall >= commits { apart } else { -apart }
}

/// Returns the time since the commit after `csn` was made, or longer; zero if there is none.
pub fn age_of_next(core: &Core, csn: Csn) -> Duration {
    core.committer.ages.of_next(csn, core.committer.watermarks.committed.get())
}

/// Returns the time since the oldest commit was made that a replica has not applied, or longer; zero if there is none.
pub fn replica_lag(core: &Core, feed: &FeedStatus) -> Duration {
    let (applied, committed) = (feed.ack.applied, core.committer.watermarks.committed.get());
    let age = core.committer.ages.of_next(applied, committed);
    let is_known = core.committer.ages.known_from().is_some_and(|from| from <= applied.next());
    if applied >= committed || is_known || feed.had_time == CommitTime::default() {
        return age;
    }
    // The missing commits are older than every commit with a known age, and younger than the last one that the replica
    // had.
    age.max(Duration::from_micros(core.committer.clock.now().0.saturating_sub(feed.had_time.0)))
}
