//! The keys in memory, of all types, in many small shards of which a cut is taken in microseconds.
//!
//! ```text
//! memory       all keys: lookups, changes, changes that nobody sees yet
//! part         a share of the keys, with counters and expiries
//! stripe       some shards of a part, behind a lock of their own
//! shard        a hash table of slots
//! cut          all keys at one moment
//! ```

mod cut;
mod memory;
mod part;
mod shard;
mod stripe;

pub use cut::MemoryCut;
pub use memory::{Memory, Seen};
pub use part::{PARTS, Part};
pub use shard::{Hashed, SHARDS};
pub use stripe::{Change, SlotGuard};
