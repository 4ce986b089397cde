//! Durability: one thread that syncs both logs as `appendfsync` asks and raises the durable watermark.
//!
//! Guarantees: the durable watermark covers only commits whose logs were synced after they were written; a failed sync
//! is never retried, because the page cache's state is unknown after it: writes are refused until a restart. Commits
//! that arrive during a sync share the next one (group commit).

use super::gate::{Gate, Obstacle};
use crate::config::AppendFsync;
use crate::csn::Csn;
use crate::engine::disk::Disk;
use crate::error::{Error, Result};
use crate::io::{Io, LogFile};
use crate::log::durable::{Durable, DurableMark};
use crate::log::envelope::Position;
use crate::watermark::Watermarks;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long `everysec` may leave commits unsynced.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

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

/// The sync thread and what it shares with the committer.
pub struct Syncer {
    mode: AtomicU8,
    unsynced: Mutex<Unsynced>,
    wake: Condvar,
    disk: Arc<Disk>,
    io: Arc<dyn Io>,
    watermarks: Arc<Watermarks>,
    gate: Arc<Gate>,
    failed: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

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
    /// segment if the group added frames to it, with so many bytes; `wal`: whether it wrote a batch.
    pub fn written(&self, position: Position, oplog: Option<LogFile>, oplog_bytes: usize, wal: bool) {
        let mut unsynced = self.unsynced.lock();
        unsynced.position = position;
        unsynced.wal |= wal;
        if oplog.is_some() {
            unsynced.oplog = oplog;
            unsynced.oplog_bytes += oplog_bytes;
        }
        if self.mode() == AppendFsync::Always || unsynced.oplog_bytes >= OPLOG_UNSYNCED_MAX {
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
        let mut last_mark = Instant::now();
        loop {
            let work = self.next_work();
            let stops = work.stop;
            if let Err(error) = self.sync(&work) {
                tracing::error!(%error, "syncing the logs failed: writes are refused until a restart");
                self.gate.close(
                    Obstacle::Broken,
                    format!("writes are refused until a restart, because the logs could not be synced: {error}"),
                );
                self.failed.send_replace(true);
                return;
            }
            if stops || last_mark.elapsed() >= SYNC_INTERVAL {
                let durable = Durable { csn: self.watermarks.durable.get(), epoch: work.position.epoch };
                if let Err(error) = mark.write(durable) {
                    tracing::warn!(%error, "the durable mark could not be written; the next start can prove less");
                }
                last_mark = Instant::now();
            }
            if stops {
                return;
            }
        }
    }

    /// Waits until something is to be synced.
    fn next_work(&self) -> Unsynced {
        let mut unsynced = self.unsynced.lock();
        let started = Instant::now();
        loop {
            let is_dirty = unsynced.wal || unsynced.oplog.is_some();
            let is_due = match self.mode() {
                AppendFsync::Always => true,
                AppendFsync::EverySec => started.elapsed() >= SYNC_INTERVAL,
                AppendFsync::No => false,
            } || unsynced.oplog_bytes >= OPLOG_UNSYNCED_MAX;
            if unsynced.stop || (is_dirty && (is_due || unsynced.asked)) {
                let position = unsynced.position;
                let stop = unsynced.stop;
                return std::mem::replace(&mut unsynced, Unsynced { position, stop, ..Unsynced::default() });
            }
            self.wake.wait_for(&mut unsynced, SYNC_INTERVAL);
        }
    }

    /// The op-log before the WAL, unless replies wait for both: then side by side.
    fn sync(&self, work: &Unsynced) -> Result<()> {
        let oplog = || work.oplog.as_ref().map_or(Ok(()), |file| self.io.sync_data(file));
        let wal = || if work.wal { self.disk.sync_wal() } else { Ok(()) };
        if self.mode() == AppendFsync::Always && work.wal && work.oplog.is_some() {
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
