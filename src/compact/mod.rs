//! Makes an archive cheaper to keep and quicker to restore, from what it holds, without a primary: `walferry compact`.
//!
//! ```text
//! chunks   merges small chunks, by one listing (the primary does it by what it knows)
//! runs     builds compacted runs for whole hours, days or numbers of commits
//! base     rebuilds a hybrid snapshot and publishes it as the next base
//! ```
//!
//! Guarantees: nothing is taken away but chunks whose commits a wider one holds; whatever is cut off leaves what was
//! there usable, and is gone on with the next time. Any number of them may run at once.
//! Non-goals: deciding when; removing chunks that runs have taken the place of (retention does).

pub mod base;
pub mod chunks;
pub mod runs;
#[cfg(test)]
mod tests;
