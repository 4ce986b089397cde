//! The report of `walferry verify`.

use crate::archive::layout::ObjectName;
use crate::error::{Kind, Result};
use crate::history::abandoned::Abandoned;
use crate::history::reach::CsnRange;
use serde::Serialize;

/// The objects that were read and the problems that were found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct VerifyReport {
    /// Epoch records read.
    pub epochs: u64,
    /// Chunks read.
    pub chunks: u64,
    /// Commits in the chunks; a commit in two chunks counts twice.
    pub commits: u64,
    /// Bytes of the chunks.
    pub chunk_bytes: u64,
    /// Bases read; a repaired base counts once.
    pub bases: u64,
    /// Files of the bases; a shared file counts once.
    pub base_files: u64,
    /// Bytes of these files.
    pub base_bytes: u64,
    /// Bases without a complete manifest: their upload or removal is in progress or was interrupted. No restore uses
    /// them.
    pub bases_unfinished: u64,
    /// Compacted runs read.
    pub runs: u64,
    /// Files of the runs.
    pub run_files: u64,
    /// Bytes of these files.
    pub run_bytes: u64,
    /// Runs without a complete manifest, for the same reasons as `bases_unfinished`.
    pub runs_unfinished: u64,
    /// Objects under the archive's prefix that do not belong to the archive.
    pub foreign: u64,
    /// Problems; empty if every object is whole.
    pub problems: Vec<Problem>,
    /// Unusual findings that are harmless by themselves: records whose upload was interrupted.
    pub remarks: Vec<Problem>,
    /// Abandoned commits: archived commits that do not lie on the newest line.
    pub abandoned: Vec<Abandoned>,
    /// Restorable commits of the newest line of history.
    pub ranges: Vec<CsnRange>,
    /// Commits of the newest line that exist only as part of a run, so that they cannot be restored one by one.
    pub coarse: Vec<CsnRange>,
    /// Commits of the newest line that are known to exist but are missing, without those in `thinned`.
    pub gaps: Vec<CsnRange>,
    /// Missing commits of the newest line that the retention policy removed.
    pub thinned: Vec<CsnRange>,
}

/// A problem with one object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Problem {
    /// The object's name below the archive's prefix.
    pub object: String,
    /// The expectation and the finding.
    pub what: String,
}

impl VerifyReport {
    /// Reports whether nothing is wrong and no commit is missing.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.problems.is_empty() && self.gaps.is_empty()
    }

    /// Adds a remark about a record whose upload was interrupted; no other object relies on such a record.
    pub(super) fn note_cut_off(&mut self, object: &ObjectName) {
        let what = "the record is incomplete, because its upload was interrupted; it is ignored".to_owned();
        self.remarks.push(Problem { object: object.to_string(), what });
    }

    /// Adds an integrity error to the problems; returns every other error, such as a failure of the store.
    pub(super) fn note(&mut self, object: &ObjectName, outcome: Result<()>) -> Result<()> {
        match outcome {
            Err(error) if matches!(error.kind(), Kind::Integrity) => {
                self.problems.push(Problem { object: object.to_string(), what: error.to_string() });
                Ok(())
            }
            outcome => outcome,
        }
    }
}
