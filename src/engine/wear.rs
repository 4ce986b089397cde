//! How many elements were deleted of each hash and set, as far as it is known: a walk over what is left passes by those
//! deletions for as long as RocksDB keeps them.
//!
//! Guarantees: a collection that is not large and lost many times more elements than it has is called worn, so that its
//! elements are worth writing anew, under a generation of their own. That adds a quarter to what deleting costs, at most.

use super::hash::hash;
use super::key::Generation;
use hashbrown::HashMap;

/// Collections that are counted at a time.
const COLLECTIONS_MAX: usize = 4096;
/// Elements that a collection must have lost to be worn.
const DELETIONS_MIN: u64 = 256;
/// How many times more than it has.
const DELETIONS_FACTOR: u64 = 4;
/// Elements of a collection that is written anew, at most: the writer lock is held for that.
pub const RENEWED_ELEMENTS_MAX: u64 = 512;
/// Bytes of their names and values, at most.
pub const RENEWED_BYTES_MAX: usize = 512 << 10;

/// Elements deleted since a collection's creation, or since it was counted first.
#[derive(Default)]
pub struct Wear {
    /// By the hash of the collection's key.
    deletions: HashMap<u64, (Generation, u64)>,
}

impl Wear {
    /// Counts deletions from a collection that has `count` elements left; whether it is worn.
    pub fn note(&mut self, key: &[u8], generation: Generation, deleted: u64, count: u64) -> bool {
        if self.deletions.len() >= COLLECTIONS_MAX {
            self.deletions.clear();
        }
        let (counted, deletions) = self.deletions.entry(hash(key)).or_insert((generation, 0));
        if *counted != generation {
            (*counted, *deletions) = (generation, 0);
        }
        *deletions += deleted;
        let is_worn = *deletions >= DELETIONS_MIN.max(DELETIONS_FACTOR * count) && count <= RENEWED_ELEMENTS_MAX;
        if is_worn {
            // One that cannot be written anew is asked about again after as many.
            *deletions = 0;
        }
        is_worn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_is_worn_once_it_lost_many_times_what_it_has() {
        let mut wear = Wear::default();
        let g = Generation;
        assert!(!wear.note(b"k", g(1), DELETIONS_MIN - 1, 1));
        assert!(wear.note(b"k", g(1), 1, 1));
        assert!(!wear.note(b"k", g(1), 1, 1), "counted from 0 again");
        assert!(!wear.note(b"k", g(2), DELETIONS_MIN - 1, 1), "another creation");
        assert!(!wear.note(b"large", g(1), 4 * 100 - 1, 100));
        assert!(wear.note(b"large", g(1), 1, 100));
        assert!(!wear.note(b"huge", g(1), 1 << 20, RENEWED_ELEMENTS_MAX + 1));
        for n in 0..2 * COLLECTIONS_MAX as u64 {
            wear.note(&n.to_be_bytes(), g(n), 1, 1);
        }
        assert!(wear.deletions.len() <= COLLECTIONS_MAX);
    }
}
