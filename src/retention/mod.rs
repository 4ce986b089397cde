//! Retention: which objects of an archive stay, and which are removed.
//!
//! ```text
//! material   what the decision is made from: listing, manifests, chunk times, marks, pins    I/O
//! timeline   one line of history, and what the policy promises of it                         pure
//! plan       finds the objects that each promise needs                                       pure
//! superseded finds the chunks whose place a wider chunk has taken                           pure
//! removals   finds the objects to remove, with the reason for each                          pure
//! check      checks that every promise can be restored from what would remain                pure
//! prune      carries a plan out; resumable                                                   I/O
//! sweep      the one remover of objects: references first, then data; spares pins            I/O
//! report     what a prune planned and did, for operators and for programs
//! ```
//!
//! Guarantees: before anything is removed, every promised point is planned over the objects that would remain, as a
//! restore would plan it. The newest base of the newest line and everything after it stay. Marks stay. The commits of
//! a valid pin stay. An object that nothing refers to is removed only after a grace period. A crash at any step leaves
//! an archive in which every promise can be restored, and the next prune continues.

pub mod check;
pub mod material;
pub mod plan;
pub mod prune;
mod removals;
pub mod report;
pub mod superseded;
pub mod sweep;
pub mod timeline;

#[cfg(test)]
mod tests;

pub use material::Material;
pub use prune::{PruneOptions, prune};
pub use report::PruneReport;
