//! The second archive (`archive-2`): it receives everything that the first archive receives and has its own watermark.
//!
//! Guarantees: the second archive delays no write, no start and no upload to the first archive. The spool supplies its
//! commits without a gap. If the spool no longer has the next commits (the backlog was dropped, or the archive is new),
//! the second archive receives a base and continues after it, and the log says so. The commits in between are a gap
//! that `walferry verify` shows and `walferry copy` closes. The second archive is not the fence: its epoch records are
//! copies of the first archive's, and a different record under one of their names stops only the uploads to the second
//! archive. A start refuses an archive of another cluster. Chunks, bases and epoch records are moved as `walferry copy`
//! moves them (see [`crate::restore::copy`]).

use super::archived::{archived_until, read_listing};
use super::merging::Merging;
use crate::archive::epochs::{self, EpochRecord};
use crate::archive::identity;
use crate::archive::opening::open_second;
use crate::archive::retry_policy::backoff;
use crate::archive::store::Archive;
use crate::archive::uploader::{Uploader, UploaderSettings, UploaderStatus};
use crate::csn::Csn;
use crate::error::{Error, Result};
use crate::node::core::Core;
use crate::node::places::passes;
use crate::node::roles::SecondStatus;
use crate::node::snapshots::Snapshots;
use crate::restore::repair;
use crate::ship::cutter::Cutter;
use crate::ship::spool::{SecondSource, Spool};
use crate::snapshot::base::LocalBase;
use crate::snapshot::manifest::Level;
use crate::snapshot::publish::{Published, Publisher};
use parking_lot::Mutex;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Pause after the first of successive failures to connect.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Longest pause between two attempts to connect.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The uploads of a primary to its second archive.
pub(super) struct Second {
    spool: Arc<Spool>,
    status: Mutex<SecondStatus>,
    /// The uploader's status; `None` while no chunks are uploaded.
    uploader: Mutex<Option<watch::Receiver<UploaderStatus>>>,
    /// Publishes bases; `None` until the archive was reached.
    publisher: tokio::sync::Mutex<Option<Publisher>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// Why a session with the archive ended.
enum Ended {
    /// The backlog was dropped: the archive receives a base, and a new session begins.
    Dropped,
    /// The archive could not be reached, read or written, or must not be used.
    Failed(Error),
    /// A chunk in the spool is damaged; a restart cuts the chunk again from the logs.
    Damaged(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Second {
    /// Starts to upload the chunks of `spool`. `epochs` are the records of this node's line of history, root first.
    pub(super) fn start(
        core: &Arc<Core>,
        snapshots: &Arc<Snapshots>,
        spool: &Arc<Spool>,
        cutter: &Arc<Cutter>,
        epochs: Vec<EpochRecord>,
    ) -> Arc<Self> {
        let second = Arc::new(Self {
            spool: Arc::clone(spool),
            status: Mutex::new(SecondStatus { state: "connecting", ..SecondStatus::default() }),
            uploader: Mutex::default(),
            publisher: tokio::sync::Mutex::default(),
            task: Mutex::default(),
        });
        let sessions = Sessions {
            second: Arc::clone(&second),
            core: Arc::clone(core),
            snapshots: Arc::clone(snapshots),
            cutter: Arc::clone(cutter),
            epochs,
        };
        *second.task.lock() = Some(tokio::spawn(sessions.run()));
        second
    }

    /// Returns the current state.
    #[must_use]
    pub(super) fn status(&self) -> SecondStatus {
        let mut status = self.status.lock().clone();
        status.spool_bytes = self.spool.second_status().bytes;
        status.drops = *self.spool.second_drops().borrow();
        if let Some(uploader) = self.uploader.lock().as_ref() {
            let seen = uploader.borrow();
            status.archived = seen.archived;
            status.failures_in_row = seen.failures_in_row;
            status.last_error = seen.last_error.clone().or(status.last_error);
        }
        status
    }

    /// Waits until the archive holds a commit, its uploads fail or stop, or it is not connected. Cancel-safe.
    pub(super) async fn settled(&self, csn: Csn) {
        let uploader = self.uploader.lock().clone();
        if let Some(mut uploader) = uploader {
            let is_settled = |status: &UploaderStatus| {
                status.archived >= csn || status.failures_in_row > 0 || status.stopped.is_some()
            };
            let _ = uploader.wait_for(is_settled).await;
        }
    }

    /// Stops the uploads; chunks in the spool stay there for the next start.
    pub(super) fn stop(&self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }

    /// Reports whether the archive currently accepts chunks.
    #[must_use]
    pub(super) fn is_streaming(&self) -> bool {
        self.uploader.lock().as_ref().is_some_and(|uploader| uploader.borrow().failures_in_row == 0)
    }

    /// Publishes a base that the first archive has received, too. If the second archive does not accept the base, it
    /// needs no replacement: its chunks continue after the base before.
    pub(super) async fn publish(&self, core: &Core, base: &LocalBase) {
        let mut publisher = self.publisher.lock().await;
        let published = match publisher.as_mut().filter(|_| self.is_streaming()) {
            Some(publisher) => publisher.publish_kept(base, self.covered(base.manifest().csn)).await,
            None => Err(Error::NotNow {
                reason: "archive-2 cannot be reached at the moment, so it does not get this base".into(),
            }),
        };
        let needs_repair = matches!(&published, Ok(Some(published)) if published.level == Level::Eventual);
        self.note_base(&published);
        if needs_repair && let Some(publisher) = publisher.as_ref() {
            repair_bases(core, publisher.archive()).await;
        }
    }

    /// Waits until the archive's chunks reach `csn`; returns an error if uploads fail before.
    async fn covered(&self, csn: Csn) -> Result<()> {
        self.settled(csn).await;
        let archived = self.status().archived;
        if archived >= csn {
            return Ok(());
        }
        let reason =
            format!("archive-2 has chunks only up to csn {archived}, so it does not get the base at csn {csn}");
        Err(Error::NotNow { reason })
    }

    fn note_base(&self, published: &Result<Option<Published>>) {
        let mut status = self.status.lock();
        match published {
            Ok(published) => {
                status.last_base = published.or(status.last_base);
                status.last_base_error = None;
            }
            Err(error) => {
                tracing::warn!(%error, "a base was not published to archive-2");
                status.last_base_error = Some(error.to_string());
            }
        }
    }

    fn note(&self, change: impl FnOnce(&mut SecondStatus)) {
        change(&mut self.status.lock());
    }
}

/// The successive connections to the archive.
struct Sessions {
    second: Arc<Second>,
    core: Arc<Core>,
    snapshots: Arc<Snapshots>,
    cutter: Arc<Cutter>,
    epochs: Vec<EpochRecord>,
}

impl Sessions {
    async fn run(self) {
        let mut failed = 0;
        loop {
            let Err(ended) = self.session(&mut failed).await;
            if let Some(uploader) = self.second.uploader.lock().take() {
                self.second.note(|status| status.archived = uploader.borrow().archived);
            }
            let (error, passes) = match ended {
                Ended::Dropped => continue,
                Ended::Failed(error) => {
                    let passes = passes(&error);
                    (error, passes)
                }
                Ended::Damaged(error) => (error, false),
            };
            self.second.note(|status| {
                let message = error.to_string();
                if !passes {
                    tracing::error!(%error, "archive-2 is not used until the next start");
                } else if status.last_error.as_ref() != Some(&message) {
                    tracing::warn!(%error, "archive-2 cannot be reached; the connection is retried");
                }
                status.state = if passes { "connecting" } else { "stopped" };
                status.failures_in_row += 1;
                status.last_error = Some(message);
            });
            if !passes {
                return;
            }
            failed += 1;
            tokio::time::sleep(backoff(failed, RETRY_FIRST, RETRY_MAX)).await;
        }
    }

    /// Connects to the archive and uploads until an error or a dropped backlog ends the session.
    async fn session(&self, failed: &mut u32) -> Result<Infallible, Ended> {
        let (core, spool) = (&self.core, &self.second.spool);
        let config = core.config();
        let archive = open_second(&config)?.expect("started only if it is configured");
        identity::establish(&archive, core.identity().cluster).await?;
        write_epochs(&archive, &self.epochs).await?;
        let epoch = core.identity().epoch();
        let (listing, lineage) = read_listing(&archive, epoch).await?;
        let mut archived = archived_until(&archive, &listing, &lineage).await?;
        let committed = core.committer.watermarks.committed.get();
        if archived > committed {
            let detail = format!(
                "holds commits of epoch {epoch} up to csn {archived}, but this node has only commits up to csn \
                 {committed}: another process wrote the others, or the disk has lost them. Give archive-2 another \
                 prefix"
            );
            return Err(Error::Identity { what: format!("archive-2 {}", archive.url()), detail }.into());
        }
        self.second.note(|status| status.archived = archived);
        let mut drops = spool.second_drops();
        drops.mark_unchanged();
        self.second.publisher.lock().await.get_or_insert_with(|| Publisher::new(archive.clone()));
        if !spool.resume_second(archived, self.cutter.status().position.csn) {
            let from = spool.restart_second(self.cutter.status().position.csn);
            tracing::warn!(
                archived = archived.0,
                goes_on = from.0,
                "archive-2 lacks commits that are not in the spool: archive-2 gets a base, and its chunks continue \
                 after the base"
            );
            self.second.note(|status| status.state = "base");
            self.give_base().await?;
            archived = from;
        }
        let settings =
            UploaderSettings { fence_check_interval: config.fence_check_interval, ..UploaderSettings::default() };
        let source = Arc::new(SecondSource(Arc::clone(spool)));
        let (mut uploader, status) = Uploader::new(&archive, source, epoch, archived, settings);
        let _merging = Merging::start(core, &archive, &listing, uploader.report_archived(), status.clone());
        spool.wake_second(uploader.wake());
        tracing::info!(archive = archive.url(), archived = archived.0, "archive-2 is reached");
        let (repairs, target) = (Arc::clone(core), archive.clone());
        tokio::spawn(async move { repair_bases(&repairs, &target).await });
        *self.second.uploader.lock() = Some(status);
        self.second.note(|status| {
            status.state = "streaming";
            status.failures_in_row = 0;
        });
        *failed = 0;
        // Cancel-safe: the next session finds an upload that was in flight in the archive, or does not count it.
        tokio::select! {
            error = uploader.run() => Err(match error {
                Error::Corrupt { .. } => Ended::Damaged(error),
                error => Ended::Failed(error),
            }),
            _ = drops.changed() => {
                self.second.note(|status| status.state = "connecting");
                Err(Ended::Dropped)
            }
        }
    }

    /// Cuts a base for this archive only.
    async fn give_base(&self) -> Result<()> {
        let (base_tools, base) = self.snapshots.cut_alone().await?;
        let mut publisher = self.second.publisher.lock().await;
        let ready = publisher.as_mut().expect("made when the archive was reached");
        // The archive's chunks begin after the base, so the base need not wait for them.
        let published = ready.publish_kept(&base, async { Ok(()) }).await;
        drop(publisher);
        let _ = tokio::task::spawn_blocking(move || drop(base)).await;
        drop(base_tools);
        self.second.note_base(&published);
        published.map(drop)
    }
}

/// Repairs the eventual bases in the archive. A failed repair is tried again with the next eventual base or the next
/// session.
async fn repair_bases(core: &Core, archive: &Archive) {
    let identity = core.identity();
    let repaired = async {
        for start in repair::unrepaired(archive, identity.cluster, identity.epoch()).await? {
            repair::repair(archive, identity.cluster, start, Some(&core.committer)).await?;
        }
        Ok::<_, Error>(())
    };
    if let Err(error) = repaired.await {
        tracing::warn!(%error, "a base in archive-2 could not be repaired; the repair is retried later");
    }
}

/// Writes the first archive's epoch records into the second, because an epoch must mean the same in both.
async fn write_epochs(second: &Archive, line: &[EpochRecord]) -> Result<()> {
    let Some((record, other)) = epochs::claim_line(second, line).await? else { return Ok(()) };
    let detail = format!(
        "has another history: its epoch {} belongs to node {}, but that of the first archive belongs to node {}. Give \
         archive-2 another prefix",
        other.epoch, other.node, record.node
    );
    Err(Error::Identity { what: format!("archive-2 {}", second.url()), detail })
}

#[cfg(test)]
#[path = "second_archive_tests.rs"]
mod tests;
