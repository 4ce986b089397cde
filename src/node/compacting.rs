//! Builds compacted runs on a schedule (`compact-per`), on a primary or a replica. A primary also builds them in its
//! second archive.
//!
//! Guarantees: an hour or a day is built soon after it is over and a later commit proves its end. After a failed
//! attempt, the next one continues after the newest run, on whichever node it runs. While nothing is written, no
//! request is sent. A fenced node builds nothing. INFO and the metrics show the results.
//!
//! While building, the node needs memory for a second copy of the lists and sorted sets.

use super::core::Core;
use super::every::every;
use crate::archive::store::Archive;
use crate::clock;
use crate::compact::runs::{self, Options};
use crate::csn::Csn;
use crate::error::{Error, Result};
use crate::grain::Grain;
use crate::history::target::Target;
use crate::restore::progress;
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Time between the end of an hour or a day and the attempt to build it, so that a commit that proves the end can be
/// archived.
const SETTLE: Duration = Duration::from_secs(120);
/// Pause after a successful attempt; later commits reach the archive with a delay.
const PAUSE: Duration = Duration::from_secs(5);
/// Pause after a failed attempt.
const RETRY: Duration = Duration::from_secs(60);

/// The results of compacting since the start.
#[derive(Clone, Debug, Default)]
pub struct Compacted {
    /// Number of runs built.
    pub runs: u64,
    /// Bytes of these runs.
    pub bytes: u64,
    /// The last commit in a run, as of the last successful attempt.
    pub until: Csn,
    /// When the last attempt ended, in milliseconds since the Unix epoch; 0 if there was none.
    pub ended_ms: u64,
    /// Why the last attempt failed; `None` if it succeeded.
    pub error: Option<String>,
}

/// The circumstances of the last successful attempt.
struct Attempt {
    grain: Grain,
    /// Number of the hour or day in which the attempt was made.
    period: u64,
    /// The last commit when the attempt began.
    committed: Csn,
    /// The last commit in a run after the attempt.
    compacted: Csn,
}

impl Attempt {
    fn made(grain: Grain, now_ms: u64, committed: Csn, compacted: Csn) -> Self {
        Self { grain, period: period(grain, now_ms), committed, compacted }
    }

    /// Reports whether a new attempt may find a complete hour, day or number of commits.
    fn is_outdated(&self, grain: Grain, now_ms: u64, committed: Csn) -> bool {
        let is_over = match grain {
            Grain::Commits(count) => committed.since(self.compacted) >= count,
            Grain::Hour | Grain::Day => period(grain, now_ms) != self.period && committed > self.committed,
        };
        grain != self.grain || is_over
    }
}

/// Returns the number of the hour or day that contains `now_ms` minus [`SETTLE`].
fn period(grain: Grain, now_ms: u64) -> u64 {
    let settled = Duration::from_millis(now_ms).saturating_sub(SETTLE);
    match grain {
        Grain::Hour => settled.as_secs() / 3600,
        Grain::Day => settled.as_secs() / (24 * 3600),
        Grain::Commits(_) => 0,
    }
}

/// Builds compacted runs on a schedule.
pub struct Compacting {
    core: Arc<Core>,
    /// The last successful attempt; `None` before the first.
    last: Mutex<Option<Attempt>>,
    status: Mutex<Compacted>,
}

impl Compacting {
    /// Creates the state of a node that has built nothing.
    #[must_use]
    pub fn new(core: Arc<Core>) -> Arc<Self> {
        Arc::new(Self { core, last: Mutex::default(), status: Mutex::default() })
    }

    /// Starts the schedule, which ends with the node.
    pub(super) fn start_schedule(self: &Arc<Self>) {
        if self.core.archive.is_some() {
            let attempt = |compacting: Arc<Self>| async move { compacting.attempt().await };
            self.core.spawn_until_stop(every(Arc::downgrade(self), Self::pause, attempt));
        }
    }

    /// Returns the results of compacting since the start.
    #[must_use]
    pub fn status(&self) -> Compacted {
        self.status.lock().clone()
    }

    /// Returns the pause between the end of the last attempt and the next attempt; `None` while an attempt would find
    /// nothing to build or must not be made.
    fn pause(&self) -> Option<Duration> {
        let grain = self.core.config().compact_per?;
        let committed = self.core.committer.watermarks.committed.get();
        let is_due =
            self.last.lock().as_ref().is_none_or(|last| last.is_outdated(grain, clock::now_millis(), committed));
        if !is_due || self.core.committer.gate.leaves_archive_alone() {
            return None;
        }
        let status = self.status.lock();
        Some(match (status.ended_ms, &status.error) {
            (0, _) => Duration::ZERO,
            (_, None) => PAUSE,
            (_, Some(_)) => RETRY,
        })
    }

    async fn attempt(&self) {
        let Some(grain) = self.core.config().compact_per else { return };
        let (now_ms, committed) = (clock::now_millis(), self.core.committer.watermarks.committed.get());
        let compacted = self.compact(grain).await;
        let mut told = self.status.lock();
        told.ended_ms = clock::now_millis();
        match compacted {
            Ok(until) => {
                *self.last.lock() = Some(Attempt::made(grain, now_ms, committed, until));
                (told.until, told.error) = (until, None);
            }
            Err(error) => {
                tracing::warn!(%error, "building compacted runs failed; it is retried");
                told.error = Some(error.to_string());
            }
        }
    }

    /// Builds the due runs in the archive and, on a primary, in the second archive. Returns the last commit in a run of
    /// the first.
    async fn compact(&self, grain: Grain) -> Result<Csn> {
        let archive = self.core.archive.as_ref().expect("started only with one");
        let until = self.build(archive, grain).await?;
        if let Some(second) = self.core.second_archive()? {
            self.build(&second, grain).await?;
        }
        Ok(until)
    }

    async fn build(&self, archive: &Archive, grain: Grain) -> Result<Csn> {
        let core = &self.core;
        let scratch = core.dir.run();
        clear(&scratch)?;
        std::fs::create_dir_all(&scratch).map_err(Error::io("create", &scratch))?;
        let report = runs::build(
            archive,
            Options {
                grain,
                until: Target::Latest,
                epoch: Some(core.epoch()),
                scratch: scratch.clone(),
                io: Arc::clone(&core.backends.bulk),
                progress: progress::silent(),
            },
        )
        .await;
        clear(&scratch)?;
        let report = report?;
        let mut compacted = self.status.lock();
        compacted.runs += report.runs.len() as u64;
        compacted.bytes += report.runs.iter().map(|run| run.bytes).sum::<u64>();
        drop(compacted);
        if !report.runs.is_empty() {
            let (count, until) = (report.runs.len(), report.compacted_until.0);
            tracing::info!(archive = archive.url(), runs = count, until, "compacted runs were built");
        }
        Ok(report.compacted_until)
    }
}

/// Removes the scratch directory, which an earlier crash may have left.
fn clear(scratch: &Path) -> Result<()> {
    match std::fs::remove_dir_all(scratch) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", scratch)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    #[test]
    fn an_attempt_is_due_once_something_may_be_over() {
        let settled = SETTLE.as_millis() as u64;
        for (grain, length) in [(Grain::Hour, HOUR_MS), (Grain::Day, 24 * HOUR_MS)] {
            let last = Attempt::made(grain, 500_000 * length + settled, Csn(10), Csn(7));
            let is_due = |now_ms, committed| last.is_outdated(grain, now_ms, Csn(committed));
            assert!(!is_due(500_001 * length - 1, 1000), "it is not over");
            assert!(!is_due(500_001 * length + settled - 1, 1000), "it has not settled");
            assert!(is_due(500_001 * length + settled, 11));
            assert!(!is_due(500_009 * length, 10), "nothing was written since");
        }
        let last = Attempt::made(Grain::Commits(5), 0, Csn(18), Csn(10));
        assert!(!last.is_outdated(Grain::Commits(5), HOUR_MS, Csn(14)));
        assert!(last.is_outdated(Grain::Commits(5), HOUR_MS, Csn(18)), "it was not in the archive yet");
        assert!(last.is_outdated(Grain::Hour, HOUR_MS, Csn(10)), "the setting changed");
    }
}
