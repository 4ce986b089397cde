//! The primary merges its small chunks in the background.
//!
//! Guarantees: no LIST (the listing of the start and what was uploaded since are known); a store that fails costs
//! nothing but the round; a fenced primary merges no more.

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

/// Time between two looks whether a round is due.
const LOOK: Duration = Duration::from_secs(1);

/// Merges until it is dropped.
pub struct Merging {
    status: Arc<Mutex<MergeStatus>>,
    task: JoinHandle<()>,
}

/// What merging did since the start.
#[derive(Clone, Debug, Default)]
pub struct MergeStatus {
    /// Of all rounds together.
    pub sum: Round,
    /// Why the last round failed; none if it did not.
    pub last_error: Option<String>,
}

impl Merging {
    /// Starts merging what the ledger knows of.
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

    /// What it did.
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
                tracing::warn!(%error, "merging chunks failed; it is tried again");
                status.last_error = Some(error.to_string());
            }
        }
    }
}
