//! Merges the primary's small chunks in the background.
//!
//! Guarantees: merging sends no LIST, because the ledger holds the listing of the start and the later uploads. A
//! failure of the store costs only the current round. A fenced primary merges nothing.

use super::node::Node;
use crate::archive::merge::{Ledger, Merger, Round, Rules};
use crate::archive::store::Archive;
use crate::archive::uploader::UploaderStatus;
use crate::command::host::Host;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Pause between two checks whether a round is due.
const LOOK: Duration = Duration::from_secs(1);

/// The merging task; ends when this value is dropped.
pub struct Merging {
    status: Arc<Mutex<MergeStatus>>,
    task: JoinHandle<()>,
}

/// The results of merging since the start.
#[derive(Clone, Debug, Default)]
pub struct MergeStatus {
    /// The sum of all rounds.
    pub sum: Round,
    /// Why the last round failed; `None` if it succeeded.
    pub last_error: Option<String>,
}

impl Merging {
    /// Starts to merge the chunks that the ledger knows.
    pub fn start(
        node: &Arc<Node>,
        archive: &Archive,
        ledger: Arc<Ledger>,
        uploader: watch::Receiver<UploaderStatus>,
    ) -> Self {
        let status: Arc<Mutex<MergeStatus>> = Arc::default();
        let merger = Merger::new(archive.clone(), ledger);
        let task = tokio::spawn(merge(Arc::downgrade(node), merger, uploader, Arc::clone(&status)));
        Self { status, task }
    }

    /// Returns the results so far.
    #[must_use]
    pub fn status(&self) -> MergeStatus {
        self.status.lock().clone()
    }
}

impl Drop for Merging {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn merge(
    node: Weak<Node>,
    mut merger: Merger,
    uploader: watch::Receiver<UploaderStatus>,
    status: Arc<Mutex<MergeStatus>>,
) {
    let mut last = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(config) = node.upgrade().map(|node| node.config()) else { return };
        if config.merge_interval.is_zero() || last.elapsed() < config.merge_interval {
            continue;
        }
        if uploader.borrow().stopped.is_some() {
            return;
        }
        let rules = Rules::with_grace(config.merge_grace);
        let round = merger.round(rules, crate::clock::steady_millis()).await;
        last = Instant::now();
        let mut status = status.lock();
        match round {
            Ok(round) => {
                status.sum.add(round);
                status.last_error = None;
            }
            Err(error) => {
                tracing::warn!(%error, "merging chunks failed; it is retried");
                status.last_error = Some(error.to_string());
            }
        }
    }
}
