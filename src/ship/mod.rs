//! Stage 7: movement. The tail keeps the newest commits in memory; the cutter turns commits into sealed chunks in the
//! spool, from where `archive` uploads them; a feed sends each replica its own chunks.
//!
//! Everything here pulls from a position it owns. Nobody here can make a write wait, but for the spool's stated limit.

pub mod cutter;
pub mod feed;
pub mod source;
pub mod spool;
pub mod tail;
#[cfg(test)]
mod upload_tests;
pub mod wire;
