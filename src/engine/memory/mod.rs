//! The memory home: keys of every type but streams, held in memory and changed by ops.
//!
//! ```text
//! keys                     all keys: lookups, changes, cuts
//! ops                      effects as bytes: encode, validate, apply
//! replay                   applies the ops of a log on several threads
//! slot                     a key with its expiry and its value
//! block                    a slot of a small value, in one allocation
//! string, elements         strings; hashes and sets
//! text, pairs_tree         their large forms
//! pairs, integers          packed elements; packed sets of integers
//! list, zset               lists and sorted sets
//! tree                     the counted B+tree of large values
//! packed, bucket           leaves of such trees
//! sorted_leaf              the leaf of the order of a large sorted set
//! zset_small, zset_large   the two forms of a sorted set
//! small_bytes              keys and members
//! zset_builder             builds a whole sorted set at once
//! reclaim                  drops large values on another thread
//! ```
//!
//! Guarantees: taking a cut costs microseconds; a cut never changes and can be read by another thread while the writer
//! continues. A change copies at most the nodes on its path, never a whole large value. Only one thread at a time
//! changes the keys, under the writer lock, except for a replay, whose threads each change their own parts; readers need
//! no lock. Non-goal: knowing which keys are on disk. A key must be in at most one home; the caller ensures this.

mod block;
mod bucket;
mod elements;
mod integers;
pub mod keys;
pub mod list;
pub mod ops;
mod packed;
mod pairs;
mod pairs_tree;
pub(super) mod reclaim;
mod replay;
mod slot;
mod small_bytes;
mod sorted_leaf;
mod string;
#[cfg(test)]
pub(crate) mod testing;
mod text;
mod tree;
pub mod zset;
mod zset_builder;
mod zset_large;
mod zset_small;

pub use elements::{Element, Elements, Iter as ElementsIter};
pub use keys::{Change, Memory, MemoryCut, Seen, SlotGuard};
pub use list::List;
pub use ops::{Encoder, Op, Ops, Scope};
pub use pairs::{Bare, Kind, Valued};
pub use replay::{Misfit, replay};
pub use slot::{LargeValue, Slot, Type};
pub use small_bytes::SmallBytes;
pub use string::StringRef;
pub use zset::Zset;
pub use zset_builder::ZsetBuilder;
