//! The steps of a plan: a base, a run, or the part of a chunk that is used.

use crate::archive::layout::{BaseName, ChunkName, RunName, as_text};
use crate::archive::listing::BaseStart;
use crate::csn::Csn;
use serde::Serialize;
use std::collections::VecDeque;

/// One step of a plan. A step brings the state to a later commit; a base gives the first state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(untagged)]
pub enum Step {
    /// Open a base.
    Base(BaseStep),
    /// Apply a compacted run.
    Run(RunStep),
    /// Apply commits of a chunk.
    Chunk(ChunkStep),
}

/// A base that a plan begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct BaseStep {
    /// The base.
    #[serde(serialize_with = "as_text")]
    pub base: BaseName,
    /// The next step begins after this commit: the base's csn or, if its engines were cut at different commits, the
    /// lowest of their csns.
    pub after: Csn,
}

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

impl BaseStep {
    /// Returns the base as a start in a listing.
    #[must_use]
    pub fn start(self) -> BaseStart {
        BaseStart { base: self.base, after: self.after }
    }
}

impl From<BaseStart> for BaseStep {
    fn from(start: BaseStart) -> Self {
        Self { base: start.base, after: start.after }
    }
}

impl Step {
    /// Returns the chunk step; `None` for any other step.
    #[must_use]
    pub fn chunk(&self) -> Option<ChunkStep> {
        if let Self::Chunk(step) = self { Some(*step) } else { None }
    }

    /// Returns the run step; `None` for any other step.
    #[must_use]
    pub fn run(&self) -> Option<RunStep> {
        if let Self::Run(step) = self { Some(*step) } else { None }
    }

    /// Returns the base step; `None` for any other step.
    #[must_use]
    pub fn base(&self) -> Option<BaseStep> {
        if let Self::Base(step) = self { Some(*step) } else { None }
    }
}

/// Takes the chunk steps from the front of `steps`, up to the first other step. Chunks that follow each other are
/// fetched ahead and applied together.
pub(crate) fn take_chunks(steps: &mut VecDeque<Step>) -> Vec<ChunkStep> {
    let count = steps.iter().take_while(|step| step.chunk().is_some()).count();
    steps.drain(..count).filter_map(|step| step.chunk()).collect()
}
