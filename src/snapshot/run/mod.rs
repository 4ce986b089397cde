//! Compacted runs: the net change of a range of commits in every engine, as files that a restore takes over instead of
//! replaying the commits. `../FORMAT.md` gives the content.
//!
//! ```text
//! manifest   what a run consists of, and how it changes a state
//! builder    makes the files of one, from commits and the state before them
//! publish    brings them into the archive, the manifest last
//! ```
//!
//! Guarantees: the state after `last` is the state after `first` - 1 with the run applied, in every engine. The commits
//! in between cannot be restored from a run; that takes their chunks. The memory part holds, for each key, ops or its
//! whole content, whichever is smaller (see [`super::delta`]): images of all changed keys would rewrite a set of ten
//! million members for one of them, op-logs would hold every element that ever went through a queue.

mod builder;
mod manifest;
mod publish;
#[cfg(test)]
mod tests;

pub use builder::{LocalRun, RunBuilder};
pub use manifest::{RUN_FORMAT, RunFile, RunManifest, RunRange};
pub use publish::{PublishedRun, publish};
