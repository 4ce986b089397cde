//! The second archive (`archive-2`): it receives everything that the first archive receives and has its own watermark.
//!
//! Guarantees: the second archive delays no write, no start and no upload to the first archive. The spool supplies its
//! commits without a gap. If the spool no longer has the next commits (the backlog was dropped, or the archive is new),
//! the second archive receives a base and continues after it, and the log says so. The commits in between are a gap
//! that `walferry verify` shows and `walferry copy` closes. The second archive is not the fence: its epoch records are
//! copies of the first archive's, and a different record under one of their names stops only the uploads to the second
//! archive. A start refuses an archive of another cluster. Chunks, bases and epoch records are moved as `walferry copy`
//! moves them (see [`crate::restore::copy`]).

use super::merging::Merging;
use super::node::Node;
use super::shipping::{self, archived_until};
use crate::archive::crypt::KeyRing;
use crate::archive::crypt::keys::{ARCHIVE_2_KEY_VARIABLE, ARCHIVE_KEY_VARIABLE};
use crate::archive::epochs::{self, EpochRecord};
use crate::archive::identity;
use crate::archive::retry_policy::{RetryPolicy, backoff};
use crate::archive::store::{Archive, Opening};
use crate::archive::uploader::{Uploader, UploaderSettings, UploaderStatus};
use crate::cluster::ClusterId;
use crate::command::host::Host;
use crate::config::Config;
use crate::csn::Csn;
use crate::error::{Error, Result};
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

/// Retry policy of a start that asks the archive which cluster owns it.
const LOOK: RetryPolicy = RetryPolicy { attempts: 1, deadline: Duration::from_secs(5), ..RetryPolicy::DEFAULT };
/// Pause after the first of successive failures to connect.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Longest pause between two attempts to connect.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The state of the second archive.
#[derive(Clone, Debug, Default)]
pub struct SecondStatus {
    /// One of: connecting; base (the archive must receive a base first); streaming; stopped (until the next start).
    pub state: &'static str,
    /// The archive holds every commit up to this csn since its last base; 0 until the archive was read.
    pub archived: Csn,
    /// Bytes of sealed chunks that wait for this archive.
    pub spool_bytes: u64,
    /// Number of failures in a row.
    pub failures_in_row: u32,
    /// The last failure.
    pub last_error: Option<String>,
    /// How often the backlog was dropped since the start.
    pub drops: u64,
    /// The last base that the archive received since the start.
    pub last_base: Option<Published>,
    /// Why the last base could not be published; `None` if it was published.
    pub last_base_error: Option<String>,
}

/// The uploads of a primary to its second archive.
pub struct Second {
    spool: Arc<Spool>,
    status: Mutex<SecondStatus>,
    /// The uploader's status; `None` while no chunks are uploaded.
    uploader: Mutex<Option<watch::Receiver<UploaderStatus>>>,
    /// Publishes bases; `None` until the archive was reached.
    publisher: tokio::sync::Mutex<Option<Publisher>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// Returns the second archive on a primary; `None` on a replica or without a configured one.
pub(super) fn kept_by(node: &Node) -> Result<Option<Archive>> {
    if node.is_replica() { Ok(None) } else { open(&node.config()) }
}

/// Opens the configured second archive; `None` without one.
pub(super) fn open(config: &Config) -> Result<Option<Archive>> {
    if config.archive_2.is_empty() {
        return Ok(None);
    }
    let own = KeyRing::configured(&config.archive_2_key_file, ARCHIVE_2_KEY_VARIABLE)?;
    let keys = match own {
        Some(keys) => Some(keys),
        None => KeyRing::configured(&config.archive_key_file, ARCHIVE_KEY_VARIABLE)?,
    };
    let archive = shipping::open_url(&with_own_s3(config), &config.archive_2, Opening::Create)?;
    Ok(Some(archive.with_keys(keys)))
}

/// Returns the settings with the second archive's own S3 settings in place of the first archive's.
fn with_own_s3(config: &Config) -> Config {
    let or = |own: &str, first: &str| if own.is_empty() { first } else { own }.to_owned();
    Config {
        s3_endpoint: or(&config.archive_2_s3_endpoint, &config.s3_endpoint),
        s3_region: or(&config.archive_2_s3_region, &config.s3_region),
        s3_access_key_id: or(&config.archive_2_s3_access_key_id, &config.s3_access_key_id),
        s3_secret_access_key: or(&config.archive_2_s3_secret_access_key, &config.s3_secret_access_key),
        ..config.clone()
    }
}

/// Refuses a second archive that cannot belong to this cluster; `cluster` is `None` if the cluster does not exist yet.
/// An archive that does not answer does not prevent the start.
pub async fn check(config: &Config, cluster: Option<ClusterId>) -> Result<()> {
    let wrong = |detail: &str| Err(Error::Config { key: "archive-2".to_owned(), detail: detail.to_owned() });
    if config.archive_2.is_empty() {
        return Ok(());
    }
    if config.archive.is_empty() {
        return wrong("there is no first archive: set archive");
    }
    let same_url = config.archive_2.trim_end_matches('/') == config.archive.trim_end_matches('/');
    if same_url && config.archive_2_s3_endpoint.is_empty() {
        return wrong("is the same as archive: name another place");
    }
    let found = match open(config) {
        Ok(Some(archive)) => identity::read(&archive.with_patience(LOOK)).await,
        Ok(None) => Ok(None),
        Err(error) => Err(error),
    };
    match found {
        Ok(Some(other)) if Some(other) != cluster => {
            let own = cluster.map_or_else(|| "a new cluster".to_owned(), |own| format!("cluster {own}"));
            let detail =
                format!("belongs to cluster {other}, this data directory to {own}. Give archive-2 another prefix");
            Err(Error::Identity { what: format!("archive-2 {}", config.archive_2), detail })
        }
        Err(error) if passes(&error) => {
            tracing::warn!(archive = config.archive_2, %error, "archive-2 cannot be reached; it is tried again while serving");
            Ok(())
        }
        found => found.map(drop),
    }
}

/// Reports whether a failure may pass without an operator: not if the archive belongs to another cluster or cannot be
/// opened as configured. An unreadable answer counts as a failure that may pass.
fn passes(error: &Error) -> bool {
    !matches!(error, Error::Identity { .. } | Error::Config { .. } | Error::Fenced { .. })
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
    pub fn start(node: &Arc<Node>, spool: &Arc<Spool>, cutter: &Arc<Cutter>, epochs: Vec<EpochRecord>) -> Arc<Self> {
        let second = Arc::new(Self {
            spool: Arc::clone(spool),
            status: Mutex::new(SecondStatus { state: "connecting", ..SecondStatus::default() }),
            uploader: Mutex::default(),
            publisher: tokio::sync::Mutex::default(),
            task: Mutex::default(),
        });
        let run = Run { second: Arc::clone(&second), node: Arc::clone(node), cutter: Arc::clone(cutter), epochs };
        *second.task.lock() = Some(tokio::spawn(run.run()));
        second
    }

    /// Returns the current state.
    #[must_use]
    pub fn status(&self) -> SecondStatus {
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
    pub async fn settled(&self, csn: Csn) {
        let uploader = self.uploader.lock().clone();
        if let Some(mut uploader) = uploader {
            let is_settled = |status: &UploaderStatus| {
                status.archived >= csn || status.failures_in_row > 0 || status.stopped.is_some()
            };
            let _ = uploader.wait_for(is_settled).await;
        }
    }

    /// Stops the uploads; chunks in the spool stay there for the next start.
    pub fn stop(&self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }

    /// Reports whether the archive currently accepts chunks.
    #[must_use]
    pub fn is_streaming(&self) -> bool {
        self.uploader.lock().as_ref().is_some_and(|uploader| uploader.borrow().failures_in_row == 0)
    }

    /// Publishes a base that the first archive has received, too. If the second archive does not accept the base, it
    /// needs no replacement: its chunks continue after the base before.
    pub async fn publish(&self, node: &Node, base: &LocalBase) {
        let mut publisher = self.publisher.lock().await;
        let published = match publisher.as_mut().filter(|_| self.is_streaming()) {
            Some(publisher) => publisher.publish_kept(base, self.covered(base.manifest().csn)).await,
            None => {
                Err(Error::Refused { reason: "archive-2 is not there at the moment: it does not get this base".into() })
            }
        };
        let needs_repair = matches!(&published, Ok(Some(published)) if published.level == Level::Eventual);
        self.note_base(published);
        if needs_repair && let Some(publisher) = publisher.as_ref() {
            repair_bases(node, publisher.archive()).await;
        }
    }

    /// Waits until the archive's chunks reach `csn`; returns an error if uploads fail before.
    async fn covered(&self, csn: Csn) -> Result<()> {
        self.settled(csn).await;
        let archived = self.status().archived;
        if archived >= csn {
            return Ok(());
        }
        let reason = format!("archive-2 has chunks up to csn {archived} only: it does not get the base at csn {csn}");
        Err(Error::Refused { reason })
    }

    fn note_base(&self, published: Result<Option<Published>>) {
        let mut status = self.status.lock();
        match published {
            Ok(published) => {
                status.last_base = published.or(status.last_base);
                status.last_base_error = None;
            }
            Err(error) => {
                tracing::warn!(%error, "a base did not get into archive-2");
                status.last_base_error = Some(error.to_string());
            }
        }
    }

    fn note(&self, change: impl FnOnce(&mut SecondStatus)) {
        change(&mut self.status.lock());
    }
}

struct Run {
    second: Arc<Second>,
    node: Arc<Node>,
    cutter: Arc<Cutter>,
    epochs: Vec<EpochRecord>,
}

impl Run {
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
                    tracing::error!(%error, "archive-2 is given up until the next start");
                } else if status.last_error.as_ref() != Some(&message) {
                    tracing::warn!(%error, "archive-2 is not there; it is tried again");
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
        let (node, spool) = (&self.node, &self.second.spool);
        let config = node.config();
        let archive = open(&config)?.expect("started only if it is configured");
        identity::establish(&archive, node.identity().cluster).await?;
        write_epochs(&archive, &self.epochs).await?;
        let epoch = node.identity().epoch();
        let (listing, lineage) = shipping::read_listing(&archive, epoch).await?;
        let mut archived = archived_until(&archive, &listing, &lineage).await?;
        let committed = node.committer.watermarks.committed.get();
        if archived > committed {
            let detail = format!(
                "holds commits of epoch {epoch} up to csn {archived}, this node has only those up to {committed}: \
                 another process wrote them, or the disk lost them. Give archive-2 another prefix"
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
                "archive-2 lacks commits that the spool no longer has: it gets a base and goes on from there"
            );
            self.second.note(|status| status.state = "base");
            self.give_base().await?;
            archived = from;
        }
        let settings =
            UploaderSettings { fence_check_interval: config.fence_check_interval, ..UploaderSettings::default() };
        let source = Arc::new(SecondSource(Arc::clone(spool)));
        let (mut uploader, status) = Uploader::new(&archive, source, epoch, archived, settings);
        let _merging = Merging::start(node, &archive, &listing, uploader.report_archived(), status.clone());
        spool.wake_second(uploader.wake());
        tracing::info!(archive = archive.url(), archived = archived.0, "archive-2 is there");
        let (repairs, target) = (Arc::clone(node), archive.clone());
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
        let (base, base_tools) = self.node.snapshots.cut_alone(&self.node).await?;
        let mut publisher = self.second.publisher.lock().await;
        let ready = publisher.as_mut().expect("made when the archive was reached");
        // The archive's chunks begin after the base, so the base need not wait for them.
        let published = ready.publish_kept(&base, async { Ok(()) }).await;
        drop(publisher);
        let _ = tokio::task::spawn_blocking(move || drop(base)).await;
        drop(base_tools);
        let outcome = published.as_ref().map(drop).map_err(|error| Error::Refused { reason: error.to_string() });
        self.second.note_base(published);
        outcome
    }
}

/// Repairs the eventual bases in the archive. A failed repair is tried again with the next eventual base or the next
/// session.
async fn repair_bases(node: &Node, archive: &Archive) {
    let identity = node.identity();
    let repaired = async {
        for start in repair::unrepaired(archive, identity.cluster, identity.epoch()).await? {
            repair::repair(archive, identity.cluster, start, Some(&node.committer)).await?;
        }
        Ok::<_, Error>(())
    };
    if let Err(error) = repaired.await {
        tracing::warn!(%error, "a base in archive-2 could not be repaired; it is tried again later");
    }
}

/// Writes the first archive's epoch records into the second, because an epoch must mean the same in both.
async fn write_epochs(second: &Archive, line: &[EpochRecord]) -> Result<()> {
    let Some((record, other)) = epochs::claim_line(second, line).await? else { return Ok(()) };
    let detail = format!(
        "epoch {} is node {}'s there, in the first archive it is node {}'s: history went another way in it. Give \
         archive-2 another prefix",
        other.epoch, other.node, record.node
    );
    Err(Error::Identity { what: format!("archive-2 {}", second.url()), detail })
}

#[cfg(test)]
#[path = "second_archive_tests.rs"]
mod tests;
