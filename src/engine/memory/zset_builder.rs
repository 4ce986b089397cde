//! A sorted set made at once of members that come in its order, as an image holds them: leaves are filled one after
//! the other instead of being found and split.
//!
//! Guarantees: the set is as if its members had been inserted; members out of order or there twice are found. Holds 40
//! bytes a member beside the set until it is finished.

use super::bucket::{Bucket, place};
use super::run::{RUN_ITEMS, Run};
use super::small_bytes::SmallBytes;
use super::tree::Tree;
use super::zset::Zset;
use super::zset_large::{Index, LargeZset, Scored};
use super::zset_small::SmallZset;
use crate::engine::hash::hash;

/// Members of a leaf, in the order and in the index: room for some more, as a set has that grew by itself.
const LEAF_MEMBERS: usize = RUN_ITEMS * 7 / 8;
const BUCKET_MEMBERS: usize = RUN_ITEMS * 5 / 8;

/// The members so far.
#[derive(Default)]
pub struct ZsetBuilder {
    full: Vec<Run<Scored>>,
    /// The leaf being filled; empty only before the first member.
    items: Vec<Scored>,
    /// Hash, member and score of each member.
    hashed: Vec<(u64, SmallBytes, f64)>,
}

impl ZsetBuilder {
    /// Adds the next member; false if it does not lie behind the one before, or the score is NaN.
    #[must_use]
    pub fn push(&mut self, member: &[u8], score: f64) -> bool {
        let score = score + 0.0;
        if score.is_nan() || self.items.last().is_some_and(|last| last.cmp(score, member).is_ge()) {
            return false;
        }
        if self.items.len() == LEAF_MEMBERS {
            let full = std::mem::replace(&mut self.items, Vec::with_capacity(LEAF_MEMBERS));
            self.full.push(Run::of(full));
        }
        let shared = SmallBytes::from(member);
        self.items.push(Scored { score, member: shared.clone() });
        self.hashed.push((hash(member), shared, score));
        true
    }

    /// The set; `None` if a member was there twice, with different scores.
    #[must_use]
    pub fn finish(mut self) -> Option<Zset> {
        self.hashed.sort_unstable_by(|a, b| (place(a.0), &a.1).cmp(&(place(b.0), &b.1)));
        if self.hashed.windows(2).any(|pair| pair[0].0 == pair[1].0 && pair[0].1 == pair[1].1) {
            return None;
        }
        let members = self.full.iter().flat_map(|run| run.items()).chain(&self.items);
        if let Ok(small) = SmallZset::of(members.map(|item| (&*item.member, item.score))) {
            return Some(Zset::small(small));
        }
        let last = (!self.items.is_empty()).then(|| Run::of(self.items));
        let order = Tree::of(self.full.into_iter().chain(last));
        Some(Zset::large(LargeZset::assembled(order, index(&self.hashed))))
    }
}

/// The index of members sorted by place.
fn index(hashed: &[(u64, SmallBytes, f64)]) -> Index {
    let mut rest = hashed;
    Tree::of(std::iter::from_fn(move || {
        let (last, _, _) = rest.get(BUCKET_MEMBERS.min(rest.len()).checked_sub(1)?)?;
        // Members of equal place lie in one leaf.
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
