//! Merges small chunks into full ones, without losing a commit and without removing a chunk that a reader needs.
//!
//! ```text
//! ledger   the chunks in the archive that this process knows of: no LIST in steady state
//! plan     which adjacent chunks to merge, and which chunks a wider one covers; pure
//! merger   reads, encodes, uploads under the wider name, and deletes the narrower chunks after a grace period
//! ```
//!
//! Guarantees: a merged chunk holds exactly the commits of its parts, of one epoch, without a gap, and in one history:
//! each part continues the history hash of the part before it. A part is deleted only if a wider chunk was found to
//! hold its commits, has been there for the grace period, and is there at the moment of the deletion. As every
//! deletion is justified by a strictly wider chunk, any number of mergers, including crashed ones, preserve every
//! commit. A chunk and its parts may be there together: [`super::lineage::Lineage::cover`] prefers the wider one.
//! Non-goals: merging chunks of different epochs; deciding when to merge (the primary and `walferry compact` decide).

mod ledger;
mod merger;
mod plan;
#[cfg(test)]
mod tests;

pub use ledger::{Known, Ledger, LedgerSource};
pub use merger::{Merger, Round};
pub use plan::{MergePlan, Rules, Superseded, plan};
