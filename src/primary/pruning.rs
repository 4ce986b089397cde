//! Prunes the archive on a schedule (`prune-interval`), on a primary or a replica. A primary also prunes its second
//! archive.
//!
//! Guarantees: this node runs one prune at a time. A fenced node prunes nothing. INFO and the metrics show the result
//! or the error of the last prune.

use super::node::Node;
use super::second_archive;
use crate::archive::pins;
use crate::archive::store::Archive;
use crate::clock;
use crate::command::host::Host;
use crate::history::archive_figures::ArchiveFigures;
use crate::history::line::History;
use crate::retention::{PruneOptions, prune};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Pause between two checks of the settings.
const LOOK: Duration = Duration::from_millis(500);

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

/// Starts the schedule, which ends with the node.
pub(super) fn start(node: &Arc<Node>) {
    if node.archive.is_some() {
        node.spawn_until_stop(run(Arc::downgrade(node)));
    }
}

async fn run(node: Weak<Node>) {
    let mut last = Instant::now();
    if let Some(node) = node.upgrade() {
        end_left_behind(&node).await;
    }
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(node) = node.upgrade() else { return };
        let interval = node.config().prune_interval;
        let is_due = !interval.is_zero() && last.elapsed() >= interval;
        if is_due && !node.committer.gate.leaves_archive_alone() {
            prune_once(&node).await;
            last = Instant::now();
        }
    }
}

/// Removes the pins of prunes that ended with an earlier process of this node.
async fn end_left_behind(node: &Node) {
    let name = node.identity().node;
    let second = second_archive::kept_by(node).unwrap_or_default();
    for archive in node.archive.iter().chain(&second) {
        pins::end_left_behind(archive, &name).await;
    }
}

/// Prunes the archive and, on a primary, the second archive.
async fn prune_once(node: &Node) {
    let Some(archive) = &node.archive else { return };
    let mut last = LastPrune::default();
    prune_archive(node, archive, &mut last).await;
    match second_archive::kept_by(node) {
        Ok(Some(second)) => prune_archive(node, &second, &mut last).await,
        Ok(None) => {}
        Err(error) => last.error = Some(error.to_string()),
    }
    last.ended_ms = clock::now_millis();
    *node.last_prune.lock() = last;
    if let Ok(history) = History::read(archive, Some(node.identity().epoch())).await {
        *node.archive_figures.lock() = Some(ArchiveFigures::of(&history).await);
    }
}

/// Prunes one archive and adds the result to `last`.
async fn prune_archive(node: &Node, archive: &Archive, last: &mut LastPrune) {
    let config = node.config();
    let node_name = Some(node.identity().node);
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
