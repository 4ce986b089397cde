//! The one hash of keys and members.
//!
//! Guarantees: the same bytes hash alike for as long as the process lives, whatever dictionary or set they are in;
//! the seed differs from process to process, so that clients cannot aim at collisions. Hashes are never stored or
//! sent.

use hashbrown::DefaultHashBuilder;
use std::hash::BuildHasher;
use std::sync::LazyLock;

static HASHER: LazyLock<DefaultHashBuilder> = LazyLock::new(DefaultHashBuilder::default);

/// Hash of a key or a member.
#[inline]
pub fn hash(bytes: &[u8]) -> u64 {
    HASHER.hash_one(bytes)
}
