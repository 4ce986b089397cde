//! The progress of a restore or of a verification, for display.

use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The phase of the work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Listing the archive and planning.
    Plan,
    /// Fetching the base's files.
    Base,
    /// Fetching and applying chunks.
    Log,
    /// Making the result durable.
    Finish,
    /// Checking chunks; verification only.
    Chunks,
    /// Checking bases; verification only.
    Bases,
    /// Checking runs; verification only.
    Runs,
}

/// A report of progress.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The phase that advanced.
    pub phase: Phase,
    /// Bytes done in this phase.
    pub done: u64,
    /// Bytes of the whole phase; 0 if the phase has no measure.
    pub total: u64,
}

/// Receives the progress. Called often and from any thread, so it must return quickly.
pub type ProgressSink = Arc<dyn Fn(Progress) + Send + Sync>;

/// Returns a sink that ignores all reports.
#[must_use]
pub fn silent() -> ProgressSink {
    Arc::new(|_| {})
}

/// Adds up the bytes of one phase and reports them.
pub(crate) struct Meter {
    sink: ProgressSink,
    phase: Phase,
    done: AtomicU64,
    total: u64,
}

impl Meter {
    pub(crate) fn begin(sink: &ProgressSink, phase: Phase, total: u64) -> Self {
        sink(Progress { phase, done: 0, total });
        Self { sink: Arc::clone(sink), phase, done: AtomicU64::new(0), total }
    }

    pub(crate) fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (self.sink)(Progress { phase: self.phase, done, total: self.total });
    }
}
