//! Makes an archive cheaper to keep and quicker to restore, from the archive's own objects and without a primary:
//! `walferry compact`. Rebuilding a base is in [`crate::node::rebuild`].
//!
//! ```text
//! merge    merges small chunks
//! chunks   merges the small chunks of one listing (a primary knows its chunks without a listing)
//! runs     builds compacted runs for whole hours, days or numbers of commits
//! ```
//!
//! Guarantees: the only objects that are removed are chunks whose commits a wider chunk holds. An interruption leaves
//! the existing objects usable, and the next call continues the work. Several compactions may run at the same time.
//!
//! Non-goals: deciding when to compact; removing chunks that runs have replaced (retention does so).

pub mod chunks;
pub mod merge;
pub mod runs;
#[cfg(test)]
mod tests;
