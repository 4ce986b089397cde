//! The chunks that the spool keeps for the second archive.
//!
//! Guarantees: a chunk stays until both archives have it. Chunks that only the second archive lacks may take
//! `spool-max-bytes`. Beyond that limit its backlog is dropped, and no write is refused. Chunks after a dropped one
//! are not given out until the uploader of the second archive resumes or restarts, so that no gap goes unnoticed.

use super::Spool;
use super::state::SpoolStatus;
use crate::archive::chunk_put::Comparison;
use crate::archive::uploader::{ChunkSource, SealedChunk};
use crate::csn::Csn;
use crate::error::Result;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{Notify, watch};

impl Spool {
    /// Keeps all chunks in the spool, and all after `cut`, the last commit cut. To be called while it is not known how
    /// far the second archive has come.
    pub fn keep_for_second(&self, cut: Csn) {
        let mut state = self.state.lock();
        let oldest = state.chunks.values().next().map_or(cut, |entry| entry.name.first.prev());
        state.kept.after = Some(oldest.min(cut));
    }

    /// Tells that the second archive has every commit up to `archived`. Reports whether the spool holds all commits
    /// after that, up to the last one cut (`cut` or later); if so, they are kept.
    pub fn resume_second(&self, archived: Csn, cut: Csn) -> bool {
        let mut state = self.state.lock();
        let end = state.chunks.keys().next_back().map_or(cut, |last| cut.max(*last));
        let resumes = state.reachable(archived) >= end;
        if resumes {
            state.kept.after = Some(archived);
            self.remove_done(&mut state);
        }
        resumes
    }

    /// Restarts the second archive, which begins with a base of a later commit than the last one cut (`cut` or later).
    /// Keeps every later chunk and returns the commit that they follow.
    pub fn restart_second(&self, cut: Csn) -> Csn {
        let mut state = self.state.lock();
        let from = state.chunks.keys().next_back().map_or(cut, |last| cut.max(*last));
        state.kept.after = Some(from);
        self.remove_done(&mut state);
        from
    }

    /// Sets what is notified when a chunk was sealed.
    pub fn wake_second(&self, wake: Arc<Notify>) {
        self.state.lock().kept.wake = Some(wake);
    }

    /// Returns a receiver of the number of drops of the backlog.
    #[must_use]
    pub fn second_drops(&self) -> watch::Receiver<u64> {
        self.state.lock().kept.drops.subscribe()
    }

    /// Returns what waits for the second archive.
    #[must_use]
    pub fn second_status(&self) -> SpoolStatus {
        let state = self.state.lock();
        let Some(after) = state.kept.after else { return SpoolStatus::default() };
        state.status_after(after)
    }

    /// Drops the backlog of the second archive if it is too large. The caller must not hold the spool's lock.
    pub(super) fn limit_second(&self) {
        let mut state = self.state.lock();
        let (kept, limit) = (state.kept_bytes(), self.bytes_max.load(Ordering::Relaxed));
        if kept == 0 || kept < limit {
            return;
        }
        let after = state.kept.after.take().unwrap_or_default();
        tracing::error!(
            bytes = kept,
            limit,
            first = after.next().0,
            last = state.archived.0,
            "archive-2 lags too far behind: its backlog is dropped, and archive-2 gets a new base when it can be \
             reached"
        );
        self.remove_done(&mut state);
        state.kept.drops.send_modify(|drops| *drops += 1);
    }
}

/// The spool as the source of the second archive's uploader.
pub struct SecondSource(pub Arc<Spool>);

impl ChunkSource for SecondSource {
    fn next_sealed(&self, after: Csn) -> Option<SealedChunk> {
        let state = self.0.state.lock();
        // After a drop there is a gap before every chunk in the spool.
        state.kept.after?;
        let (_, entry) = state.chunks.range(after.next()..).next()?;
        Some(SealedChunk { name: entry.name })
    }

    fn read(&self, chunk: &SealedChunk) -> Result<Bytes> {
        self.0.read(chunk)
    }

    fn archived(&self, csn: Csn) {
        let mut state = self.0.state.lock();
        if let Some(after) = &mut state.kept.after {
            *after = csn.max(*after);
        }
        self.0.remove_done(&mut state);
    }

    fn compare(&self, own: &Bytes, found: &Bytes) -> Comparison {
        self.0.compare(own, found)
    }
}

#[cfg(test)]
#[path = "second_tests.rs"]
mod tests;
