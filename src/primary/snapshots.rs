//! When memory images are written, how bases are cut and sent, and what may be purged afterwards. Publishing them is in
//! [`super::bases`].
//!
//! Guarantees: one base at a time; logs are purged only below what an image, the cutter and (for replicas that were
//! away) the image before it have covered. Images and purging wait for a base only while the base is cut, which no store
//! and no peer can prolong: while a base is uploaded or sent, however slowly, they go on.

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

/// Pause after an image that failed: on a full disk it fails until somebody frees space.
const IMAGE_RETRY_PAUSE: Duration = Duration::from_secs(10);
/// A replica that takes a base more slowly than this is given up.
const BASE_BYTES_PER_SECOND_MIN: u64 = 1 << 20;

/// The node's images and bases.
pub struct Snapshots {
    /// The newest image on disk, and the one before it.
    images: Mutex<[ImagePosition; 2]>,
    /// Bytes of the logs on disk that lie in front of the newest image; 0 before this process has written one.
    logs_before_image: AtomicU64,
    /// Held while a base is cut and published or sent.
    pub(super) base_tools: Arc<tokio::sync::Mutex<BaseTools>>,
    is_writing_image: AtomicBool,
    /// Whether a base is being cut. A strict one reads the logs from its own memory image on, so they stay meanwhile.
    is_cutting: AtomicBool,
    /// When the last image failed; none if it did not.
    image_failed: Mutex<Option<Instant>>,
    /// A base is wanted as soon as possible.
    pub(super) is_requested: AtomicBool,
    pub(super) last: Mutex<LastBase>,
    /// Unix seconds of the last base or image.
    pub(super) saved: AtomicU64,
    /// What is under way and owed about bases.
    pub bases: Bases,
}

/// What cutting and publishing keep between two bases; made when the first one is cut.
#[derive(Default)]
pub(super) struct BaseTools {
    /// Locked by whoever cuts, also when nobody waits for the result any more.
    cutter: Option<Arc<Mutex<BaseCutter>>>,
    pub(super) publisher: Option<Publisher>,
}

/// What is known of the last base.
#[derive(Clone, Debug, Default)]
pub struct LastBase {
    /// What the last one published brought; none since the start.
    pub report: Option<Published>,
    /// The replica that published it; empty: this node.
    pub publisher: String,
    /// The last one that this node published, or would have if it had not been there.
    pub own: Option<BaseStart>,
    /// When the last attempt ended.
    pub ended: Option<Instant>,
    /// Why the last attempt failed; none if it did not.
    pub error: Option<String>,
    /// Raw chunk bytes cut when the last base was begun.
    pub cut_bytes: u64,
}

impl Snapshots {
    /// Of a node whose memory was loaded from `image`.
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

    /// Unix seconds of the last base or image; 0 if there was none since the start.
    #[must_use]
    pub fn last_save(&self) -> u64 {
        self.saved.load(Ordering::Relaxed)
    }

    /// What is known of the last base.
    #[must_use]
    pub fn last(&self) -> LastBase {
        self.last.lock().clone()
    }

    /// Whether a base or an image is being written, or a base is on its way to an archive or a replica.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.base_tools.try_lock().is_err() || self.is_writing_image.load(Ordering::Acquire)
    }

    /// Whether an image must wait: another one is being written, or a base is being cut.
    fn must_image_wait(&self) -> bool {
        self.is_writing_image.load(Ordering::Acquire) || self.is_cutting.load(Ordering::Acquire)
    }

    /// Wants a base as soon as possible.
    pub fn request(&self) {
        self.is_requested.store(true, Ordering::Release);
    }

    /// Whether a base was wanted and none was published since.
    pub(super) fn is_requested(&self) -> bool {
        self.is_requested.load(Ordering::Acquire)
    }

    /// BGSAVE: a base if this is a primary with an archive, else a memory image.
    pub fn start(&self, node: &Arc<Node>) -> Result<()> {
        let writes_image = node.archive.is_none() || node.is_replica();
        if if writes_image { self.must_image_wait() } else { self.is_busy() } {
            return Err(Error::Refused { reason: "Background save already in progress".into() });
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

    /// Cuts a base for somebody else; no other is cut before the base_tools is dropped, which must be after the base.
    pub(super) async fn cut_alone(&self, node: &Arc<Node>) -> Result<(LocalBase, OwnedMutexGuard<BaseTools>)> {
        let mut base_tools = Arc::clone(&self.base_tools).lock_owned().await;
        let base = self.cut(node, &mut base_tools, Consistency::Strict).await?;
        Ok((base, base_tools))
    }

    /// Cuts a base of what is committed now.
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

    /// Cuts a base and sends it over the connection of the replica that said `hello`. One that takes it too slowly is
    /// given up, since no other base can be cut meanwhile.
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

    /// Writes a memory image, so that the next start need not read the logs before it, and purges what that frees.
    pub fn write_image(&self, node: &Node) {
        if self.is_writing_image.swap(true, Ordering::AcqRel) {
            return;
        }
        let written = self.try_write_image(node);
        *self.image_failed.lock() = written.is_err().then(Instant::now);
        if let Err(error) = written {
            tracing::error!(%error, "writing a memory image failed; the next start reads more log");
        }
        self.is_writing_image.store(false, Ordering::Release);
    }

    fn try_write_image(&self, node: &Node) -> Result<()> {
        let MemorySnapshot { cut, at: image, .. } = MemorySnapshot::take(&node.committer)?;
        let logged = node.committer.log_bytes();
        // An image must not survive a power cut that takes commits in it from the logs: they could never be shipped.
        node.committer.syncer.sync_until(image.position.csn)?;
        // RocksDB must hold durably what the image leaves out, before the logs in front of it may go.
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

    /// The newest image on disk.
    #[must_use]
    pub fn newest_image(&self) -> ImagePosition {
        self.images.lock()[0]
    }

    /// Whether so much was logged since the newest image that a restart would take long: as much as the image's own
    /// data, which it reads in any case, so that images never cost more than the logs.
    #[must_use]
    pub fn is_image_due(&self, node: &Node) -> bool {
        let has_new = node.committer.watermarks.committed.get() > self.newest_image().position.csn;
        let is_paused = self.image_failed.lock().is_some_and(|failed| failed.elapsed() < IMAGE_RETRY_PAUSE);
        let logged = node.committer.log_bytes().saturating_sub(self.logs_before_image.load(Ordering::Relaxed));
        let due_at = node.config().image_log_bytes.0.max(node.committer.memory_bytes() as u64);
        has_new && !is_paused && !self.must_image_wait() && logged >= due_at
    }

    /// Bytes of log cut for the archive since the start; 0 if nothing is.
    pub(super) fn logged_bytes(&self, node: &Node) -> u64 {
        let shipping = node.shipping.load();
        let side = shipping.as_ref().and_then(|shipping| shipping.archive.as_ref());
        side.map_or(0, |side| side.cutter.status().raw_bytes)
    }

    /// Whether a base is due by time or by what was cut since the last one.
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

/// Waits for a base to be cut, while heartbeats tell the replica that it is.
async fn while_alive<T>(
    node: &Node,
    sender: &mut Sender<OwnedWriteHalf>,
    peer: &str,
    work: impl Future<Output = T>,
) -> Result<T> {
    let mut work = std::pin::pin!(work);
    let mut heartbeat = tokio::time::interval(HEARTBEAT_INTERVAL);
    loop {
        // Both arms only wait.
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
    // The manifest last, as in an archive.
    let manifest = base.manifest().encode();
    let name = base.manifest().start().manifest().to_string();
    deadline(peer, sender.send(&Message::BaseFile(BaseFile { name, bytes: manifest.len() as u64 }))).await?;
    for part in manifest.chunks(PART_BYTES) {
        deadline(peer, sender.send(&Message::BasePart(Bytes::copy_from_slice(part)))).await?;
    }
    deadline(peer, sender.send(&Message::BaseEnd)).await
}

/// The first archive is done with the base: now the second one, if there is one, in the background. Then the base goes.
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

/// What shipping no longer needs of the logs; none if nothing is shipped. A replica keeps what its primary has not
/// archived: after a promotion it has to.
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
