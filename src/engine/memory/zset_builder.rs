//! Builds a sorted set at once from members that arrive in the set's order, as an image holds them: leaves are filled
//! one after another instead of being searched and split.
//!
//! Guarantees: the set equals one into which the members were inserted; members that are out of order or occur twice
//! are detected. The builder holds 40 bytes for each member beside the set until it is finished.

use super::bucket::{Bucket, place};
use super::small_bytes::SmallBytes;
use super::sorted_leaf::{SORTED_LEAF_ITEMS, SortedLeaf};
use super::tree::Tree;
use super::zset::Zset;
use super::zset_large::{Index, LargeZset, Scored};
use super::zset_small::SmallZset;
use crate::engine::hash::hash;

/// Number of members that are put into a leaf of the order or of the index. Both leave room for some more members, like
/// the leaves of a set that grew by insertions.
const LEAF_MEMBERS: usize = SORTED_LEAF_ITEMS * 7 / 8;
const BUCKET_MEMBERS: usize = SORTED_LEAF_ITEMS * 5 / 8;

/// The members that were added so far.
#[derive(Default)]
pub struct ZsetBuilder {
    full: Vec<SortedLeaf<Scored>>,
    /// The leaf that is being filled; empty only before the first member.
    items: Vec<Scored>,
    /// Hash, member and score of each member.
    hashed: Vec<(u64, SmallBytes, f64)>,
}

impl ZsetBuilder {
    /// Adds the next member; false if the member is not above the one before it, or the score is NaN.
    #[must_use]
    pub fn push(&mut self, member: &[u8], score: f64) -> bool {
        let score = score + 0.0;
        if score.is_nan() || self.items.last().is_some_and(|last| last.cmp(score, member).is_ge()) {
            return false;
        }
        if self.items.len() == LEAF_MEMBERS {
            let full = std::mem::replace(&mut self.items, Vec::with_capacity(LEAF_MEMBERS));
            self.full.push(SortedLeaf::of(full));
        }
        let shared = SmallBytes::from(member);
        self.items.push(Scored { score, member: shared.clone() });
        self.hashed.push((hash(member), shared, score));
        true
    }

    /// Returns the set; `None` if a member occurred twice, with different scores.
    #[must_use]
    pub fn finish(mut self) -> Option<Zset> {
        self.hashed.sort_unstable_by(|a, b| (place(a.0), &a.1).cmp(&(place(b.0), &b.1)));
        if self.hashed.windows(2).any(|pair| pair[0].0 == pair[1].0 && pair[0].1 == pair[1].1) {
            return None;
        }
        let members = self.full.iter().flat_map(|leaf| leaf.items()).chain(&self.items);
        if let Ok(small) = SmallZset::of(members.map(|item| (&*item.member, item.score))) {
            return Some(Zset::small(small));
        }
        let last = (!self.items.is_empty()).then(|| SortedLeaf::of(self.items));
        let order = Tree::of(self.full.into_iter().chain(last));
        Some(Zset::large(LargeZset::assembled(order, index(&self.hashed))))
    }
}

/// Returns the index of members, which must be sorted by place.
fn index(hashed: &[(u64, SmallBytes, f64)]) -> Index {
    let mut rest = hashed;
    Tree::of(std::iter::from_fn(move || {
        let (last, _, _) = rest.get(BUCKET_MEMBERS.min(rest.len()).checked_sub(1)?)?;
        // Members of equal place must lie in one leaf.
        let (own, later) = rest.split_at(rest.partition_point(|(hash, _, _)| place(*hash) <= place(*last)));
        rest = later;
        Some(Bucket::of(own.iter().cloned()))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_built_set_is_as_an_inserted_one() {
        for members in [0, 1, 56, 57, 64, 65, 112, 113, 5000, 60_000_u64] {
            let mut inserted = Zset::new();
            for number in 0..members {
                let name = "m".repeat(number as usize % 40) + &number.to_string();
                inserted.insert(name.as_bytes(), (number * 7919 % 97) as f64 - 50.0);
            }
            let mut builder = ZsetBuilder::default();
            assert!(inserted.iter_from(0).all(|(member, score)| builder.push(member, score)));
            let mut built = builder.finish().expect("no member is there twice");
            built.check();
            assert!(built.iter_from(0).eq(inserted.iter_from(0)));
            for number in 0..members.min(3000) {
                built.insert(format!("later{number}").as_bytes(), number as f64);
                built.remove(number.to_string().as_bytes());
            }
            built.check();
        }
    }

    #[test]
    fn what_no_set_yields_is_refused() {
        let mut builder = ZsetBuilder::default();
        assert!(builder.push(b"b", 1.0));
        assert!(!builder.push(b"b", 1.0));
        assert!(!builder.push(b"a", 1.0));
        assert!(!builder.push(b"c", 0.5));
        assert!(!builder.push(b"c", f64::NAN));
        assert!(builder.push(b"b", 2.0));
        assert!(builder.finish().is_none());
    }
}
