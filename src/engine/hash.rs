//! The one hash of keys and members.
//!
//! Guarantees: the same bytes have the same hash for as long as the process lives, in whatever dictionary or set they
//! are. The seed differs from process to process, so that clients cannot produce collisions on purpose. Hashes are
//! never stored or sent.

use hashbrown::DefaultHashBuilder;
use std::hash::BuildHasher;
use std::sync::LazyLock;

static HASHER: LazyLock<DefaultHashBuilder> = LazyLock::new(DefaultHashBuilder::default);

/// Returns the hash of a key or a member.
#[inline]
pub(super) fn hash(bytes: &[u8]) -> u64 {
    HASHER.hash_one(bytes)
}
