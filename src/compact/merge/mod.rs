//! Merges small chunks into full ones, without losing a commit and without removing a chunk that a reader needs.
//!
//! ```text
//! plan     which adjacent chunks to merge, and which chunks a wider one covers; pure
//! merger   reads, encodes, uploads under the wider name, and removes the narrower chunks after a grace period
//! ```
//!
//! Guarantees: a merged chunk holds exactly the commits of its parts, of one epoch, without a gap, and in one history:
//! each part continues the history hash of the part before it. A part is removed only if a wider chunk was found to
//! hold its commits, has been there for the grace period, and is there at the moment of the removal, and if no reader
//! pin names its commits. As every removal is justified by a strictly wider chunk, any number of mergers, including
//! crashed ones, preserve every commit. A chunk and its parts may be there together:
//! [`crate::archive::lineage::Lineage::cover`] prefers the wider one.
//!
//! The merger knows the chunks of one listing and those that the uploader reports, so it sends no LIST of chunks in
//! steady state. An incomplete knowledge is harmless: an unknown chunk stays unmerged until `walferry compact` lists
//! the archive. Non-goals: merging chunks of different epochs; deciding when to merge (the primary and
//! `walferry compact` decide).

mod merger;
mod plan;
#[cfg(test)]
mod tests;

pub use merger::{Merger, Round};
pub use plan::{Known, MergePlan, Rules, plan};
