//! Stage 7: movement of commits. The tail keeps the newest commits in memory. The cutter turns commits into sealed
//! chunks in the spool, from which `archive` uploads them. A feed sends each replica its own chunks.
//!
//! Every reader here pulls from a position of its own. Nothing here makes a write wait, except the spool's stated
//! limit.

pub mod admission;
pub mod cutter;
pub mod feed;
pub mod feed_host;
pub mod message;
pub mod source;
pub mod spool;
pub mod tail;
#[cfg(test)]
mod upload_tests;
pub mod wire;
