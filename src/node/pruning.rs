//! Prunes the archive on a schedule (`prune-interval`), on a primary or a replica. A primary also prunes its second
//! archive.
//!
//! Guarantees: this node runs one prune at a time. A fenced node prunes nothing. INFO and the metrics show the result
//! or the error of the last prune.

use super::core::Core;
use super::every::every;
use crate::archive::pins;
use crate::archive::store::Archive;
use crate::clock;
use crate::history::archive_figures::ArchiveFigures;
use crate::history::line::History;
use crate::retention::{PruneOptions, prune};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// The result of the last scheduled prune.
#[derive(Clone, Debug, Default)]
pub struct LastPrune {
    /// When the prune ended, in milliseconds since the Unix epoch; 0 if there was none.
    pub ended_ms: u64,
    /// Number of objects removed.
    pub removed: u64,
    /// Bytes of these objects.
    pub bytes_removed: u64,
    /// Why the prune failed or could not remove every object; `None` if there was no error.
    pub error: Option<String>,
}

/// Prunes the archives on a schedule.
pub struct Pruning {
    core: Arc<Core>,
    last: Mutex<LastPrune>,
}

impl Pruning {
    /// Creates the state of a node that has pruned nothing.
    #[must_use]
    pub fn new(core: Arc<Core>) -> Arc<Self> {
        Arc::new(Self { core, last: Mutex::default() })
    }

    /// Starts the schedule, which ends with the node.
    pub(super) fn start_schedule(self: &Arc<Self>) {
        if self.core.archive.is_some() {
            let owner = Arc::downgrade(self);
            self.core.spawn_until_stop(async move {
                if let Some(pruning) = owner.upgrade() {
                    pruning.end_left_behind().await;
                }
                every(owner, Self::interval, |pruning| async move { pruning.prune_once().await }).await;
            });
        }
    }

    /// Returns the result of the last scheduled prune.
    #[must_use]
    pub fn last(&self) -> LastPrune {
        self.last.lock().clone()
    }

    /// Returns the time between two prunes; `None` while the node must not prune.
    fn interval(&self) -> Option<Duration> {
        let interval = self.core.config().prune_interval;
        Some(interval).filter(|interval| !interval.is_zero() && !self.core.committer.gate.leaves_archive_alone())
    }

    /// Removes the pins of prunes that ended with an earlier process of this node.
    async fn end_left_behind(&self) {
        let name = self.core.identity().node;
        let second = self.core.second_archive().unwrap_or_default();
        for archive in self.core.archive.iter().chain(&second) {
            pins::end_left_behind(archive, &name).await;
        }
    }

    /// Prunes the archive and, on a primary, the second archive.
    async fn prune_once(&self) {
        let core = &self.core;
        let Some(archive) = &core.archive else { return };
        let mut last = LastPrune::default();
        prune_archive(core, archive, &mut last).await;
        match core.second_archive() {
            Ok(Some(second)) => prune_archive(core, &second, &mut last).await,
            Ok(None) => {}
            Err(error) => last.error = Some(error.to_string()),
        }
        last.ended_ms = clock::now_millis();
        *self.last.lock() = last;
        if let Ok(history) = History::read(archive, Some(core.epoch())).await {
            *core.archive_figures.lock() = Some(ArchiveFigures::of(&history).await);
        }
    }
}

/// Prunes one archive and adds the result to `last`.
async fn prune_archive(core: &Core, archive: &Archive, last: &mut LastPrune) {
    let config = core.config();
    let node_name = Some(core.identity().node);
    let options = PruneOptions { keep: config.keep.clone(), grace: config.prune_grace, confirm: true, node: node_name };
    let error = match prune(archive, &options).await {
        Ok(report) => {
            last.removed += report.removed;
            last.bytes_removed += report.bytes_removed;
            let (removed, bytes, error) = (report.removed, report.bytes_removed, &report.denied);
            tracing::info!(archive = archive.url(), removed, bytes, error, "pruned");
            report.denied
        }
        Err(error) => {
            tracing::warn!(archive = archive.url(), %error, "a prune failed; the next prune continues");
            Some(error.to_string())
        }
    };
    last.error = last.error.take().or(error.map(|error| format!("{}: {error}", archive.url())));
}
