//! Merging small chunks into full ones, without losing a commit and without pulling away what a reader needs.
//!
//! ```text
//! ledger   which chunks are there, as far as this process knows: no LIST in steady state
//! plan     which adjacent ones to merge, and which are there twice; pure
//! merger   reads, encodes again, uploads under the wider name, and after a grace period deletes the narrower ones
//! ```
//!
//! Guarantees: a merged chunk holds exactly the commits of its parts, of one epoch, without a gap, and carries the chain
//! of header CRCs on. A part is deleted only when a wider chunk was found to hold its commits, had been there for the
//! grace period, and is there at this moment; as each deletion is justified by a strictly wider chunk, any number of
//! mergers, crashed ones too, leave every commit behind. A chunk and its parts may be there together:
//! [`super::lineage::Lineage::cover`] prefers the wider one.
//! Non-goals: chunks of different epochs, deciding when (the primary and `walferry compact` do).

mod ledger;
mod merger;
mod plan;
#[cfg(test)]
mod tests;

pub use ledger::{Known, Ledger, LedgerSource};
pub use merger::{Merger, Round};
pub use plan::{MergePlan, Rules, Superseded, plan};
