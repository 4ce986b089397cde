//! Stage 3: state. Decides in which home a key lives; holds the keys in memory, the keys in RocksDB, and the effects
//! that change both.

pub mod arrivals;
pub mod batch;
mod change;
mod complete;
mod deletions;
pub mod disk;
pub mod effects;
pub mod elements;
pub mod expiry;
pub mod expiry_index;
mod found;
mod hash;
pub mod key;
pub mod keyspace;
pub mod memory;
pub mod meta;
pub mod moves;
mod placed;
mod reclaim;
pub mod routing;
pub mod row_shard;
pub mod rows;
pub mod scan;
pub mod slots;
pub mod sorted;
pub mod tracker;
pub mod walk;
pub mod watch;
pub mod wear;
pub mod whole;
