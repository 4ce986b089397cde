//! Stage 9: bases and compacted runs. A state of all engines, cut without stopping writes.
//!
//! ```text
//! moment     the memory engines cut at one commit
//! image      such a cut as a file;  local: the node's own ones, for restarts
//! manifest   what a base consists of;  FORMAT.md: every byte of both
//! digest     of a set of keys, whatever their order
//! base       cuts a base into a local directory, of images, a checkpoint and a completion;  skew: how far apart
//! completion the commits between the cuts
//! publish    brings it into the archive
//! delta      the net change of each engine between two commits
//! run        such changes as files in the archive: compacted runs
//! ```
//!
//! A base is cut per engine: memory at csn M, under the writer lock and in microseconds; RocksDB, by a checkpoint, at
//! the csn R that it tells itself. Then the image is written while writes go on. For a strict base the commits (M, R] are
//! read back from the logs, so that restoring it brings every engine to one csn; for the other levels a restore gets them
//! from chunks, and an eventual one is completed later (see `restore::repair`).

pub mod base;
pub(crate) mod checkpoint;
pub(crate) mod completion;
pub mod delta;
pub mod digest;
pub mod image;
pub mod local;
pub mod manifest;
pub mod memory_snapshot;
pub mod publish;
#[cfg(test)]
pub(crate) mod rig;
pub mod run;
mod skew;
