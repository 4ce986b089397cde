//! Counts how many elements were deleted from each hash and set. A walk over the remaining elements passes the
//! tombstones for as long as RocksDB keeps them.
//!
//! Guarantees: a collection counts as worn if it is not large and lost many times more elements than it has. Its
//! elements are then worth writing anew under a new generation. Writing them anew adds at most a quarter to the cost of
//! the deletions.

use super::hash::hash;
use super::key::Generation;
use hashbrown::HashMap;

/// Largest number of collections that are counted at a time. Beyond it all counts are dropped.
const COLLECTIONS_MAX: usize = 4096;
/// Number of deletions below which a collection is never worn.
const DELETIONS_MIN: u64 = 256;
/// Number of deletions for each remaining element from which on a collection is worn.
const DELETIONS_FACTOR: u64 = 4;
/// Largest number of elements of a collection that is written anew. The writer lock is held for as long as this takes.
const RENEWED_ELEMENTS_MAX: u64 = 512;
/// Largest number of bytes of the names and values of a collection that is written anew.
pub const RENEWED_BYTES_MAX: usize = 512 << 10;

/// Number of elements deleted from each collection since its creation, or since its first counted deletion.
#[derive(Default)]
pub struct Wear {
    /// Generation and number of deletions, by the hash of the collection's key.
    deletions: HashMap<u64, (Generation, u64)>,
}

impl Wear {
    /// Counts deletions from a collection that has `count` elements left. Reports whether the collection is worn.
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
            // The count restarts. A collection that cannot be written anew is reported again after as many further
            // deletions.
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
