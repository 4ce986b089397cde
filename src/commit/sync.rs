//! Durability: both logs are synced as `appendfsync` asks, and the durable watermark is raised.
//!
//! A sync thread does the syncs. Under `always` the thread that wrote a group also syncs it, as long as a sync takes
//! no longer than waking the sync thread would.
//!
//! Guarantees: the durable watermark covers only commits whose logs were synced after they were written. A failed sync
//! is never retried, because the state of the page cache is unknown after it: writes are refused until a restart.
//! Commits that arrive during a sync share the next one (group commit). A slow sync delays only clients that wait for
//! durability, except for the one sync at which the disk turns out to be slow.

use super::gate::{Gate, RefusalReason};
use crate::config::AppendFsync;
use crate::csn::Csn;
use crate::engine::disk::Disk;
use crate::error::{Error, Result};
use crate::io::{Io, LogFile};
use crate::log::durable::{Durable, DurableFile};
use crate::position::Position;
use crate::watermark::Watermarks;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long `everysec` may leave commits unsynced.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Longest time that a sync may have taken for the next one to be done by the thread that wrote the group; also the
/// longest wait for a sync that is running. Waking another thread takes about as long, and readers that the same
/// thread serves do not notice the delay.
const AT_ONCE_MAX: Duration = Duration::from_micros(300);

/// Pause of [`Syncer::sync_until`] between two looks at the durable watermark.
const SYNC_POLL: Duration = Duration::from_millis(1);

/// Unsynced bytes in the op-log at which it is synced in any mode. The writer itself syncs a full segment, and this
/// limit keeps that sync short.
const OPLOG_UNSYNCED_MAX: usize = 4 << 20;

/// Writes since the last sync.
#[derive(Default)]
struct Unsynced {
    position: Position,
    /// The op-log's active segment, if frames were appended.
    oplog: Option<LogFile>,
    oplog_bytes: usize,
    wal: bool,
    /// Whether a sync is due in any mode: [`Syncer::sync_until`] asked for it, or the mode changed while a client may
    /// wait for a sync that the mode before had promised.
    asked: bool,
    stop: bool,
}

impl Unsynced {
    fn is_dirty(&self) -> bool {
        self.wal || self.oplog.is_some()
    }
}

/// The sync thread and the state that it shares with the committer.
pub struct Syncer {
    mode: AtomicU8,
    /// Locked while a sync runs. Holds the position up to which the last sync came, or an error once a sync has
    /// failed.
    synced: Mutex<Synced>,
    /// Whether the last sync, and the last wait for a running one, took no longer than [`AT_ONCE_MAX`].
    is_quick: AtomicBool,
    /// Always locked after `synced` where both are locked.
    unsynced: Mutex<Unsynced>,
    wake: Condvar,
    disk: Arc<Disk>,
    io: Arc<dyn Io>,
    watermarks: Arc<Watermarks>,
    gate: Arc<Gate>,
    failed: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The csn that the durable file holds, and when the file was written.
#[derive(Clone, Copy)]
struct Recorded {
    csn: Csn,
    at: Instant,
}

/// The tasks of the sync thread in one round.
struct Due {
    sync: bool,
    record: bool,
    stop: bool,
}

/// A sync failed, and none is tried until a restart.
#[derive(Clone, Copy)]
struct SyncFailed;

/// Position up to which this process has synced both logs.
type Synced = std::result::Result<Position, SyncFailed>;

impl Syncer {
    /// Starts the sync thread. `file` tells the next start of the node how far the logs were synced.
    #[must_use]
    pub fn start(
        mode: AppendFsync,
        disk: Arc<Disk>,
        io: Arc<dyn Io>,
        file: DurableFile,
        watermarks: Arc<Watermarks>,
        gate: Arc<Gate>,
    ) -> Arc<Self> {
        let syncer = Arc::new(Self {
            mode: AtomicU8::new(mode as u8),
            synced: Mutex::new(Ok(Position::default())),
            is_quick: AtomicBool::new(false),
            unsynced: Mutex::default(),
            wake: Condvar::new(),
            disk,
            io,
            watermarks,
            gate,
            failed: watch::Sender::new(false),
            thread: Mutex::default(),
        });
        let own = Arc::clone(&syncer);
        let thread = std::thread::Builder::new().name("walferry-sync".into()).spawn(move || own.run(file));
        *syncer.thread.lock() = Some(thread.expect("threads can be started while the process comes up"));
        syncer
    }

    /// Returns the mode in force.
    #[must_use]
    pub fn mode(&self) -> AppendFsync {
        match self.mode.load(Ordering::Relaxed) {
            0 => AppendFsync::Always,
            1 => AppendFsync::EverySec,
            _ => AppendFsync::No,
        }
    }

    /// Changes the mode and requests a sync.
    pub fn set_mode(&self, mode: AppendFsync) {
        let mut unsynced = self.unsynced.lock();
        self.mode.store(mode as u8, Ordering::Relaxed);
        unsynced.asked = true;
        self.wake.notify_all();
    }

    /// Notes a written group; the committer calls this for each. Both logs hold all commits up to `position`. `oplog`
    /// is the active segment if the group appended `oplog_bytes` of frames to it; `wal` tells whether the group wrote
    /// a batch. Once the locks are released, [`Syncer::sync_soon`] or [`Syncer::hand_over`] must follow.
    pub fn written(&self, position: Position, oplog: Option<LogFile>, oplog_bytes: usize, wal: bool) {
        let mut unsynced = self.unsynced.lock();
        unsynced.position = position;
        unsynced.wal |= wal;
        if oplog.is_some() {
            unsynced.oplog = oplog;
            unsynced.oplog_bytes += oplog_bytes;
        }
    }

    /// Arranges that written groups are synced when the mode asks for it. Under `always` this thread syncs if syncs
    /// are quick; otherwise the sync thread does.
    pub fn sync_soon(&self) {
        if self.mode() == AppendFsync::Always && self.is_quick.load(Ordering::Relaxed) {
            if let Some(mut synced) = self.synced.try_lock_for(AT_ONCE_MAX) {
                // If the sync fails, the clients that wait for it get the error.
                let _ = self.sync_written(&mut synced);
                return;
            }
            // Another sync has run for longer than a quick one: later callers leave syncs to the sync thread.
            self.is_quick.store(false, Ordering::Relaxed);
        }
        self.hand_over();
    }

    /// Does the same as [`Syncer::sync_soon`], but leaves the sync to the sync thread in any case.
    pub fn hand_over(&self) {
        let is_always = self.mode() == AppendFsync::Always;
        let unsynced = self.unsynced.lock();
        if (is_always && unsynced.is_dirty()) || unsynced.oplog_bytes >= OPLOG_UNSYNCED_MAX {
            self.wake.notify_one();
        }
    }

    /// Syncs both logs in any mode, and returns once they are durable up to `csn`, which must have been written.
    /// Blocks. Returns [`Error::NeedsRestart`] if a sync has failed.
    pub fn sync_until(&self, csn: Csn) -> Result<()> {
        self.unsynced.lock().asked = true;
        self.wake.notify_all();
        while self.watermarks.durable.get() < csn {
            if *self.failed.borrow() {
                return Err(Error::NeedsRestart { reason: format!("the logs could not be synced up to csn {csn}") });
            }
            std::thread::sleep(SYNC_POLL);
        }
        Ok(())
    }

    /// Returns when the reply to a commit may be sent: at once, or under `always` once the commit is durable.
    /// Cancel-safe.
    pub async fn acknowledged(&self, csn: Csn) -> Result<()> {
        if self.mode() != AppendFsync::Always || self.watermarks.durable.get() >= csn {
            return Ok(());
        }
        let mut failed = self.failed.subscribe();
        tokio::select! {
            // Cancel-safe: both arms only wait.
            () = self.watermarks.durable.reached(csn) => Ok(()),
            _ = failed.wait_for(|failed| *failed) => {
                let reason = "the logs could not be synced: it is unknown until a restart whether this write is kept";
                Err(Error::NeedsRestart { reason: reason.to_owned() })
            }
        }
    }

    /// Returns the highest csn that may be shipped: the durable watermark under `always`, else the committed one.
    #[must_use]
    pub fn shippable(&self) -> Csn {
        match self.mode() {
            AppendFsync::Always => self.watermarks.durable.get(),
            AppendFsync::EverySec | AppendFsync::No => self.watermarks.committed.get(),
        }
    }

    /// Syncs all written commits and ends the thread.
    pub fn stop(&self) {
        self.unsynced.lock().stop = true;
        self.wake.notify_all();
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }

    fn run(&self, mut file: DurableFile) {
        let mut recorded = Recorded { csn: self.watermarks.durable.get(), at: Instant::now() };
        loop {
            let due = self.wait_until_due(recorded);
            let synced = {
                let mut synced = self.synced.lock();
                if due.sync { self.sync_written(&mut synced) } else { *synced }
            };
            let Ok(Position { csn, epoch, .. }) = synced else { return };
            if due.record && csn > recorded.csn {
                if let Err(error) = file.write(Durable { csn, epoch }) {
                    tracing::warn!(%error, "the durable watermark could not be recorded, so the next start may not \
                                            notice the loss of the newest commits");
                }
                recorded = Recorded { csn, at: Instant::now() };
            }
            if due.stop {
                return;
            }
        }
    }

    /// Waits until the sync thread has a task.
    fn wait_until_due(&self, recorded: Recorded) -> Due {
        let mut unsynced = self.unsynced.lock();
        let started = Instant::now();
        loop {
            let may_sync = match self.mode() {
                AppendFsync::Always => true,
                AppendFsync::EverySec => started.elapsed() >= SYNC_INTERVAL,
                AppendFsync::No => false,
            } || unsynced.asked
                || unsynced.oplog_bytes >= OPLOG_UNSYNCED_MAX;
            let stop = unsynced.stop;
            let sync = stop || (unsynced.is_dirty() && may_sync);
            let is_behind = sync || self.watermarks.durable.get() > recorded.csn;
            let record = stop || (is_behind && recorded.at.elapsed() >= SYNC_INTERVAL);
            if sync || record {
                return Due { sync, record, stop };
            }
            self.wake.wait_for(&mut unsynced, SYNC_INTERVAL);
        }
    }

    /// Syncs the writes since the last sync. Returns the position up to which both logs are synced.
    fn sync_written(&self, synced: &mut Synced) -> Synced {
        let position = (*synced)?;
        let work = {
            let mut unsynced = self.unsynced.lock();
            let next = Unsynced { position: unsynced.position, stop: unsynced.stop, ..Unsynced::default() };
            std::mem::replace(&mut *unsynced, next)
        };
        if !work.is_dirty() {
            return Ok(position);
        }
        let started = Instant::now();
        *synced = self.sync(&work).map(|()| work.position).map_err(|error| {
            tracing::error!(%error, "syncing the logs failed: writes are refused until a restart");
            self.gate.close(
                RefusalReason::Broken,
                format!(
                    "writes are refused until a restart, because the logs could not be synced: {error}. Check the \
                         disk, then restart walferry"
                ),
            );
            self.failed.send_replace(true);
            SyncFailed
        });
        self.is_quick.store(started.elapsed() <= AT_ONCE_MAX, Ordering::Relaxed);
        *synced
    }

    /// Syncs the op-log before the WAL. Under `always`, if syncs are slow, both are synced side by side, because
    /// replies wait for both.
    fn sync(&self, work: &Unsynced) -> Result<()> {
        let oplog = || work.oplog.as_ref().map_or(Ok(()), |file| self.io.sync_data(file));
        let wal = || if work.wal { self.disk.sync_wal() } else { Ok(()) };
        let is_quick = self.is_quick.load(Ordering::Relaxed);
        if self.mode() == AppendFsync::Always && work.wal && work.oplog.is_some() && !is_quick {
            let (oplog, wal) = std::thread::scope(|scope| {
                let oplog = scope.spawn(oplog);
                let wal = wal();
                (oplog.join().expect("a sync does not panic"), wal)
            });
            oplog.and(wal)?;
        } else {
            oplog()?;
            wal()?;
        }
        self.watermarks.durable.raise(work.position.csn);
        Ok(())
    }
}

#[cfg(test)]
#[path = "sync_tests.rs"]
mod tests;
