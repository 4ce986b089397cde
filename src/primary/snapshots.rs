//! Writes memory images, cuts bases and sends them to replicas, and purges the logs afterwards. Publishing bases is in
//! [`super::bases`].
//!
//! Guarantees: one base at a time. Logs are purged only up to the commits that an image, the cutter and, for replicas
//! that were away, the image before it have covered. Images and purging wait for a base only while the base is cut,
//! which no store and no peer can prolong. They do not wait while a base is uploaded or sent.

use super::bases::Bases;
use super::node::Node;
use crate::archive::listing::BaseStart;
use crate::background;
use crate::command::host::Host;
use crate::config::Consistency;
use crate::csn::{Csn, HistoryHash};
use crate::directory::LastRole;
use crate::error::{Error, Result};
use crate::log::reader::LogPosition;
use crate::log::recovery::ImagePosition;
use crate::ship::feed::{FeedHost, HEARTBEAT_INTERVAL, SEND_DEADLINE, deadline};
use crate::ship::wire::{self, BaseBegin, BaseFile, Heartbeat, Hello, Message, PART_BYTES, Sender};
use crate::snapshot::base::{BaseCutter, CutRequest, LocalBase};
use crate::snapshot::local;
use crate::snapshot::memory_snapshot::MemorySnapshot;
use crate::snapshot::publish::{Published, Publisher};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::OwnedMutexGuard;

/// Pause after an image that failed: on a full disk, an image fails until space is freed.
const IMAGE_RETRY_PAUSE: Duration = Duration::from_secs(10);
/// Sending a base is given up if the replica takes it more slowly than this.
const BASE_BYTES_PER_SECOND_MIN: u64 = 1 << 20;

/// The memory images and bases of a node.
pub struct Snapshots {
    /// The positions of the newest image on disk and of the image before it.
    images: Mutex<[ImagePosition; 2]>,
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
    /// Whether a base was requested as soon as possible.
    pub(super) is_requested: AtomicBool,
    pub(super) last: Mutex<LastBase>,
    /// Unix seconds of the last base or image; 0 if there was none since the start.
    pub(super) saved: AtomicU64,
    /// Running and pending work on bases.
    pub bases: Bases,
}

/// The tools that successive bases share; created when the first base is cut.
#[derive(Default)]
pub(super) struct BaseTools {
    /// Locked by the thread that cuts a base, even if its caller has stopped waiting.
    cutter: Option<Arc<Mutex<BaseCutter>>>,
    pub(super) publisher: Option<Publisher>,
}

/// Facts about the last base.
#[derive(Clone, Debug, Default)]
pub struct LastBase {
    /// The last published base; `None` if there was none since the start.
    pub report: Option<Published>,
    /// The replica that published the base; empty if this node published it.
    pub publisher: String,
    /// The last base that this node published or found already published.
    pub own: Option<BaseStart>,
    /// When the last attempt ended.
    pub ended: Option<Instant>,
    /// Why the last attempt failed; `None` if it succeeded.
    pub error: Option<String>,
    /// Raw chunk bytes that were cut for the archive when the last attempt began.
    pub cut_bytes: u64,
}

impl Snapshots {
    /// Creates the state of a node whose memory was loaded from `image`.
    #[must_use]
    pub fn new(image: ImagePosition) -> Self {
        Self {
            images: Mutex::new([image; 2]),
            logs_before_image: AtomicU64::new(0),
            base_tools: Arc::default(),
            is_writing_image: AtomicBool::new(false),
            is_cutting: AtomicBool::new(false),
            image_failed: Mutex::default(),
            is_requested: AtomicBool::new(false),
            last: Mutex::default(),
            saved: AtomicU64::new(0),
            bases: Bases::default(),
        }
    }

    /// Returns the Unix seconds of the last base or image; 0 if there was none since the start.
    #[must_use]
    pub fn last_save(&self) -> u64 {
        self.saved.load(Ordering::Relaxed)
    }

    /// Returns the facts about the last base.
    #[must_use]
    pub fn last(&self) -> LastBase {
        self.last.lock().clone()
    }

    /// Reports whether an image is being written, or a base is being cut, published or sent.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.base_tools.try_lock().is_err() || self.is_writing_image.load(Ordering::Acquire)
    }

    /// Reports whether an image must wait, because another image is being written or a base is being cut.
    fn must_image_wait(&self) -> bool {
        self.is_writing_image.load(Ordering::Acquire) || self.is_cutting.load(Ordering::Acquire)
    }

    /// Requests a base as soon as possible.
    pub fn request(&self) {
        self.is_requested.store(true, Ordering::Release);
    }

    /// Reports whether a base was requested and none was published since.
    pub(super) fn is_requested(&self) -> bool {
        self.is_requested.load(Ordering::Acquire)
    }

    /// Starts a BGSAVE: a base on a primary with an archive, otherwise a memory image.
    pub fn start(&self, node: &Arc<Node>) -> Result<()> {
        let writes_image = node.archive.is_none() || node.is_replica();
        if if writes_image { self.must_image_wait() } else { self.is_busy() } {
            return Err(Error::NotNow { reason: "Background save already in progress".into() });
        }
        let node = Arc::clone(node);
        if writes_image {
            std::thread::spawn(move || node.snapshots.write_image(&node));
        } else {
            tokio::spawn(async move {
                let _ = node.snapshots.publish(&node, node.config().snapshot_consistency).await;
            });
        }
        Ok(())
    }

    /// Cuts a strict base for one recipient. No other base is cut until the lock guard is dropped, which must be after
    /// the base.
    pub(super) async fn cut_alone(&self, node: &Arc<Node>) -> Result<(LocalBase, OwnedMutexGuard<BaseTools>)> {
        let mut base_tools = Arc::clone(&self.base_tools).lock_owned().await;
        let base = self.cut(node, &mut base_tools, Consistency::Strict).await?;
        Ok((base, base_tools))
    }

    /// Cuts a base of the commits so far.
    pub(super) async fn cut(
        &self,
        node: &Arc<Node>,
        base_tools: &mut BaseTools,
        consistency: Consistency,
    ) -> Result<LocalBase> {
        let new = || {
            Arc::new(Mutex::new(BaseCutter::new(Arc::clone(&node.backends.bulk), &node.dir, node.identity().cluster)))
        };
        let cutter = Arc::clone(base_tools.cutter.get_or_insert_with(new));
        let role = if node.is_replica() { LastRole::Replica } else { LastRole::Primary };
        let request = CutRequest { consistency, node: node.identity().node, role };
        let node = Arc::clone(node);
        let cut = move || {
            let mut cutter = cutter.lock();
            node.snapshots.is_cutting.store(true, Ordering::Release);
            let base = cutter.cut(&node.committer, &request);
            node.snapshots.is_cutting.store(false, Ordering::Release);
            base
        };
        tokio::task::spawn_blocking(cut).await.expect("cutting a base does not panic")
    }

    /// Cuts a base and sends it over the connection of the replica that said `hello`. Gives up if the replica is too
    /// slow, because no other base can be cut meanwhile.
    pub async fn send(&self, node: &Arc<Node>, hello: &Hello, sender: &mut Sender<OwnedWriteHalf>) -> Result<()> {
        let cut = async {
            let mut base_tools = self.base_tools.lock().await;
            let base = self.cut(node, &mut base_tools, Consistency::Strict).await?;
            Ok::<_, Error>((base_tools, base))
        };
        let (_workshop, base) = while_alive(node, sender, &hello.node, cut).await??;
        let bytes: u64 = base.manifest().bytes();
        let allowed = SEND_DEADLINE + Duration::from_secs(bytes / BASE_BYTES_PER_SECOND_MIN);
        match tokio::time::timeout(allowed, send_base(node, hello, sender, &base)).await {
            Ok(sent) => sent,
            Err(_) => Err(Error::Protocol {
                peer: hello.node.clone(),
                detail: format!("did not take a base of {bytes} bytes within {} s", allowed.as_secs()),
            }),
        }
    }

    /// Writes a memory image, so that the next start need not read the logs before the image, and purges these logs.
    pub fn write_image(&self, node: &Node) {
        if self.is_writing_image.swap(true, Ordering::AcqRel) {
            return;
        }
        let written = self.try_write_image(node);
        *self.image_failed.lock() = written.is_err().then(Instant::now);
        if let Err(error) = written {
            tracing::error!(%error, "writing a memory image failed; the next start reads more of the log");
        }
        self.is_writing_image.store(false, Ordering::Release);
    }

    fn try_write_image(&self, node: &Node) -> Result<()> {
        let MemorySnapshot { cut, at: image, .. } = MemorySnapshot::take(&node.committer)?;
        let logged = node.committer.log_bytes();
        // After a power cut, an image must not hold commits that the logs lack: these commits could never be shipped.
        node.committer.syncer.sync_until(image.position.csn)?;
        // The image leaves out the disk engines, so RocksDB must be durable before the logs before the image are
        // purged.
        node.committer.disk().flush()?;
        let bytes = background::run(|| local::write(&*node.backends.bulk, &node.dir.image(), &cut, image))?;
        local::purge(&*node.backends.bulk, &node.dir.image())?;
        let before = {
            let mut images = self.images.lock();
            *images = [image, images[0]];
            images[1]
        };
        self.saved.store(crate::clock::now_millis() / 1000, Ordering::Relaxed);
        let keep = shipped_until(node).map_or(before.in_logs(), |shipped| lower(shipped, before.in_logs()));
        let freed = node.committer.purge_logs(keep)?;
        self.logs_before_image.store(logged.saturating_sub(freed), Ordering::Relaxed);
        tracing::info!(csn = image.position.csn.0, bytes, freed, "memory image written");
        Ok(())
    }

    /// Returns the position of the newest image on disk.
    #[must_use]
    pub fn newest_image(&self) -> ImagePosition {
        self.images.lock()[0]
    }

    /// Reports whether an image is due: since the newest image at least `image_log_bytes`, and at least the size of the
    /// memory engines, was logged. With the second limit, images never cost more than the logs.
    #[must_use]
    pub fn is_image_due(&self, node: &Node) -> bool {
        let has_new = node.committer.watermarks.committed.get() > self.newest_image().position.csn;
        let is_paused = self.image_failed.lock().is_some_and(|failed| failed.elapsed() < IMAGE_RETRY_PAUSE);
        let logged = node.committer.log_bytes().saturating_sub(self.logs_before_image.load(Ordering::Relaxed));
        let due_at = node.config().image_log_bytes.0.max(node.committer.memory_bytes() as u64);
        has_new && !is_paused && !self.must_image_wait() && logged >= due_at
    }

    /// Returns the raw log bytes cut for the archive since the start; 0 without an archive.
    pub(super) fn logged_bytes(&self, node: &Node) -> u64 {
        let shipping = node.shipping.load();
        let side = shipping.as_ref().and_then(|shipping| shipping.archive.as_ref());
        side.map_or(0, |side| side.cutter.status().raw_bytes)
    }

    /// Reports whether a base is due by time or by the bytes cut since the last base.
    #[must_use]
    pub fn is_base_due(&self, node: &Node, started: Instant) -> bool {
        let config = node.config();
        let last = self.last.lock();
        let cut = self.logged_bytes(node);
        let since = last.ended.unwrap_or(started).elapsed();
        let interval = config.snapshot_interval;
        let log_max = config.snapshot_max_log_bytes.0;
        let by_time = !interval.is_zero() && since >= interval && cut > last.cut_bytes;
        by_time || (log_max != 0 && cut.saturating_sub(last.cut_bytes) >= log_max)
    }
}

/// Runs `work` while heartbeats keep the connection to the replica alive.
async fn while_alive<T>(
    node: &Node,
    sender: &mut Sender<OwnedWriteHalf>,
    peer: &str,
    work: impl Future<Output = T>,
) -> Result<T> {
    let mut work = std::pin::pin!(work);
    let mut heartbeat = tokio::time::interval(HEARTBEAT_INTERVAL);
    loop {
        // Cancel-safe: both arms only wait.
        tokio::select! {
            done = &mut work => return Ok(done),
            _ = heartbeat.tick() => {}
        }
        let heartbeat = Heartbeat {
            epoch: node.identity().epoch(),
            committed: node.source.shippable(),
            sent: Csn::ZERO,
            hash: HistoryHash::ZERO,
            archives: node.archive.is_some(),
            archived: node.archived().unwrap_or_default(),
            time: node.source.now(),
            wants_base: Csn::ZERO,
        };
        deadline(peer, sender.send(&Message::Heartbeat(heartbeat))).await?;
    }
}

async fn send_base(node: &Node, hello: &Hello, sender: &mut Sender<OwnedWriteHalf>, base: &LocalBase) -> Result<()> {
    let peer = &*hello.node;
    let identity = node.identity();
    let proof = wire::primary_proof(&node.secret(), hello, identity.cluster);
    let begin = BaseBegin { cluster: identity.cluster, history: identity.history, proof };
    deadline(peer, sender.send(&Message::BaseBegin(begin))).await?;
    let (shared, own) = base.files();
    for file in shared.iter().chain(&own) {
        let begin = BaseFile { name: file.object.to_string(), bytes: file.bytes };
        deadline(peer, sender.send(&Message::BaseFile(begin))).await?;
        let opened = node.backends.bulk.open_read(&file.path)?;
        for start in (0..file.bytes).step_by(PART_BYTES) {
            let length = (file.bytes - start).min(PART_BYTES as u64) as usize;
            let part: Bytes = tokio::task::block_in_place(|| node.backends.bulk.read_at(&opened, start, length))?;
            deadline(peer, sender.send(&Message::BasePart(part))).await?;
        }
    }
    // The manifest is sent last, as it is stored last in an archive.
    let manifest = base.manifest().encode();
    let name = base.manifest().start().manifest().to_string();
    deadline(peer, sender.send(&Message::BaseFile(BaseFile { name, bytes: manifest.len() as u64 }))).await?;
    for part in manifest.chunks(PART_BYTES) {
        deadline(peer, sender.send(&Message::BasePart(Bytes::copy_from_slice(part)))).await?;
    }
    deadline(peer, sender.send(&Message::BaseEnd)).await
}

/// Publishes the base to the second archive in the background, if there is one, and then removes the base's files.
/// Called when the first archive no longer needs the base.
pub(super) async fn hand_on(node: &Arc<Node>, base: LocalBase, base_tools: OwnedMutexGuard<BaseTools>) {
    let second = node.shipping.load().as_ref().and_then(|shipping| shipping.archive.as_ref()?.second.clone());
    let remove = async |base, base_tools| {
        let removed = tokio::task::spawn_blocking(move || drop(base)).await;
        removed.expect("removing files does not panic");
        drop::<OwnedMutexGuard<BaseTools>>(base_tools);
    };
    let Some(second) = second else { return remove(base, base_tools).await };
    let node = Arc::clone(node);
    tokio::spawn(async move {
        second.publish(&node, &base).await;
        remove(base, base_tools).await;
    });
}

/// Returns the log position up to which shipping no longer needs the logs; `None` if nothing is shipped. A replica with
/// an archive keeps the commits that its primary has not archived, because after a promotion the replica must archive
/// them.
fn shipped_until(node: &Node) -> Option<LogPosition> {
    match node.shipping.load().as_ref() {
        Some(shipping) => shipping.cut_until(),
        None if node.archive.is_some() => {
            let archived = node.committer.watermarks.archived.get();
            Some(node.committer.log_position(archived).unwrap_or_default())
        }
        None => None,
    }
}

fn lower(a: LogPosition, b: LogPosition) -> LogPosition {
    LogPosition { csn: a.csn.min(b.csn), wal_seq: a.wal_seq.min(b.wal_seq) }
}
