//! Uploads sealed chunks from the spool to the archive, in csn order, several at a time.
//!
//! Guarantees: the archived watermark passes a chunk only when this chunk and all chunks before it are confirmed in
//! the archive. If the store fails, or returns another content than was stored, the upload is retried without end and
//! [`UploaderStatus`] shows the failure. A fenced writer uploads nothing new, and its [`Uploader::run`] ends with
//! [`Error::Fenced`]. Dropping the future of `run` loses nothing: chunks in flight are uploaded again and found to be
//! there.
//! While there is nothing to upload, only the fence checks send requests.

use super::chunk_put::{Comparison, Placed};
use super::layout::{ChunkName, ObjectName};
use super::retry_policy::{RetryPolicy, backoff};
use super::starts::check_fence;
use super::store::Archive;
use crate::chunk::ChunkHeader;
use crate::clock;
use crate::csn::{Csn, Epoch};
use crate::error::{Error, Result};
use bytes::Bytes;
use futures::stream::{FuturesOrdered, StreamExt};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};

/// Largest number of archived chunks that wait for the receiver of [`Uploader::report_archived`]. A chunk beyond the
/// limit is not reported.
const REPORTS_MAX: usize = 16_384;

/// A sealed chunk that waits for its upload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SealedChunk {
    /// Name of the chunk in the archive. After a takeover the spool can hold chunks of an older epoch of this node.
    pub name: ChunkName,
}

/// A chunk that the uploader has confirmed in the archive, with all chunks before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArchivedChunk {
    /// Name of the chunk.
    pub name: ChunkName,
    /// Length in bytes.
    pub bytes: u64,
    /// Bytes before compression by the chunk's header; 0 if the header cannot be decoded.
    pub raw_bytes: u64,
    /// Time of the confirmation by this process' clock, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// The source of sealed chunks: the spool.
pub trait ChunkSource: Send + Sync + 'static {
    /// Returns the sealed chunk with the lowest csns among those that end after `after`. Must not block.
    fn next_sealed(&self, after: Csn) -> Option<SealedChunk>;

    /// Returns the chunk's bytes. Called where blocking is allowed. An error ends the uploader, except an I/O error
    /// other than "not found": the read is then retried.
    fn read(&self, chunk: &SealedChunk) -> Result<Bytes>;

    /// Notes that every csn up to `csn` is in the archive. Called with growing csns.
    fn archived(&self, csn: Csn);

    /// Compares the chunk to upload with the object that was already there under its name.
    fn compare(&self, own: &Bytes, found: &Bytes) -> Comparison;
}

/// Settings of the uploader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UploaderSettings {
    /// Largest number of chunks uploaded at the same time; it bounds the memory to so many chunks.
    pub in_flight_max: usize,
    /// Number of the writer's start under its epoch: a start with a higher number fences the writer.
    pub start: u32,
    /// Pause between two fence checks.
    pub fence_check_interval: Duration,
    /// Whether the fence is checked after each upload before the watermark passes the chunk. Needed if commits are
    /// acknowledged once they are archived (`archive-ack`): commits that a fenced writer archives are on no line of
    /// history.
    pub fence_each_ack: bool,
    /// Pause after the first failure in a row; it doubles up to `backoff_max`.
    pub backoff_first: Duration,
    /// Longest pause between two attempts.
    pub backoff_max: Duration,
}

impl Default for UploaderSettings {
    fn default() -> Self {
        Self {
            in_flight_max: 4,
            start: 1,
            fence_check_interval: Duration::from_secs(5),
            fence_each_ack: false,
            backoff_first: Duration::from_millis(200),
            backoff_max: Duration::from_secs(5),
        }
    }
}

/// State of the uploader. Only the uploader changes it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UploaderStatus {
    /// Archived watermark: every csn up to it is confirmed in the archive.
    pub archived: Csn,
    /// Number of chunks being uploaded.
    pub in_flight: usize,
    /// Number of chunks confirmed since the uploader was created.
    pub chunks_done: u64,
    /// Failures in a row; 0 after a success.
    pub failures_in_row: u32,
    /// Message of the last failure. A success does not clear the message.
    pub last_error: Option<String>,
    /// Why uploading ended for good, such as the fence or a damaged chunk; `None` while the uploader runs.
    pub stopped: Option<String>,
}

/// Uploads the chunks of one writer.
pub struct Uploader<S> {
    archive: Archive,
    source: Arc<S>,
    epoch: Epoch,
    settings: UploaderSettings,
    /// Initially the value in the settings; the caller changes it at run time with `archive-ack`.
    fence_each_ack: Arc<AtomicBool>,
    wake: Arc<Notify>,
    status: watch::Sender<UploaderStatus>,
    /// Receives the archived chunks; `None` if nobody asked for them.
    reports: Option<mpsc::Sender<ArchivedChunk>>,
}

impl<S: ChunkSource> Uploader<S> {
    /// Creates an uploader for the writer of `epoch`, whose commits up to `archived` are already in the archive.
    pub fn new(
        archive: &Archive,
        source: Arc<S>,
        epoch: Epoch,
        archived: Csn,
        settings: UploaderSettings,
    ) -> (Self, watch::Receiver<UploaderStatus>) {
        // One attempt a call, because the uploader itself retries and shows each failure at once.
        let archive = archive.with_retry_policy(RetryPolicy { attempts: 1, ..archive.retry_policy() });
        let (status, seen) = watch::channel(UploaderStatus { archived, ..UploaderStatus::default() });
        let fence_each_ack = Arc::new(AtomicBool::new(settings.fence_each_ack));
        let uploader =
            Self { archive, source, epoch, settings, fence_each_ack, wake: Arc::default(), status, reports: None };
        (uploader, seen)
    }

    /// Returns a receiver of every chunk that the uploader archives from now on.
    pub fn report_archived(&mut self) -> mpsc::Receiver<ArchivedChunk> {
        let (reports, receiver) = mpsc::channel(REPORTS_MAX);
        self.reports = Some(reports);
        receiver
    }

    /// Returns the flag that must be set while commits are acknowledged once they are archived.
    #[must_use]
    pub fn fence_each_ack(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.fence_each_ack)
    }

    /// Returns the handle to notify when a chunk was sealed.
    #[must_use]
    pub fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }

    /// Uploads until the writer is fenced, until another process turns out to write the same epoch, or until a chunk
    /// is found damaged or missing. Dropping the future stops the uploader.
    pub async fn run(&self) -> Error {
        let ended = match self.unfenced().await {
            // Cancel-safe: neither future keeps anything that is not in the source or in the archive.
            Ok(()) => tokio::select! {
                ended = self.watch_fence() => ended,
                ended = self.upload_all() => ended,
            },
            Err(error) => Err(error),
        };
        let Err(error) = ended;
        tracing::error!(epoch = self.epoch.0, archived = self.status.borrow().archived.0, %error, "uploading ended");
        self.status.send_modify(|status| {
            status.in_flight = 0;
            status.stopped = Some(error.to_string());
        });
        error
    }

    /// Ends when the next epoch or the writer's next start was claimed. A store that does not answer fences no writer.
    async fn watch_fence(&self) -> Result<Infallible> {
        loop {
            tokio::time::sleep(self.settings.fence_check_interval).await;
            match check_fence(&self.archive, self.epoch, self.settings.start).await {
                Err(error @ Error::Fenced { .. }) => return Err(error),
                Err(error) => self.note_failure(&error),
                Ok(()) => self.note_reachable(),
            }
        }
    }

    async fn upload_all(&self) -> Result<Infallible> {
        let mut cursor = self.status.borrow().archived;
        let mut waiting = VecDeque::new();
        let mut uploads = FuturesOrdered::new();
        loop {
            while uploads.len() < self.settings.in_flight_max
                && let Some(chunk) = self.source.next_sealed(cursor)
            {
                assert!(chunk.name.last > cursor, "the source gives chunks that end after the csn asked for");
                cursor = chunk.name.last;
                waiting.push_back(chunk);
                uploads.push_back(self.upload(chunk));
            }
            self.note_waiting(waiting.len());
            let full = uploads.len() >= self.settings.in_flight_max;
            tokio::select! {
                // Cancel-safe: an upload stays in the queue until it is taken out.
                Some(done) = uploads.next(), if !uploads.is_empty() => {
                    waiting.pop_front().expect("an upload belongs to a chunk");
                    self.advance(done?).await?;
                }
                // Cancel-safe: a notification stays stored until it is taken.
                () = self.wake.notified(), if !full => {}
            }
        }
    }

    async fn advance(&self, chunk: ArchivedChunk) -> Result<()> {
        if self.fence_each_ack.load(Relaxed) {
            self.unfenced().await?;
        }
        let csn = chunk.name.last;
        self.source.archived(csn);
        if let Some(reports) = &self.reports {
            // A full channel or a receiver that is gone costs nothing but the report.
            let _ = reports.try_send(ArchivedChunk { since_ms: clock::steady_millis(), ..chunk });
        }
        self.status.send_modify(|status| {
            status.archived = csn;
            status.chunks_done += 1;
            status.failures_in_row = 0;
        });
        Ok(())
    }

    /// Returns once the archive says that neither the next epoch nor the writer's next start was claimed;
    /// [`Error::Fenced`] if one of them was. Every other answer leads to a retry: a record that cannot be read neither
    /// fences the writer nor clears it.
    async fn unfenced(&self) -> Result<()> {
        let passes = |error: &Error| !matches!(error, Error::Fenced { .. });
        self.settled(|| check_fence(&self.archive, self.epoch, self.settings.start), passes).await
    }

    /// Uploads a chunk until it is confirmed; the time in the result is not set yet.
    async fn upload(&self, chunk: SealedChunk) -> Result<ArchivedChunk> {
        // A file that cannot be read may be readable later; a missing or damaged file will not come back.
        let reads_again =
            |error: &Error| matches!(error, Error::Io { source, .. } if source.kind() != std::io::ErrorKind::NotFound);
        let body = self.settled(|| self.read(chunk), reads_again).await?;
        let name = ObjectName::Chunk(chunk.name);
        let created = AtomicBool::new(false);
        // One error alone is final: the store returned other commits twice, so another process writes this epoch.
        let passes = |error: &Error| !matches!(error, Error::Identity { .. });
        self.settled(|| self.store(&name, &body, &created), passes).await?;
        let raw_bytes = ChunkHeader::decode(&body, "a sealed chunk").map_or(0, |header| header.raw_len());
        Ok(ArchivedChunk { name: chunk.name, bytes: body.len() as u64, raw_bytes, since_ms: 0 })
    }

    async fn read(&self, chunk: SealedChunk) -> Result<Bytes> {
        let source = Arc::clone(&self.source);
        tokio::task::spawn_blocking(move || source.read(&chunk)).await.map_err(Error::of_task)?
    }

    /// Makes one attempt to store a chunk under a name that only this writer may use. `created` is true if an earlier
    /// attempt took the name.
    async fn store(&self, name: &ObjectName, body: &Bytes, created: &AtomicBool) -> Result<()> {
        let compare = |own: &Bytes, found: &Bytes| self.source.compare(own, found);
        let Placed::Taken(found) = self.archive.put_chunk(name, body, created, compare).await? else { return Ok(()) };
        Err(Error::Identity {
            what: format!("{}/{name}", self.archive.url()),
            detail: format!(
                "the archive has this chunk with other commits ({found} bytes, this node's chunk has {}): another \
                 process writes epoch {} of this cluster. If this data directory is a copy, restore a directory \
                 from the archive instead",
                body.len(),
                self.epoch
            ),
        })
    }

    /// Repeats `step` until it succeeds or fails with an error that `passes` does not accept.
    async fn settled<T, F>(&self, step: impl Fn() -> F, passes: impl Fn(&Error) -> bool) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        let mut failed = 0;
        loop {
            match step().await {
                Err(error) if passes(&error) => {
                    failed += 1;
                    self.note_failure(&error);
                    let pause = backoff(failed, self.settings.backoff_first, self.settings.backoff_max);
                    tokio::time::sleep(pause).await;
                }
                outcome => return outcome,
            }
        }
    }

    fn note_waiting(&self, in_flight: usize) {
        self.status.send_if_modified(|status| std::mem::replace(&mut status.in_flight, in_flight) != in_flight);
    }

    /// Notes that the store answers. While uploads are in flight, only their success ends a row of failures.
    fn note_reachable(&self) {
        self.status.send_if_modified(|status| {
            let recovered = status.in_flight == 0 && status.failures_in_row > 0;
            if recovered {
                status.failures_in_row = 0;
            }
            recovered
        });
    }

    fn note_failure(&self, error: &Error) {
        self.status.send_modify(|status| {
            if status.failures_in_row == 0 {
                tracing::warn!(archived = status.archived.0, %error, "an upload failed; it is retried");
            }
            status.failures_in_row += 1;
            status.last_error = Some(error.to_string());
        });
    }
}

#[cfg(test)]
#[path = "uploader_tests.rs"]
mod tests;
