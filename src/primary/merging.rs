//! Merges the primary's small chunks in the background.
//!
//! Guarantees: merging sends no LIST, because the ledger holds the listing of the start and the later uploads. A
//! failure of the store costs only the current round. A fenced primary merges nothing.

use crate::archive::merge::{Ledger, Merger, Rules};
use crate::archive::store::Archive;
use crate::archive::uploader::UploaderStatus;
use crate::node::core::Core;
use crate::node::every::every;
use crate::node::roles::MergeStatus;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The merging task; ends when this value is dropped.
pub struct Merging {
    rounds: Arc<Rounds>,
    task: JoinHandle<()>,
}

/// The rounds of merging.
struct Rounds {
    core: Arc<Core>,
    merger: tokio::sync::Mutex<Merger>,
    uploader: watch::Receiver<UploaderStatus>,
    status: Mutex<MergeStatus>,
}

impl Merging {
    /// Starts to merge the chunks that the ledger knows.
    pub fn start(
        core: &Arc<Core>,
        archive: &Archive,
        ledger: Arc<Ledger>,
        uploader: watch::Receiver<UploaderStatus>,
    ) -> Self {
        let merger = tokio::sync::Mutex::new(Merger::new(archive.clone(), ledger));
        let rounds = Arc::new(Rounds { core: Arc::clone(core), merger, uploader, status: Mutex::default() });
        let merge = |rounds: Arc<Rounds>| async move { rounds.merge().await };
        let task = tokio::spawn(every(Arc::downgrade(&rounds), Rounds::interval, merge));
        Self { rounds, task }
    }

    /// Returns the results so far.
    #[must_use]
    pub fn status(&self) -> MergeStatus {
        self.rounds.status.lock().clone()
    }
}

impl Drop for Merging {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Rounds {
    /// Returns the time between two rounds; `None` without merging, or if uploading has ended.
    fn interval(&self) -> Option<Duration> {
        let interval = self.core.config().merge_interval;
        Some(interval).filter(|interval| !interval.is_zero() && self.uploader.borrow().stopped.is_none())
    }

    /// Merges once.
    async fn merge(&self) {
        let rules = Rules::with_grace(self.core.config().merge_grace);
        let round = self.merger.lock().await.round(rules, crate::clock::steady_millis()).await;
        let mut status = self.status.lock();
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
