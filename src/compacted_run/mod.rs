//! Stage 9: compacted runs. A run is the net change of a range of commits in every engine, as files that a restore applies instead of
//! replaying the commits. `FORMAT.md` documents the content.
//!
//! ```text
//! delta      the net change of each engine between two commits
//! manifest   what a run consists of, and which state it applies to
//! builder    makes the files of a run, from commits and the state before them
//! publish    uploads the files into the archive, the manifest last
//! ```
//!
//! Guarantees: the state after `last` is the state after `first` - 1 with the run applied, in every engine. The
//! commits in between cannot be restored from a run; they need their chunks. The memory part holds, for each key, ops
//! or the whole content, whichever is smaller (see [`delta`]). Images of all changed keys would rewrite a
//! sorted set of ten million members for one changed member; op-logs would hold every element that ever passed through
//! a queue.

mod builder;
pub mod delta;
mod manifest;
mod publish;
#[cfg(test)]
mod tests;

pub use builder::{LocalRun, RunBuilder};
pub use manifest::{RUN_FORMAT, RunFile, RunManifest, RunRange};
pub use publish::{PublishedRun, publish};
