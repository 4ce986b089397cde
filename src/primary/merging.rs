//! Merges the primary's small chunks in the background.
//!
//! Guarantees: merging sends no LIST of chunks, because the merger knows the listing of the start and the chunks that the
//! uploader reports. A failure of the store costs only the current round. A fenced primary merges nothing.

use crate::archive::listing::Listing;
use crate::archive::store::Archive;
use crate::archive::uploader::{ArchivedChunk, UploaderStatus};
use crate::compact::merge::{Merger, Rules};
use crate::node::core::Core;
use crate::node::every::every;
use crate::node::roles::MergeStatus;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// The merging tasks; they end when this value is dropped.
pub(super) struct Merging {
    rounds: Arc<Rounds>,
    tasks: [JoinHandle<()>; 2],
}

/// The rounds of merging.
struct Rounds {
    core: Arc<Core>,
    merger: tokio::sync::Mutex<Merger>,
    uploader: watch::Receiver<UploaderStatus>,
    status: Mutex<MergeStatus>,
}

impl Merging {
    /// Starts to merge the chunks of `listing` and those that the uploader reports as `archived`.
    pub(super) fn start(
        core: &Arc<Core>,
        archive: &Archive,
        listing: &Listing,
        archived: mpsc::Receiver<ArchivedChunk>,
        uploader: watch::Receiver<UploaderStatus>,
    ) -> Self {
        let merger = tokio::sync::Mutex::new(Merger::new(archive.clone(), listing));
        let rounds = Arc::new(Rounds { core: Arc::clone(core), merger, uploader, status: Mutex::default() });
        let merge = |rounds: Arc<Rounds>| async move { rounds.merge().await };
        let merging = tokio::spawn(every(Arc::downgrade(&rounds), Rounds::interval, merge));
        let noting = tokio::spawn(Arc::clone(&rounds).note(archived));
        Self { rounds, tasks: [merging, noting] }
    }

    /// Returns the results so far.
    #[must_use]
    pub(super) fn status(&self) -> MergeStatus {
        self.rounds.status.lock().clone()
    }
}

impl Drop for Merging {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Rounds {
    /// Notes the chunks that the uploader reports. Ends when the uploader is dropped.
    async fn note(self: Arc<Self>, mut archived: mpsc::Receiver<ArchivedChunk>) {
        while let Some(chunk) = archived.recv().await {
            self.merger.lock().await.note_archived(chunk);
        }
    }

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
                tracing::warn!(%error, "merging chunks failed; it is retried");
                status.last_error = Some(error.to_string());
            }
        }
    }
}
