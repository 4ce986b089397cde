//! The keys in memory, of all types, in many small shards of which a cut is taken in microseconds.
//!
//! ```text
//! dictionary   all keys: lookups, changes, changes that nobody sees yet
//! part         a share of the keys, with counters and expiries
//! stripe       some shards of a part, behind a lock of their own
//! shard        a hash table of slots
//! cut          the keys of a dictionary at one moment
//! ```

mod cut;
mod dictionary;
mod part;
mod shard;
mod stripe;

pub use cut::Cut;
pub use dictionary::{Dictionary, Seen};
pub use part::{PARTS, Part};
pub use shard::{Hashed, SHARDS};
pub use stripe::{Change, SlotGuard};
