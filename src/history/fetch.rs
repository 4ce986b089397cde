//! Fetches objects from the archive in parallel and delivers them in order.
//!
//! Guarantees: memory is bounded. A delivered file of a base has the BLAKE3 hash that the manifest states. A missing
//! object is an error that names the object. Transient failures were already retried by [`Archive`].

use super::line::{full_name, vanished};
use super::step::ChunkStep;
use crate::archive::layout::ObjectName;
use crate::archive::store::Archive;
use crate::chunk::ChunkHeader;
use crate::error::{Error, Result};
use crate::io::Io;
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Limit on the number of chunks that are being fetched or wait for delivery.
const CHUNKS_IN_FLIGHT_MAX: usize = 32;
/// Limit on the bytes of these chunks; a single larger chunk is fetched alone.
const CHUNK_BYTES_IN_FLIGHT_MAX: u64 = 64 << 20;
/// Limit on the number of files of a base that are fetched at the same time.
pub const FILES_IN_FLIGHT_MAX: usize = 8;
/// Bytes requested with one GET of a base's file.
pub const PIECE_BYTES: u64 = 4 << 20;
/// Limit on the number of pieces of one file in flight.
const PIECES_IN_FLIGHT_MAX: usize = 2;

/// Fetches chunks ahead and delivers them in the order of their steps.
pub struct ChunkFetch {
    archive: Archive,
    waiting: VecDeque<ChunkStep>,
    flying: VecDeque<(ChunkStep, JoinHandle<Result<Bytes>>)>,
    flying_bytes: u64,
}

impl ChunkFetch {
    /// Creates a fetch of the chunks of `steps`. The first request is sent by the first call of [`ChunkFetch::next`].
    #[must_use]
    pub fn new(archive: &Archive, steps: impl IntoIterator<Item = ChunkStep>) -> Self {
        let waiting = steps.into_iter().collect();
        Self { archive: archive.clone(), waiting, flying: VecDeque::new(), flying_bytes: 0 }
    }

    /// Returns the next step with the bytes of its chunk or the error of the fetch; `None` after the last step.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<(ChunkStep, Result<Bytes>)> {
        self.launch();
        let (step, task) = self.flying.front_mut()?;
        let (step, outcome) = (*step, task.await);
        self.flying.pop_front();
        self.flying_bytes -= step.bytes;
        self.launch();
        Some((step, outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))))
    }

    fn launch(&mut self) {
        let fits = |step: &ChunkStep, bytes: u64| bytes == 0 || bytes + step.bytes <= CHUNK_BYTES_IN_FLIGHT_MAX;
        while self.flying.len() < CHUNKS_IN_FLIGHT_MAX
            && self.waiting.front().is_some_and(|step| fits(step, self.flying_bytes))
            && let Some(step) = self.waiting.pop_front()
        {
            let archive = self.archive.clone();
            let name = ObjectName::Chunk(step.chunk);
            let get = async move {
                let found = archive.get_sensible(&name, ChunkHeader::is_of).await?;
                found.ok_or_else(|| vanished(&archive, &name))
            };
            self.flying.push_back((step, tokio::spawn(get)));
            self.flying_bytes += step.bytes;
        }
    }
}

impl Drop for ChunkFetch {
    fn drop(&mut self) {
        self.flying.iter().for_each(|(_, task)| task.abort());
    }
}

/// One file to fetch: the object, the local path, and the expected length and hash.
#[derive(Clone, Debug)]
pub struct FileFetch {
    /// The object to read.
    pub object: ObjectName,
    /// The local file to write.
    pub path: PathBuf,
    /// Length of the file, in bytes.
    pub bytes: u64,
    /// BLAKE3 hash of the file's content.
    pub blake3: blake3::Hash,
}

/// Fetches files in parallel. On success every file is complete, durable and verified. Calls `arrived` with the number
/// of bytes of each piece.
pub async fn fetch_files(
    archive: &Archive,
    io: &Arc<dyn Io>,
    files: Vec<FileFetch>,
    arrived: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let gives_up = AtomicBool::new(false);
    let fetch = |file| fetch_file(archive, Arc::clone(io), file, arrived, &gives_up);
    let mut fetching = stream::iter(files).map(fetch).buffer_unordered(FILES_IN_FLIGHT_MAX);
    let mut outcome = Ok(());
    // The loop continues after an error until every fetch has ended, because no task may write into the directory after
    // this function returns.
    while let Some(fetched) = fetching.next().await {
        if fetched.is_err() {
            gives_up.store(true, Ordering::Relaxed);
            outcome = outcome.and(fetched);
        }
    }
    outcome
}

/// Fetches one file. Returns early and without an error after another fetch has set `gives_up`.
async fn fetch_file(
    archive: &Archive,
    io: Arc<dyn Io>,
    file: FileFetch,
    arrived: &(dyn Fn(u64) + Sync),
    gives_up: &AtomicBool,
) -> Result<()> {
    if gives_up.load(Ordering::Relaxed) {
        return Ok(());
    }
    let (sender, receiver) = mpsc::channel(1);
    let path = file.path.clone();
    let writer = tokio::task::spawn_blocking(move || write(&*io, &path, receiver));
    let mut pieces = std::pin::pin!(pieces(archive, &file.object, file.bytes));
    while let Some(piece) = pieces.next().await {
        arrived(piece.as_ref().map_or(0, |bytes| bytes.len() as u64));
        let failed = piece.is_err();
        // The channel closes only if the writer failed; the writer returns its error below.
        if sender.send(piece).await.is_err() || failed || gives_up.load(Ordering::Relaxed) {
            break;
        }
    }
    drop(sender);
    let hash = writer.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    if gives_up.load(Ordering::Relaxed) {
        return Ok(());
    }
    check_hash(&full_name(archive, &file.object), hash, file.blake3)
}

fn write(io: &dyn Io, path: &std::path::Path, mut pieces: mpsc::Receiver<Result<Bytes>>) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut parts = std::iter::from_fn(|| {
        let piece = pieces.blocking_recv()?;
        Some(piece.inspect(|bytes| {
            hasher.update(bytes);
        }))
    });
    io.write_file(path, &mut parts)?;
    Ok(hasher.finalize())
}

/// Reads an object's first `len` bytes in order, with several GETs in flight.
pub(crate) fn pieces(
    archive: &Archive,
    name: &ObjectName,
    len: u64,
) -> impl Stream<Item = Result<Bytes>> + Send + use<> {
    let offsets = (0..len.div_ceil(PIECE_BYTES)).map(|piece| piece * PIECE_BYTES);
    let (archive, name) = (archive.clone(), name.clone());
    let get = move |offset: u64| {
        let (archive, name) = (archive.clone(), name.clone());
        async move {
            let found = archive.get_range(&name, offset..len.min(offset + PIECE_BYTES)).await?;
            found.ok_or_else(|| vanished(&archive, &name))
        }
    };
    stream::iter(offsets).map(get).buffered(PIECES_IN_FLIGHT_MAX)
}

pub(crate) fn check_hash(what: &str, found: blake3::Hash, expected: blake3::Hash) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::corrupt(what, "content", format!("the BLAKE3 hash is {found}, but the manifest states {expected}")))
}
