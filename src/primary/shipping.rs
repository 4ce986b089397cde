//! The shipping of a primary: feeds replicas, and cuts chunks and uploads them on the [`super::archive_side`].

use super::archive_side::ArchiveSide;
use super::feeding_node::FeedingNode;
use super::marks::{self, MarkKeeper};
use crate::command::host::TaskReply;
use crate::commit::marks::Mark;
use crate::config::Config;
use crate::csn::Csn;
use crate::error::{Error, Result};
use crate::node::bases::Bases;
use crate::node::core::Core;
use crate::node::roles::{ArchivingStatus, PrimaryRole};
use crate::plain_name::PlainName;
use crate::ship::feed::{FeedStatus, Feeds};
use crate::ship::feed_host::FeedHost;
use crate::snapshot::base::LocalBase;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Limit on the time that a stop waits for the archive to receive the cut chunks.
const STOP_UPLOAD_MAX: Duration = Duration::from_secs(10);

/// The shipping of a primary.
pub(super) struct Shipping {
    core: Arc<Core>,
    /// The connected replicas.
    pub feeds: Arc<Feeds>,
    /// The archive side; `None` if no archive is configured.
    archive: Option<ArchiveSide>,
}

impl Shipping {
    /// Starts shipping under the node's current epoch.
    pub(super) async fn start(core: &Arc<Core>, bases: &Arc<Bases>) -> Result<Arc<Self>> {
        let snapshots = Arc::clone(&bases.snapshots);
        let host: Arc<dyn FeedHost> = Arc::new(FeedingNode { core: Arc::clone(core), snapshots });
        let watermarks = &core.committer.watermarks;
        let feeds =
            Feeds::new(host, core.source.clone(), watermarks.committed.subscribe(), watermarks.durable.subscribe());
        let archive = match &core.archive {
            Some(archive) => Some(ArchiveSide::start(core, bases, archive).await?),
            None => None,
        };
        let shipping = Arc::new(Self { core: Arc::clone(core), feeds: Arc::new(feeds), archive });
        core.set_primary(Arc::clone(&shipping) as _);
        Ok(shipping)
    }

    fn mark_keeper(&self) -> Option<&MarkKeeper> {
        self.archive.as_ref().map(|archive| &*archive.marks)
    }

    async fn await_archived(&self, csn: Csn) -> Result<()> {
        let Some(archive) = &self.archive else {
            return Err(Error::NotConfigured { reason: "no archive is configured".into() });
        };
        // The uploader's own status turns earlier, before the gate refuses writes: a client told by it could write
        // again.
        let mut ended = archive.ended.clone();
        // Cancel-safe: both arms only wait.
        tokio::select! {
            () = self.core.committer.watermarks.archived.reached(csn) => Ok(()),
            ended = ended.wait_for(Option::is_some) => {
                let error = ended.ok().and_then(|error| error.clone());
                Err(error.map_or(Error::Stopping, Error::Shared))
            }
        }
    }

    async fn stop_archiving(&self) {
        let Some(archive) = &self.archive else { return };
        let cutter = Arc::clone(&archive.cutter);
        let _ = tokio::task::spawn_blocking(move || cutter.stop()).await;
        let cut = archive.cutter.status().position.csn;
        let second = async {
            if let Some(second) = &archive.second {
                let _ = tokio::time::timeout(STOP_UPLOAD_MAX, second.settled(cut)).await;
                second.stop();
            }
        };
        let first = tokio::time::timeout(STOP_UPLOAD_MAX, self.await_archived(cut));
        if futures::future::join(first, second).await.0.is_err() {
            tracing::warn!("the archive did not receive all chunks before the stop; the others wait in the spool");
        }
        archive.task.abort();
        archive.marks.stop();
    }
}

impl PrimaryRole for Shipping {
    fn feeds(&self) -> Vec<FeedStatus> {
        self.feeds.status()
    }

    fn ask_for_base(&self, asked: Option<(String, Csn)>) {
        self.feeds.ask_for_base(asked);
    }

    fn archiving(&self) -> Option<ArchivingStatus> {
        self.archive.as_ref().map(|archive| ArchivingStatus {
            cutter: archive.cutter.status(),
            cutter_error: archive.cutter.last_error(),
            spool: archive.spool.status(),
            uploader: archive.uploader.borrow().clone(),
            merging: archive.merging.status(),
            second: archive.second.as_ref().map(|second| second.status()),
            began_with_hole: archive.began_with_hole,
        })
    }

    fn reconfigure(&self, config: &Config) {
        if let Some(archive) = &self.archive {
            archive.cutter.set_interval(config.archive_interval);
            archive.spool.set_bytes_max(config.spool_max_bytes.0);
            archive.fence_each_ack.store(config.archive_ack, Ordering::Relaxed);
        }
    }

    fn archived(&self, csn: Csn) -> BoxFuture<'_, Result<()>> {
        self.await_archived(csn).boxed()
    }

    fn flush(&self, csn: Csn) -> BoxFuture<'_, Result<()>> {
        if let Some(archive) = &self.archive {
            archive.cutter.flush(csn);
        }
        self.await_archived(csn).boxed()
    }

    fn publish_to_second<'a>(&'a self, base: &'a LocalBase) -> BoxFuture<'a, ()> {
        async move {
            if let Some(second) = self.archive.as_ref().and_then(|archive| archive.second.as_ref()) {
                second.publish(&self.core, base).await;
            }
        }
        .boxed()
    }

    fn mark(&self, name: PlainName) -> BoxFuture<'_, Result<TaskReply>> {
        marks::mark(&self.core, self.mark_keeper(), name).boxed()
    }

    fn unmark(&self, name: PlainName) -> BoxFuture<'_, Result<TaskReply>> {
        marks::unmark(&self.core, self.mark_keeper(), name).boxed()
    }

    fn mark_state(&self, mark: &Mark) -> Option<String> {
        self.mark_keeper().map(|keeper| keeper.state(mark))
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        self.stop_archiving().boxed()
    }
}
