//! The cutter: a thread that turns commits into sealed chunks in the spool.
//!
//! Guarantees: chunks follow each other without a gap. A chunk is cut at 4 MiB raw or at `archive-interval`, whichever
//! comes first. Without commits nothing is cut. On a full disk cutting fails and is retried; this alone never stops a
//! write (the spool's limit does, and says so).

use super::source::CommitSource;
use super::spool::Spool;
use super::tail::Slice;
use crate::chunk::{ChunkLink, Encoder, Profile, RAW_BYTES_MAX};
use crate::csn::{Csn, Epoch, HistoryHash};
use crate::error::{Error, Result};
use crate::log::reader::LogCursor;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Longest time between two checks whether the thread must stop.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Pause after a failure, before the next attempt.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How much was cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CutterStatus {
    /// Log position up to which all commits are in sealed chunks, and from which the logs are read.
    pub position: LogCursor,
    /// Number of chunks sealed since the start.
    pub chunks: u64,
    /// Raw bytes of the chunks sealed since the start.
    pub raw_bytes: u64,
    /// Stored bytes of the chunks sealed since the start.
    pub stored_bytes: u64,
}

/// The cutter of one node.
pub struct Cutter {
    source: CommitSource,
    spool: Arc<Spool>,
    sealed: Arc<Notify>,
    status: Mutex<CutterStatus>,
    last_error: Mutex<Option<String>>,
    interval_ms: AtomicU64,
    /// Csn up to which a flush asks to cut without waiting for the interval.
    flush_until: AtomicU64,
    stops: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The point at which a cutter begins.
#[derive(Clone, Copy, Debug)]
pub struct CutFrom {
    /// Log position of the last commit that is in a chunk.
    pub position: LogCursor,
    /// History hash after the commit at `position`.
    pub hash: HistoryHash,
    /// The lineage to which the chunks belong.
    pub epoch: Epoch,
}

impl Cutter {
    /// Starts the thread. `sealed` is notified for each chunk.
    #[must_use]
    pub fn start(
        source: CommitSource,
        spool: Arc<Spool>,
        from: CutFrom,
        interval: Duration,
        sealed: Arc<Notify>,
    ) -> Arc<Self> {
        let cutter = Arc::new(Self {
            source,
            spool,
            sealed,
            status: Mutex::new(CutterStatus { position: from.position, ..CutterStatus::default() }),
            last_error: Mutex::default(),
            interval_ms: AtomicU64::new(interval.as_millis() as u64),
            flush_until: AtomicU64::new(0),
            stops: AtomicBool::new(false),
            thread: Mutex::default(),
        });
        let own = Arc::clone(&cutter);
        let thread = std::thread::Builder::new().name("walferry-cutter".into()).spawn(move || own.run(from));
        *cutter.thread.lock() = Some(thread.expect("threads can be started while the process comes up"));
        cutter
    }

    /// Returns how much was cut.
    #[must_use]
    pub fn status(&self) -> CutterStatus {
        *self.status.lock()
    }

    /// Returns why the last attempt to cut failed, or `None` if it succeeded.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }

    /// Changes the age at which a chunk is cut even if it is not full.
    pub fn set_interval(&self, interval: Duration) {
        self.interval_ms.store(interval.as_millis() as u64, Ordering::Relaxed);
    }

    /// Asks to cut everything up to `csn` without waiting for the interval. Does not wait for it.
    pub fn flush(&self, csn: Csn) {
        self.flush_until.fetch_max(csn.0, Ordering::AcqRel);
        self.source.tail().wake();
    }

    /// Cuts all commits that may be shipped, then ends the thread.
    pub fn stop(&self) {
        self.stops.store(true, Ordering::Release);
        self.source.tail().wake();
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }

    fn run(&self, from: CutFrom) {
        let mut link = ChunkLink { epoch: from.epoch, hash_before: from.hash, ..ChunkLink::default() };
        let mut encoder = Encoder::new(Profile::default());
        loop {
            let stops = self.stops.load(Ordering::Acquire);
            if !stops {
                self.wait_for_a_chunk();
            }
            match self.cut(&mut encoder, &mut link) {
                Ok(cut_any) => {
                    *self.last_error.lock() = None;
                    if stops && !cut_any {
                        return;
                    }
                }
                Err(error) => {
                    self.note_failure(&error);
                    if stops {
                        return;
                    }
                    std::thread::sleep(RETRY_PAUSE);
                }
            }
        }
    }

    fn note_failure(&self, error: &Error) {
        let message = error.to_string();
        let mut last = self.last_error.lock();
        if last.as_ref() != Some(&message) {
            tracing::error!(%error, "cutting a chunk failed; the cut is retried");
            *last = Some(message);
        }
    }

    /// Waits until a chunk is full, or old enough, or a flush or the stop asks for it.
    fn wait_for_a_chunk(&self) {
        let tail = self.source.tail();
        let position = self.status.lock().position.csn;
        let is_due = |since: Option<Instant>| {
            let interval = Duration::from_millis(self.interval_ms.load(Ordering::Relaxed));
            let is_flushed = self.flush_until.load(Ordering::Acquire) > position.0;
            let is_old = since.is_some_and(|since| since.elapsed() >= interval);
            self.stops.load(Ordering::Acquire) || is_flushed || is_old
        };
        let start = tail.total();
        let mut since = None;
        while !is_due(since) {
            let is_uncut = self.source.shippable() > position;
            if is_uncut && since.is_none() {
                since = Some(Instant::now());
            }
            let interval = Duration::from_millis(self.interval_ms.load(Ordering::Relaxed));
            let wanted = if is_uncut { start + RAW_BYTES_MAX as u64 } else { tail.total() + 1 };
            let pause =
                since.map_or(LOOK_INTERVAL, |since| interval.saturating_sub(since.elapsed()).min(LOOK_INTERVAL));
            if tail.wait(wanted, pause) >= start + RAW_BYTES_MAX as u64 && is_uncut {
                return;
            }
        }
    }

    /// Cuts the commits that may be shipped. Returns whether there were any.
    fn cut(&self, encoder: &mut Encoder, link: &mut ChunkLink) -> Result<bool> {
        let position = self.status.lock().position;
        let slices = self.source.read(position)?;
        let cut_any = !slices.is_empty();
        for slice in slices {
            self.seal(encoder, link, &slice)?;
        }
        Ok(cut_any)
    }

    fn seal(&self, encoder: &mut Encoder, link: &mut ChunkLink, slice: &Slice) -> Result<()> {
        let (Some(first), Some(last)) = (slice.commits.first(), slice.last()) else { return Ok(()) };
        first.require_continues(link.hash_before, "a commit to be archived")?;
        (link.wal_first, link.wal_last) = (slice.wal_before, slice.wal_after);
        let chunk = encoder.encode(slice.commits.iter(), *link);
        self.spool.seal(&chunk)?;
        link.hash_before = chunk.header().hash_after;
        let mut status = self.status.lock();
        status.position = LogCursor { csn: last, wal_seq: slice.wal_after };
        status.chunks += 1;
        status.raw_bytes += slice.bytes() as u64;
        status.stored_bytes += chunk.bytes().len() as u64;
        drop(status);
        self.sealed.notify_one();
        Ok(())
    }
}
