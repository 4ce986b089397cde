//! The report of a copy.

use crate::cluster::ClusterId;
use crate::csn::Epoch;
use crate::history::plan::SkippedBase;
use crate::history::reach::CsnRange;
use serde::Serialize;

/// The result of a copy.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct CopyReport {
    /// The cluster that owns both archives.
    pub cluster: ClusterId,
    /// The newest epoch in the copied line of history.
    pub epoch: Epoch,
    /// First and last commit that can be restored from the copy.
    #[serde(flatten)]
    pub range: CsnRange,
    /// Number of bases in the range that the target holds after the copy.
    pub bases: u64,
    /// Unusable bases within the range, which are not copied, each with the reason.
    pub skipped: Vec<SkippedBase>,
    /// Objects that were sent.
    pub copied: Moved,
    /// Objects that the target already held.
    pub present: Moved,
    /// Number of marks of the range that the target holds after the copy.
    pub marks: u64,
    /// Duration in seconds.
    pub seconds: f64,
}

/// Counts of objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Moved {
    /// Number of chunks.
    pub chunks: u64,
    /// Bytes of the chunks.
    pub chunk_bytes: u64,
    /// Number of files of bases, without the manifests.
    pub files: u64,
    /// Bytes of these files.
    pub file_bytes: u64,
}
