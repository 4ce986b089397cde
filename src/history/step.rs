//! The steps of a plan: which part of a chunk is used, or which run.

use crate::archive::layout::{ChunkName, RunName, as_text};
use crate::csn::Csn;
use serde::Serialize;

/// The part of one chunk that a plan uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct ChunkStep {
    /// The chunk.
    #[serde(serialize_with = "as_text")]
    pub chunk: ChunkName,
    /// First csn to take from the chunk.
    pub use_from: Csn,
    /// Last csn to take from the chunk.
    pub use_until: Csn,
    /// Stored length of the chunk, in bytes.
    pub bytes: u64,
}

/// A run that a plan uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct RunStep {
    /// The run.
    #[serde(serialize_with = "as_text")]
    pub run: RunName,
    /// Bytes of the run's files.
    pub bytes: u64,
    /// Number of the run's files, without the manifest.
    pub files: u64,
}
