//! Writes memory images, cuts bases, and purges the logs afterwards. Publishing bases is in [`super::bases`].
//!
//! Guarantees: one base at a time. Logs are purged only up to the commits that an image, the cutter and, for replicas
//! that were away, the image before it have covered. Images and purging wait for a base only while the base is cut,
//! which no store and no peer can prolong. They do not wait while a base is uploaded or sent.

use super::core::Core;
use crate::background;
use crate::config::Consistency;
use crate::directory::LastRole;
use crate::error::Result;
use crate::log::reader::LogCursor;
use crate::log::recovery::CutPoint;
use crate::snapshot::base::{BaseCutter, CutRequest, LocalBase};
use crate::snapshot::local;
use crate::snapshot::memory_snapshot::MemorySnapshot;
use crate::snapshot::publish::Publisher;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::OwnedMutexGuard;

/// Pause after an image that failed: on a full disk, an image fails until space is freed.
const IMAGE_RETRY_PAUSE: Duration = Duration::from_secs(10);

/// The memory images of a node, and the tools to cut its bases.
pub struct Snapshots {
    core: Arc<Core>,
    /// The positions of the newest image on disk and of the image before it.
    images: Mutex<[CutPoint; 2]>,
    /// Bytes of the logs on disk before the newest image; 0 before this process has written an image.
    logs_before_image: AtomicU64,
    /// Locked while a base is cut and published or sent.
    pub(super) base_tools: Arc<tokio::sync::Mutex<BaseTools>>,
    is_writing_image: AtomicBool,
    /// Whether a base is being cut. A strict base reads the logs from its own memory image on, so they must not be
    /// purged.
    is_cutting: AtomicBool,
    /// When the last image failed; `None` if it succeeded.
    image_failed: Mutex<Option<Instant>>,
    /// Unix seconds of the last base or image; 0 if there was none since the start.
    saved: AtomicU64,
}

/// The tools that successive bases share; created when the first base is cut.
#[derive(Default)]
pub struct BaseTools {
    /// Locked by the thread that cuts a base, even if its caller has stopped waiting.
    cutter: Option<Arc<Mutex<BaseCutter>>>,
    pub(super) publisher: Option<Publisher>,
}

impl Snapshots {
    /// Creates the state of a node whose memory was loaded from `image`.
    #[must_use]
    pub fn new(core: Arc<Core>, image: CutPoint) -> Self {
        Self {
            core,
            images: Mutex::new([image; 2]),
            logs_before_image: AtomicU64::new(0),
            base_tools: Arc::default(),
            is_writing_image: AtomicBool::new(false),
            is_cutting: AtomicBool::new(false),
            image_failed: Mutex::default(),
            saved: AtomicU64::new(0),
        }
    }

    /// Returns the Unix seconds of the last base or image; 0 if there was none since the start.
    #[must_use]
    pub fn last_save(&self) -> u64 {
        self.saved.load(Ordering::Relaxed)
    }

    /// Records that a base or an image was written at this moment.
    pub(super) fn note_saved(&self) {
        self.saved.store(crate::clock::now_millis() / 1000, Ordering::Relaxed);
    }

    /// Reports whether an image is being written, or a base is being cut, published or sent.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.base_tools.try_lock().is_err() || self.is_writing_image.load(Ordering::Acquire)
    }

    /// Reports whether an image must wait, because another image is being written or a base is being cut.
    pub(super) fn must_image_wait(&self) -> bool {
        self.is_writing_image.load(Ordering::Acquire) || self.is_cutting.load(Ordering::Acquire)
    }

    /// Cuts a strict base for one recipient. No other base is cut until the lock guard is dropped, which must be after
    /// the base.
    pub async fn cut_alone(self: &Arc<Self>) -> Result<(OwnedMutexGuard<BaseTools>, LocalBase)> {
        let mut base_tools = Arc::clone(&self.base_tools).lock_owned().await;
        let base = self.cut(&mut base_tools, Consistency::Strict).await?;
        Ok((base_tools, base))
    }

    /// Cuts a base of the commits so far.
    pub(super) async fn cut(
        self: &Arc<Self>,
        base_tools: &mut BaseTools,
        consistency: Consistency,
    ) -> Result<LocalBase> {
        let core = &self.core;
        let new = || {
            Arc::new(Mutex::new(BaseCutter::new(Arc::clone(&core.backends.bulk), &core.dir, core.identity().cluster)))
        };
        let cutter = Arc::clone(base_tools.cutter.get_or_insert_with(new));
        let role = if core.is_replica() { LastRole::Replica } else { LastRole::Primary };
        let request = CutRequest { consistency, node: core.identity().node, role };
        let snapshots = Arc::clone(self);
        let cut = move || {
            let mut cutter = cutter.lock();
            snapshots.is_cutting.store(true, Ordering::Release);
            let base = cutter.cut(&snapshots.core.committer, &request);
            snapshots.is_cutting.store(false, Ordering::Release);
            base
        };
        tokio::task::spawn_blocking(cut).await.expect("cutting a base does not panic")
    }

    /// Writes a memory image, so that the next start need not read the logs before the image, and purges these logs.
    pub fn write_image(&self) {
        if self.is_writing_image.swap(true, Ordering::AcqRel) {
            return;
        }
        let written = self.try_write_image();
        *self.image_failed.lock() = written.is_err().then(Instant::now);
        if let Err(error) = written {
            tracing::error!(%error, "writing a memory image failed; the next start reads more of the log");
        }
        self.is_writing_image.store(false, Ordering::Release);
    }

    fn try_write_image(&self) -> Result<()> {
        let core = &self.core;
        let MemorySnapshot { cut, at: image, .. } = MemorySnapshot::take(&core.committer)?;
        let logged = core.committer.log_bytes();
        // After a power cut, an image must not hold commits that the logs lack: these commits could never be shipped.
        core.committer.syncer.sync_until(image.position.csn)?;
        // The image leaves out the disk engines, so RocksDB must be durable before the logs before the image are
        // purged.
        core.committer.disk().flush()?;
        let bytes = background::run(|| local::write(&*core.backends.bulk, &core.dir.image(), &cut, image))?;
        local::purge(&*core.backends.bulk, &core.dir.image())?;
        let before = {
            let mut images = self.images.lock();
            *images = [image, images[0]];
            images[1]
        };
        self.note_saved();
        let keep = shipped_until(core).map_or(before.log_cursor(), |shipped| lower(shipped, before.log_cursor()));
        let freed = core.committer.purge_logs(keep)?;
        self.logs_before_image.store(logged.saturating_sub(freed), Ordering::Relaxed);
        tracing::info!(csn = image.position.csn.0, bytes, freed, "memory image written");
        Ok(())
    }

    /// Returns the position of the newest image on disk.
    #[must_use]
    pub fn newest_image(&self) -> CutPoint {
        self.images.lock()[0]
    }

    /// Reports whether an image is due: since the newest image at least `image_log_bytes`, and at least as many bytes as
    /// the keys in memory take, were logged. With the second limit, images never cost more than the logs.
    #[must_use]
    pub fn is_image_due(&self) -> bool {
        let core = &self.core;
        let has_new = core.committer.watermarks.committed.get() > self.newest_image().position.csn;
        let is_paused = self.image_failed.lock().is_some_and(|failed| failed.elapsed() < IMAGE_RETRY_PAUSE);
        let logged = core.committer.log_bytes().saturating_sub(self.logs_before_image.load(Ordering::Relaxed));
        let due_at = core.config().image_log_bytes.0.max(core.committer.memory().memory_bytes() as u64);
        has_new && !is_paused && !self.must_image_wait() && logged >= due_at
    }
}

/// Returns the log position up to which shipping no longer needs the logs; `None` if nothing is shipped. A replica with
/// an archive keeps the commits that its primary has not archived, because after a promotion the replica must archive
/// them.
fn shipped_until(core: &Core) -> Option<LogCursor> {
    match core.primary() {
        Some(primary) => primary.archiving().map(|archiving| archiving.cutter.position),
        None if core.archive.is_some() => {
            let archived = core.committer.watermarks.archived.get();
            Some(core.committer.log_cursor(archived).unwrap_or_default())
        }
        None => None,
    }
}

fn lower(a: LogCursor, b: LogCursor) -> LogCursor {
    LogCursor { csn: a.csn.min(b.csn), wal_seq: a.wal_seq.min(b.wal_seq) }
}
