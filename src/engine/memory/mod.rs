//! The memory engines: lists and sorted sets, held in memory and changed by ops.
//!
//! ```text
//! state                    the dictionaries of all memory engines
//! op                       effects as bytes: encode, validate, apply
//! replay                   applies the ops of a log on several threads
//! dictionary               keys and their values
//! part, cut                a share of a dictionary's keys, in shards; a dictionary's content at one moment
//! list, zset               the values
//! tree                     the counted B+tree of lists and of large sorted sets
//! packed, bucket           leaves of such trees
//! sorted_leaf              the leaf of the order of a large sorted set
//! zset_small, zset_large   the two forms of a sorted set
//! small_bytes              keys and members
//! zset_builder             builds a whole sorted set at once
//! reclaim                  drops large values on another thread
//! undo                     takes back the ops that were applied since a cut
//! ```
//!
//! Guarantees: taking a cut costs microseconds; a cut never changes and can be read by another thread while the writer
//! continues. A change copies at most the nodes on its path, never a whole value. Everything else is used by one thread
//! at a time, under the writer lock, except for a replay, whose threads each change their own parts. Non-goal: knowing
//! which keys other engines hold. A key must be in at most one dictionary; the caller ensures this.

mod block;
mod bucket;
mod cut;
pub mod dictionary;
mod elements;
mod entry;
mod integers;
pub mod keys;
pub mod list;
pub mod op;
pub mod ops;
mod packed;
mod pairs;
mod pairs_tree;
pub mod part;
pub(super) mod reclaim;
mod replay;
mod slot;
mod small_bytes;
mod sorted_leaf;
mod state;
mod string;
#[cfg(test)]
pub(crate) mod testing;
mod text;
mod tree;
mod undo;
pub mod zset;
mod zset_builder;
mod zset_large;
mod zset_small;

pub use cut::Cut;
pub use dictionary::Dictionary;
pub use entry::{Entry, Value};
pub use list::List;
pub use op::{Change, Encoder, Op, Ops, Scope};
pub use op::{ListChange, ListEncoder, ListOp, ListOps, ZsetChange, ZsetEncoder, ZsetOp, ZsetOps};
pub use replay::{Misfit, replay};
pub use small_bytes::SmallBytes;
pub use state::{Memory, MemoryCut, validate};
pub use undo::Undo;
pub use zset::Zset;
pub use zset_builder::ZsetBuilder;
