//! How far a restore or a verification is, for whoever shows it.

use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is being done.
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

/// A step forward.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Of what.
    pub phase: Phase,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all; 0 for a phase without a measure.
    pub total: u64,
}

/// Who is told. Called often, from any thread: must be quick.
pub type ProgressSink = Arc<dyn Fn(Progress) + Send + Sync>;

/// A sink for those who do not want to know.
#[must_use]
pub fn silent() -> ProgressSink {
    Arc::new(|_| {})
}

/// Adds up one phase.
pub(crate) struct Meter {
    sink: ProgressSink,
    phase: Phase,
    done: AtomicU64,
    total: u64,
}

impl Meter {
    pub fn begin(sink: &ProgressSink, phase: Phase, total: u64) -> Self {
        sink(Progress { phase, done: 0, total });
        Self { sink: Arc::clone(sink), phase, done: AtomicU64::new(0), total }
    }

    pub fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (self.sink)(Progress { phase: self.phase, done, total: self.total });
    }
}
