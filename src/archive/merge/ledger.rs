//! The chunks in the archive that this process knows of.
//!
//! Guarantees: the ledger is bounded; it contains a chunk only after the chunk was confirmed or listed. An incomplete
//! ledger is harmless: a forgotten chunk stays unmerged until `walferry compact` lists the archive.

use crate::archive::layout::ChunkName;
use crate::archive::listing::Listing;
use crate::archive::uploader::{ChunkSource, Comparison, SealedChunk};
use crate::chunk::{ChunkHeader, RAW_BYTES_MAX};
use crate::csn::Csn;
use crate::error::Result;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Largest number of chunks in a ledger: more than two days of one chunk a second. The chunks with the lowest epoch
/// and csns are forgotten first.
const KNOWN_MAX: usize = 200_000;

/// Percentage of a full chunk's raw bytes from which a chunk counts as full.
const FULL_PERCENT: u64 = 90;

/// Known facts about a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    /// Length in bytes.
    pub bytes: u64,
    /// Time since which the chunk is there, in milliseconds since the Unix epoch: by this process' clock or, if the
    /// chunk was listed, by the store's clock.
    pub since_ms: u64,
    /// Whether the chunk is excluded from merging, because it is full or could not be read.
    pub is_closed: bool,
}

/// The known chunks.
#[derive(Debug, Default)]
pub struct Ledger {
    chunks: Mutex<BTreeMap<ChunkName, Known>>,
}

impl Ledger {
    /// Creates a ledger with the chunks of a listing.
    #[must_use]
    pub fn of(listing: &Listing) -> Self {
        let ledger = Self::default();
        for (name, stored) in &listing.chunks {
            let since_ms = u64::try_from(stored.modified.timestamp_millis()).unwrap_or_default();
            ledger.note(*name, Known { bytes: stored.size, since_ms, is_closed: false });
        }
        ledger
    }

    /// Adds a chunk that is in the archive.
    pub fn note(&self, name: ChunkName, known: Known) {
        let mut chunks = self.chunks.lock();
        chunks.insert(name, known);
        while chunks.len() > KNOWN_MAX {
            chunks.pop_first();
        }
    }

    /// Removes a chunk from the ledger.
    pub fn forget(&self, name: &ChunkName) {
        self.chunks.lock().remove(name);
    }

    /// Excludes a chunk from merging.
    pub fn close(&self, name: &ChunkName) {
        if let Some(known) = self.chunks.lock().get_mut(name) {
            known.is_closed = true;
        }
    }

    /// Returns all known chunks, by epoch and csn.
    #[must_use]
    pub fn chunks(&self) -> BTreeMap<ChunkName, Known> {
        self.chunks.lock().clone()
    }
}

/// Reports whether a chunk with so many raw bytes counts as full.
pub(super) fn is_full(raw_bytes: u64) -> bool {
    raw_bytes * 100 >= RAW_BYTES_MAX as u64 * FULL_PERCENT
}

/// A source of sealed chunks that records in a ledger which of them were archived.
pub struct LedgerSource<S> {
    inner: Arc<S>,
    ledger: Arc<Ledger>,
    /// Chunks that were read for their upload and are not confirmed yet, by last csn; at most as many as the uploader
    /// has in flight.
    reading: Mutex<BTreeMap<Csn, (ChunkName, Known)>>,
}

impl<S: ChunkSource> LedgerSource<S> {
    /// Wraps `inner`, to which every call is passed on.
    pub fn new(inner: Arc<S>, ledger: Arc<Ledger>) -> Self {
        Self { inner, ledger, reading: Mutex::default() }
    }
}

impl<S: ChunkSource> ChunkSource for LedgerSource<S> {
    fn next_sealed(&self, after: Csn) -> Option<SealedChunk> {
        self.inner.next_sealed(after)
    }

    fn read(&self, chunk: &SealedChunk) -> Result<Bytes> {
        let bytes = self.inner.read(chunk)?;
        let is_closed = ChunkHeader::decode(&bytes, "a sealed chunk").is_ok_and(|header| is_full(header.raw_len()));
        let known = Known { bytes: bytes.len() as u64, since_ms: 0, is_closed };
        self.reading.lock().insert(chunk.name.last, (chunk.name, known));
        Ok(bytes)
    }

    fn archived(&self, csn: Csn) {
        let mut reading = self.reading.lock();
        let later = reading.split_off(&csn.next());
        let since_ms = crate::clock::steady_millis();
        for (name, known) in std::mem::replace(&mut *reading, later).into_values() {
            self.ledger.note(name, Known { since_ms, ..known });
        }
        drop(reading);
        self.inner.archived(csn);
    }

    fn compare(&self, own: &Bytes, found: &Bytes) -> Comparison {
        self.inner.compare(own, found)
    }
}
