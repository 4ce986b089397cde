//! Brings sealed chunks from the spool into the archive, in csn order, several at a time.
//!
//! Guarantees: the archived watermark passes a chunk only when it and all before it are confirmed in the archive; a
//! store that fails, or answers something else than what was stored, is retried for ever and shows in
//! [`UploaderStatus`]; a writer that was fenced uploads nothing new and
//! its [`Uploader::run`] ends with [`Error::Fenced`]. Dropping the future of `run` loses nothing: what was in flight is
//! uploaded again and found to be there.
//! Idle, it sends nothing but the fence check.

use super::layout::{ChunkName, ObjectName};
use super::put::SINGLE_PUT_BYTES_MAX;
use super::retry_policy::{RetryPolicy, backoff};
use super::starts::check_fence;
use super::store::Archive;
use crate::csn::{Csn, Epoch};
use crate::error::{Error, Result};
use bytes::Bytes;
use futures::stream::{FuturesOrdered, StreamExt};
use std::collections::VecDeque;
use std::convert::Infallible;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// A sealed chunk that waits for its upload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SealedChunk {
    /// Its name in the archive. After a takeover the spool can still hold chunks of an older epoch of this node.
    pub name: ChunkName,
}

/// Where sealed chunks come from: the spool.
pub trait ChunkSource: Send + Sync + 'static {
    /// The sealed chunk with the lowest csns among those that end after `after`. Must not block.
    fn next_sealed(&self, after: Csn) -> Option<SealedChunk>;

    /// The chunk's bytes. Called where blocking is allowed. An error ends the uploader, unless it is one of I/O and the
    /// chunk may be there.
    fn read(&self, chunk: &SealedChunk) -> Result<Bytes>;

    /// Every csn up to `csn` is in the archive. Called with growing csns.
    fn archived(&self, csn: Csn);

    /// What an object is that was already there under the name of the chunk to upload.
    fn compare(&self, own: &Bytes, found: &Bytes) -> Comparison;
}

/// An object that lies where a chunk is to be uploaded, compared with the chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comparison {
    /// The same commits. Other bytes can carry them: a chunk that was cut again after a restart.
    Same,
    /// Other commits: somebody else writes this epoch.
    Other,
    /// Not a whole chunk: a torn upload, or read wrongly.
    Unreadable,
}

/// How the uploader works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UploaderSettings {
    /// Chunks uploaded at the same time; bounds memory to as many chunks.
    pub in_flight_max: usize,
    /// Number of the writer's start under its epoch: a higher one fences it.
    pub start: u32,
    /// Pause between two looks at the fence.
    pub fence_check_interval: Duration,
    /// Whether the fence is looked at after each upload before the watermark passes it: needed when commits are
    /// acknowledged by being archived (`archive-ack`), because what a fenced writer archives is on no line of history.
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

/// What the uploader is doing. Changed by the uploader only.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UploaderStatus {
    /// Archived watermark: every csn up to it is confirmed in the archive.
    pub archived: Csn,
    /// Chunks being uploaded now.
    pub in_flight: usize,
    /// Chunks confirmed since the start.
    pub chunks_done: u64,
    /// Failures in a row; 0 after a success.
    pub failures_in_row: u32,
    /// Message of the last failure, kept after a success until the next.
    pub last_error: Option<String>,
    /// The fence or a broken promise stopped it; this is why.
    pub stopped: Option<String>,
}

/// Uploads one writer's chunks.
pub struct Uploader<S> {
    archive: Archive,
    source: Arc<S>,
    epoch: Epoch,
    settings: UploaderSettings,
    /// As in the settings at first; changes with `archive-ack`.
    fence_each_ack: Arc<AtomicBool>,
    wake: Arc<Notify>,
    status: watch::Sender<UploaderStatus>,
}

impl<S: ChunkSource> Uploader<S> {
    /// An uploader for the writer of `epoch`, whose commits up to `archived` are in the archive already.
    pub fn new(
        archive: &Archive,
        source: Arc<S>,
        epoch: Epoch,
        archived: Csn,
        settings: UploaderSettings,
    ) -> (Self, watch::Receiver<UploaderStatus>) {
        // One attempt a call: the loop here retries, and shows each failure at once.
        let archive = archive.with_patience(RetryPolicy { attempts: 1, ..archive.retry_policy() });
        let (status, seen) = watch::channel(UploaderStatus { archived, ..UploaderStatus::default() });
        let fence_each_ack = Arc::new(AtomicBool::new(settings.fence_each_ack));
        (Self { archive, source, epoch, settings, fence_each_ack, wake: Arc::default(), status }, seen)
    }

    /// What to set when commits begin, or cease, to be acknowledged by being archived.
    #[must_use]
    pub fn fence_each_ack(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.fence_each_ack)
    }

    /// What to notify when a chunk was sealed.
    #[must_use]
    pub fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }

    /// Uploads until fenced, until the archive turns out to be written by somebody else, or until a chunk is found
    /// damaged or gone. To stop it, drop the future.
    pub async fn run(&self) -> Error {
        let ended = match self.unfenced().await {
            // Cancel-safe: neither side keeps anything that is not in the source or the archive.
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

    /// Ends when the next epoch or the next start was claimed. A store that cannot be asked fences nobody.
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
                // Cancel-safe: an upload that is not taken out stays in the queue.
                Some(done) = uploads.next(), if !uploads.is_empty() => {
                    done?;
                    let chunk = waiting.pop_front().expect("an upload belongs to a chunk");
                    self.advance(chunk.name.last).await?;
                }
                // Cancel-safe: a notification that is not taken stays stored.
                () = self.wake.notified(), if !full => {}
            }
        }
    }

    async fn advance(&self, csn: Csn) -> Result<()> {
        if self.fence_each_ack.load(Relaxed) {
            self.unfenced().await?;
        }
        self.source.archived(csn);
        self.status.send_modify(|status| {
            status.archived = csn;
            status.chunks_done += 1;
            status.failures_in_row = 0;
        });
        Ok(())
    }

    /// Returns once the archive says that the next epoch was not claimed; [`Error::Fenced`] if it was. Nothing else that
    /// the archive answers ends anything: what cannot be read fences nobody and clears nobody.
    async fn unfenced(&self) -> Result<()> {
        let passes = |error: &Error| !matches!(error, Error::Fenced { .. });
        self.settled(|| check_fence(&self.archive, self.epoch, self.settings.start), passes).await
    }

    async fn upload(&self, chunk: SealedChunk) -> Result<()> {
        // A file that cannot be read may be readable later; one that is gone or damaged will not come back.
        let reads_again =
            |error: &Error| matches!(error, Error::Io { source, .. } if source.kind() != std::io::ErrorKind::NotFound);
        let body = self.settled(|| self.read(chunk), reads_again).await?;
        let name = ObjectName::Chunk(chunk.name);
        let created = AtomicBool::new(false);
        // Of the store's answers one alone is final, which was given twice: somebody else writes this epoch.
        let passes = |error: &Error| !matches!(error, Error::Identity { .. });
        self.settled(|| self.store(&name, &body, &created), passes).await
    }

    async fn read(&self, chunk: SealedChunk) -> Result<Bytes> {
        let source = Arc::clone(&self.source);
        tokio::task::spawn_blocking(move || source.read(&chunk))
            .await
            .map_err(|error| Error::Refused { reason: format!("reading a chunk for its upload failed: {error}") })?
    }

    /// One attempt to store a chunk under a name that only this writer may use. `created` says that an attempt before
    /// this one took the name, so that what lies there is this chunk, if perhaps broken: overwrite, do not compare.
    async fn store(&self, name: &ObjectName, body: &Bytes, created: &AtomicBool) -> Result<()> {
        let single = body.len() as u64 <= SINGLE_PUT_BYTES_MAX;
        // Parts cannot be create-only together.
        if created.load(Relaxed) || !single && self.archive.head(name).await?.is_none() {
            created.store(true, Relaxed);
            return self.archive.put_verified(name, body.clone()).await;
        }
        if single && let Some(put) = self.archive.create(name, body.clone()).await? {
            created.store(true, Relaxed);
            return self.archive.confirm(name, body.len() as u64, &put).await;
        }
        let Some(found) = self.lying_there(name).await? else {
            return Err(self.broken(format!("refused to create {name} as already there, but does not have it")));
        };
        let comparison = found.as_ref().map_or(Comparison::Unreadable, |found| self.source.compare(body, found));
        if comparison == Comparison::Same {
            return Ok(());
        }
        // What lies there is judged only if it is what lies there: a wrong answer would not be given twice.
        if self.lying_there(name).await?.as_ref() != Some(&found) {
            return Err(self.broken(format!("gave two different contents for {name}")));
        }
        let found = found.unwrap_or_default();
        if comparison == Comparison::Unreadable {
            tracing::warn!(%name, found = found.len(), own = body.len(), "a torn upload is replaced");
            return self.archive.put_verified(name, body.clone()).await;
        }
        Err(Error::Identity {
            what: format!("{}/{name}", self.archive.url()),
            detail: format!(
                "the chunk is already there with other commits ({} bytes, ours has {}): another process writes epoch \
                 {} of this cluster. If this data directory is a copy, restore one from the archive instead",
                found.len(),
                body.len(),
                self.epoch
            ),
        })
    }

    /// What the archive has under a name: `None` if nothing, `Some(None)` if it is encrypted and cannot be decrypted.
    async fn lying_there(&self, name: &ObjectName) -> Result<Option<Option<Bytes>>> {
        match self.archive.get(name).await {
            Err(Error::Corrupt { .. }) => Ok(Some(None)),
            found => Ok(found?.map(Some)),
        }
    }

    fn broken(&self, detail: String) -> Error {
        Error::StoreContract { url: self.archive.url().to_owned(), detail }
    }

    /// Repeats `step` until it succeeds or fails with an error that does not pass.
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

    /// The store answers; with uploads under way only their success counts as the end of their failures.
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
                tracing::warn!(archived = status.archived.0, %error, "uploading fails; retrying");
            }
            status.failures_in_row += 1;
            status.last_error = Some(error.to_string());
        });
    }
}

#[cfg(test)]
#[path = "uploader_tests.rs"]
mod tests;
