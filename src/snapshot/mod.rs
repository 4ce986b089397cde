//! Stage 9: bases. A base is the state of all engines, cut without stopping writes.
//!
//! ```text
//! memory_snapshot  the keys in memory, cut at one commit
//! image            such a cut as a file
//! local            the node's own memory images, for restarts
//! manifest         what a base consists of
//! digest           a digest of a set of keys that does not depend on their order
//! base             cuts a base into a local directory: images, a checkpoint and a completion
//! checkpoint       the disk engines' part of a base
//! skew             how far apart the engines of a base were cut
//! completion       the commits between the two cuts of a base
//! mover            moves the objects of a base into an archive, from the local disk or from another archive
//! publish          publishes a base of this node
//! FORMAT.md        every byte of the images and manifests
//! ```
//!
//! A base is cut per engine. The keys in memory are cut at csn M, under the writer lock and within microseconds.
//! RocksDB is cut by a checkpoint at the csn R that the checkpoint itself states. The image is then written while
//! writes continue. For a strict base the commits (M, R] are read back from the logs, so that a restore brings every
//! engine to one csn. For a bounded or an eventual base a restore takes these commits from chunks; an eventual base is
//! completed later (see `restore::repair`).

pub mod base;
pub(crate) mod checkpoint;
pub(crate) mod completion;
pub mod digest;
pub mod image;
pub mod local;
pub mod manifest;
pub mod memory_snapshot;
pub mod mover;
pub mod publish;
mod skew;
#[cfg(test)]
pub(crate) mod testing;
