//! Stage 3: state. Which engine holds a key, the disk engines in RocksDB, the memory engines, and the effects that change
//! them.

pub mod batch;
mod complete;
pub mod disk;
pub mod effects;
pub mod expiry;
pub mod key;
pub mod keyspace;
pub mod memory;
pub mod meta;
mod reclaim;
pub mod rows;
pub mod scan;
pub mod sorted;
pub mod watch;
pub mod whole;
