//! Stage 4: the two logs, RocksDB's WAL (through the batch envelope) and the op-log of the keys in memory.
//!
//! The modules write both logs, read them as one, and recover from a crash at a start. `FORMAT.md` gives every byte.

pub mod durable;
pub mod envelope;
#[cfg(test)]
mod format_tests;
pub mod frame;
pub mod index;
pub mod oplog;
pub mod oplog_reader;
pub mod reader;
pub mod recovery;
mod salvage;
pub mod segment;
#[cfg(test)]
pub(crate) mod testing;
pub mod wal;
