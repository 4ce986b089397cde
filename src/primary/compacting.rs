//! Builds compacted runs on a schedule (`compact-per`), on a primary or a replica; a primary does so in its second archive,
//! too.
//!
//! Guarantees: an hour or a day is built soon after it is over and a later commit shows that; whatever ends an attempt, the
//! next one, by whichever node, goes on after the newest run. While nothing is written nothing is asked. A fenced node
//! builds nothing. What came of it is shown by INFO and the metrics.
//! Needs memory for the lists and sorted sets a second time while it builds.

use super::node::Node;
use super::second_archive;
use crate::archive::store::Archive;
use crate::clock;
use crate::command::host::Host;
use crate::compact::runs::{self, Options};
use crate::csn::Csn;
use crate::error::{Error, Result};
use crate::grain::Grain;
use crate::history::target::Target;
use crate::restore::progress;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Time between two looks at the settings.
const LOOK: Duration = Duration::from_millis(500);
/// After the end of an hour, until the commit that shows it to be over is archived, if there is one soon.
const SETTLE: Duration = Duration::from_secs(120);
/// Pause after an attempt: what is committed is in the archive a little later.
const PAUSE: Duration = Duration::from_secs(5);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(60);

/// What compacting did since the start.
#[derive(Clone, Debug, Default)]
pub struct Compacted {
    /// Runs built.
    pub runs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The last commit in one, as of the last attempt.
    pub until: Csn,
    /// End of the last attempt, ms since the Unix epoch; 0: there was none.
    pub ended_ms: u64,
    /// Why it failed; none if it did not.
    pub error: Option<String>,
}

/// When the last attempt was made.
struct Attempt {
    grain: Grain,
    /// Number of the hour or day it was made in.
    period: u64,
    /// The last commit then.
    committed: Csn,
    /// The last commit in a run after it.
    compacted: Csn,
}

impl Attempt {
    fn made(grain: Grain, now_ms: u64, committed: Csn, compacted: Csn) -> Self {
        Self { grain, period: period(grain, now_ms), committed, compacted }
    }

    /// Whether the next one may find something that is over.
    fn is_outdated(&self, grain: Grain, now_ms: u64, committed: Csn) -> bool {
        let is_over = match grain {
            Grain::Commits(count) => committed.since(self.compacted) >= count,
            Grain::Hour | Grain::Day => period(grain, now_ms) != self.period && committed > self.committed,
        };
        grain != self.grain || is_over
    }
}

/// The number of the hour or day that has begun, and settled, at a time.
fn period(grain: Grain, now_ms: u64) -> u64 {
    let settled = Duration::from_millis(now_ms).saturating_sub(SETTLE);
    match grain {
        Grain::Hour => settled.as_secs() / 3600,
        Grain::Day => settled.as_secs() / (24 * 3600),
        Grain::Commits(_) => 0,
    }
}

/// Starts the schedule; it ends with the node.
pub(super) fn start(node: &Arc<Node>) {
    if node.archive.is_some() {
        node.spawn_until_stop(run(Arc::downgrade(node)));
    }
}

async fn run(node: Weak<Node>) {
    let mut last: Option<Attempt> = None;
    let mut not_before = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(node) = node.upgrade() else { return };
        let Some(grain) = node.config().compact_per else { continue };
        let (now_ms, committed) = (clock::now_millis(), node.committer.watermarks.committed.get());
        let is_due = last.as_ref().is_none_or(|last| last.is_outdated(grain, now_ms, committed));
        if !is_due || Instant::now() < not_before || node.committer.gate.leaves_archive_alone() {
            continue;
        }
        let compacted = compact(&node, grain).await;
        not_before = Instant::now() + if compacted.is_ok() { PAUSE } else { RETRY };
        let mut told = node.compacted.lock();
        told.ended_ms = clock::now_millis();
        match compacted {
            Ok(until) => {
                last = Some(Attempt::made(grain, now_ms, committed, until));
                (told.until, told.error) = (until, None);
            }
            Err(error) => {
                tracing::warn!(%error, "building compacted runs failed; it is tried again");
                told.error = Some(error.to_string());
            }
        }
    }
}

/// Builds what is due, in the archive and on a primary in the second one; gives the last commit in a run of the first.
async fn compact(node: &Node, grain: Grain) -> Result<Csn> {
    let archive = node.archive.as_ref().expect("started only with one");
    let until = build(node, archive, grain).await?;
    if let Some(second) = second_archive::kept_by(node)? {
        build(node, &second, grain).await?;
    }
    Ok(until)
}

async fn build(node: &Node, archive: &Archive, grain: Grain) -> Result<Csn> {
    let scratch = node.dir.run();
    clear(&scratch)?;
    std::fs::create_dir_all(&scratch).map_err(Error::io("create", &scratch))?;
    let report = runs::build(
        archive,
        Options {
            grain,
            until: Target::Latest,
            epoch: Some(node.identity().epoch()),
            scratch: scratch.clone(),
            io: Arc::clone(&node.backends.bulk),
            progress: progress::silent(),
        },
    )
    .await;
    clear(&scratch)?;
    let report = report?;
    let mut compacted = node.compacted.lock();
    compacted.runs += report.runs.len() as u64;
    compacted.bytes += report.runs.iter().map(|run| run.bytes).sum::<u64>();
    drop(compacted);
    if !report.runs.is_empty() {
        let (count, until) = (report.runs.len(), report.compacted_until.0);
        tracing::info!(archive = archive.url(), runs = count, until, "compacted runs were built");
    }
    Ok(report.compacted_until)
}

/// Removes what a crash left.
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
