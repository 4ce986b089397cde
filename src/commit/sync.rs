//! Durability: both logs are synced as `appendfsync` asks, and the durable watermark raised. Under `always` who served the
//! clients of a group and wrote it syncs it, too, as long as that takes less than to wake the thread that does it otherwise.
//!
//! Guarantees: the durable watermark covers only commits whose logs were synced after they were written; a failed sync
//! is never retried, because the page cache's state is unknown after it: writes are refused until a restart. Commits
//! that arrive during a sync share the next one (group commit). A slow disk holds up nobody but those who wait for it,
//! save once, when it shows that it has become slow.

use super::gate::{Gate, RefusalReason};
use crate::config::AppendFsync;
use crate::csn::Csn;
use crate::engine::disk::Disk;
use crate::error::{Error, Result};
use crate::io::{Io, LogFile};
use crate::log::durable::{Durable, DurableMark};
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

/// How long a sync may take to be done by who wrote the group: about what it takes to have another thread do it, and
/// far from what readers served by the same thread would feel.
const AT_ONCE_MAX: Duration = Duration::from_micros(300);

/// Pause between two looks whether a sync that was asked for is done.
const SYNC_POLL: Duration = Duration::from_millis(1);

/// Bytes in the op-log after which it is synced although nothing else asks for it: a segment that is full is synced by
/// the writer, who should find little to do.
const OPLOG_UNSYNCED_MAX: usize = 4 << 20;

/// What was written since the last sync.
#[derive(Default)]
struct Unsynced {
    position: Position,
    /// The op-log's active segment, if frames were added.
    oplog: Option<LogFile>,
    oplog_bytes: usize,
    wal: bool,
    /// A sync is due whatever the mode: it has just changed, and somebody may wait as the one before promised.
    asked: bool,
    stop: bool,
}

impl Unsynced {
    fn is_dirty(&self) -> bool {
        self.wal || self.oplog.is_some()
    }
}

/// The sync thread and what it shares with the committer.
pub struct Syncer {
    mode: AtomicU8,
    /// Held while a sync runs. How far the last one came; an error once one has failed.
    synced: Mutex<Synced>,
    /// Whether the last sync took no longer than [`AT_ONCE_MAX`].
    is_quick: AtomicBool,
    /// Taken after `synced` where both are.
    unsynced: Mutex<Unsynced>,
    wake: Condvar,
    disk: Arc<Disk>,
    io: Arc<dyn Io>,
    watermarks: Arc<Watermarks>,
    gate: Arc<Gate>,
    failed: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Up to where the durable mark tells, and since when.
#[derive(Clone, Copy)]
struct Marked {
    csn: Csn,
    at: Instant,
}

/// What the thread is to do.
struct Due {
    sync: bool,
    mark: bool,
    stop: bool,
}

/// A sync failed: none is tried any more.
#[derive(Clone, Copy)]
struct SyncFailed;

/// How far both logs are synced, by this process.
type Synced = std::result::Result<Position, SyncFailed>;

impl Syncer {
    /// Starts the thread. `mark` tells the next start how far the logs were synced.
    #[must_use]
    pub fn start(
        mode: AppendFsync,
        disk: Arc<Disk>,
        io: Arc<dyn Io>,
        mark: DurableMark,
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
        let thread = std::thread::Builder::new().name("walferry-sync".into()).spawn(move || own.run(mark));
        *syncer.thread.lock() = Some(thread.expect("threads can be started while the process comes up"));
        syncer
    }

    /// The mode in force.
    #[must_use]
    pub fn mode(&self) -> AppendFsync {
        match self.mode.load(Ordering::Relaxed) {
            0 => AppendFsync::Always,
            1 => AppendFsync::EverySec,
            _ => AppendFsync::No,
        }
    }

    /// Changes the mode.
    pub fn set_mode(&self, mode: AppendFsync) {
        let mut unsynced = self.unsynced.lock();
        self.mode.store(mode as u8, Ordering::Relaxed);
        unsynced.asked = true;
        self.wake.notify_all();
    }

    /// Called by the committer for each group: both logs hold everything up to `position`. `oplog` is the active
    /// segment if the group added frames to it, with so many bytes; `wal`: whether it wrote a batch. Once no lock is
    /// held any more, [`Syncer::sync_soon`] or [`Syncer::hand_over`] follows.
    pub fn written(&self, position: Position, oplog: Option<LogFile>, oplog_bytes: usize, wal: bool) {
        let mut unsynced = self.unsynced.lock();
        unsynced.position = position;
        unsynced.wal |= wal;
        if oplog.is_some() {
            unsynced.oplog = oplog;
            unsynced.oplog_bytes += oplog_bytes;
        }
    }

    /// Sees to it that what was written is synced when the mode asks for it: under `always` at once if that is quick,
    /// else by the thread.
    pub fn sync_soon(&self) {
        if self.mode() == AppendFsync::Always && self.is_quick.load(Ordering::Relaxed) {
            if let Some(mut synced) = self.synced.try_lock_for(AT_ONCE_MAX) {
                // If it fails, those who wait for it learn it.
                let _ = self.sync_written(&mut synced);
                return;
            }
            // The sync that runs is not: nobody else is to wait for it here.
            self.is_quick.store(false, Ordering::Relaxed);
        }
        self.hand_over();
    }

    /// The same, by the thread in any case.
    pub fn hand_over(&self) {
        let is_always = self.mode() == AppendFsync::Always;
        let unsynced = self.unsynced.lock();
        if (is_always && unsynced.is_dirty()) || unsynced.oplog_bytes >= OPLOG_UNSYNCED_MAX {
            self.wake.notify_one();
        }
    }

    /// Syncs both logs whatever the mode, and returns once they are durable up to a commit that was written. Blocking.
    pub fn sync_until(&self, csn: Csn) -> Result<()> {
        self.unsynced.lock().asked = true;
        self.wake.notify_all();
        while self.watermarks.durable.get() < csn {
            if *self.failed.borrow() {
                return Err(Error::Refused { reason: format!("the logs could not be synced up to csn {csn}") });
            }
            std::thread::sleep(SYNC_POLL);
        }
        Ok(())
    }

    /// Returns when the reply to a commit may be sent. Cancel-safe.
    pub async fn acknowledged(&self, csn: Csn) -> Result<()> {
        if self.mode() != AppendFsync::Always || self.watermarks.durable.get() >= csn {
            return Ok(());
        }
        let mut failed = self.failed.subscribe();
        tokio::select! {
            // Both arms only wait: cancelling loses nothing.
            () = self.watermarks.durable.reached(csn) => Ok(()),
            _ = failed.wait_for(|failed| *failed) => Err(Error::Refused { reason: "the logs could not be synced: whether this write survives is unknown until a restart".into() }),
        }
    }

    /// The highest csn that may be shipped: what the durability mode has acknowledged as safe.
    #[must_use]
    pub fn shippable(&self) -> Csn {
        match self.mode() {
            AppendFsync::Always => self.watermarks.durable.get(),
            AppendFsync::EverySec | AppendFsync::No => self.watermarks.committed.get(),
        }
    }

    /// Syncs what is left and ends the thread.
    pub fn stop(&self) {
        self.unsynced.lock().stop = true;
        self.wake.notify_all();
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }

    fn run(&self, mut mark: DurableMark) {
        let mut marked = Marked { csn: self.watermarks.durable.get(), at: Instant::now() };
        loop {
            let due = self.wait_until_due(marked);
            let synced = {
                let mut synced = self.synced.lock();
                if due.sync { self.sync_written(&mut synced) } else { *synced }
            };
            let Ok(Position { csn, epoch, .. }) = synced else { return };
            if due.mark && csn > marked.csn {
                if let Err(error) = mark.write(Durable { csn, epoch }) {
                    tracing::warn!(%error, "the durable mark could not be written; the next start can prove less");
                }
                marked = Marked { csn, at: Instant::now() };
            }
            if due.stop {
                return;
            }
        }
    }

    /// Waits until the thread has something to do.
    fn wait_until_due(&self, marked: Marked) -> Due {
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
            let is_unmarked = sync || self.watermarks.durable.get() > marked.csn;
            let mark = stop || (is_unmarked && marked.at.elapsed() >= SYNC_INTERVAL);
            if sync || mark {
                return Due { sync, mark, stop };
            }
            self.wake.wait_for(&mut unsynced, SYNC_INTERVAL);
        }
    }

    /// Syncs what was written since the last sync; returns how far both logs are synced.
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
                format!("writes are refused until a restart, because the logs could not be synced: {error}"),
            );
            self.failed.send_replace(true);
            SyncFailed
        });
        self.is_quick.store(started.elapsed() <= AT_ONCE_MAX, Ordering::Relaxed);
        *synced
    }

    /// The op-log before the WAL, unless replies wait for both and that takes long: then side by side.
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
