//! What an archive keeps and what goes: retention.
//!
//! ```text
//! material   what there is: listing, manifests, chunk times, marks, pins        I/O
//! timeline   one line of history and what the policy promises of it            pure
//! plan       promises -> what each needs                                       pure
//! sweep      what stays -> what goes, and why                                  pure
//! check      whether everything promised can be restored from what would remain pure
//! prune      carries a plan out: references, then data; resumable              I/O
//! report     what was planned and done, for people and for programs
//! ```
//!
//! Guarantees: before anything is removed, every promised point is planned again over what would remain, as a restore
//! would; the newest base of the newest line and everything after it stays; marks stay; what a living pin names stays; what
//! nothing refers to goes only after a grace period. A crash at any step leaves an archive in which everything promised
//! can be restored, and the next prune goes on.

pub mod check;
pub mod material;
pub mod plan;
pub mod prune;
pub mod report;
mod sweep;
pub mod timeline;

#[cfg(test)]
mod tests;

pub use material::Material;
pub use prune::{PruneOptions, prune};
pub use report::PruneReport;
