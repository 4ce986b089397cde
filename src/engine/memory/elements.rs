//! A hash or a set: packed elements in a block, a packed set of integers in a block, or a tree.
//!
//! Guarantees: finding, changing, adding or removing an element costs O(log n), or a walk over a block. The elements
//! have the byte order of their names in every form.

use super::block::{Block, Form};
use super::integers::{self, INTEGERS_MAX, Insertion, Integers};
use super::pairs::{self, Bare, Kind, Pair, Pairs, Valued};
use super::pairs_tree::{PairsTree, TreeIter};
use super::slot::{LargeValue, Slot};
use itoa::Buffer;
use std::sync::Arc;

/// Largest number of elements in a block.
const SMALL_ELEMENTS: usize = 64;
/// Largest number of bytes of the elements in a block.
const SMALL_BYTES: usize = 2048;

/// A hash or a set, for reading.
pub enum Elements<'a, K: Kind> {
    /// Packed elements, and their number.
    Small(u64, &'a [u8]),
    /// The members of a set of integers.
    Integers(Integers<'a>),
    /// A tree of elements.
    Large(&'a PairsTree<K>),
}

/// An element that was read; an integer's text has no other home than this.
pub enum Element<'a> {
    /// Name and value.
    Pair(Pair<'a>),
    /// A member.
    Integer(i64),
}

impl Element<'_> {
    /// Calls `with` with name and value.
    pub fn with<R>(&self, with: impl FnOnce(Pair<'_>) -> R) -> R {
        match self {
            Self::Pair(pair) => with(*pair),
            Self::Integer(integer) => with((Buffer::new().format(*integer).as_bytes(), &[])),
        }
    }
}

impl<'a, K: Kind> Elements<'a, K> {
    fn small(body: &'a [u8]) -> Self {
        let (count, packed) = body.split_first().expect("a body of elements begins with their number");
        Self::Small(u64::from(*count), packed)
    }

    /// Returns the number of elements.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Small(count, _) => *count,
            Self::Integers(integers) => integers.len() as u64,
            Self::Large(tree) => tree.len(),
        }
    }

    /// Reports whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the value of an element; for a set's member an empty value. `None` if there is no such element.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&'a [u8]> {
        match self {
            Self::Small(_, packed) => pairs::get::<K>(packed, name),
            Self::Integers(integers) => {
                integers::parse(name).filter(|integer| integers.contains(*integer)).map(|_| &[][..])
            }
            Self::Large(tree) => tree.get(name),
        }
    }

    /// Returns the element at a rank in byte order.
    #[must_use]
    pub fn at(&self, rank: u64) -> Option<Element<'a>> {
        match self {
            Self::Small(_, packed) => Pairs::<K>::new(packed).nth(rank as usize).map(Element::Pair),
            Self::Integers(integers) => {
                (rank < integers.len() as u64).then(|| Element::Integer(integers.at(rank as usize)))
            }
            Self::Large(tree) => tree.at(rank).map(Element::Pair),
        }
    }

    /// Returns the number of elements whose names are below `name`.
    #[must_use]
    pub fn rank(&self, name: &[u8]) -> u64 {
        match self {
            Self::Small(_, packed) => pairs::find::<K>(packed, name).rank as u64,
            Self::Integers(integers) => integers.rank(name).unwrap_or_else(|rank| rank) as u64,
            Self::Large(tree) => tree.rank(name),
        }
    }

    /// Iterates over the elements from a rank on, in byte order of their names.
    #[must_use]
    pub fn iter_from(&self, rank: u64) -> Iter<'a, K> {
        match *self {
            Self::Small(_, packed) => {
                let mut pairs = Pairs::new(packed);
                for _ in 0..rank {
                    pairs.next();
                }
                Iter::Small(pairs)
            }
            Self::Integers(integers) => Iter::Integers(integers, rank as usize),
            Self::Large(tree) => Iter::Large(tree.iter_from(rank)),
        }
    }
}

/// Iterator over elements in byte order of their names.
pub enum Iter<'a, K: Kind> {
    /// What remains of packed elements.
    Small(Pairs<'a, K>),
    /// Integers, and the rank of the next.
    Integers(Integers<'a>, usize),
    /// What remains of a tree.
    Large(TreeIter<'a, K>),
}

impl<'a, K: Kind> Iterator for Iter<'a, K> {
    type Item = Element<'a>;

    fn next(&mut self) -> Option<Element<'a>> {
        match self {
            Self::Small(pairs) => pairs.next().map(Element::Pair),
            Self::Integers(integers, rank) => (*rank < integers.len()).then(|| {
                *rank += 1;
                Element::Integer(integers.at(*rank - 1))
            }),
            Self::Large(tree) => tree.next().map(Element::Pair),
        }
    }
}

impl Slot {
    /// Returns a slot with a hash of one field.
    #[must_use]
    pub fn hash(key: &[u8], expire_ms: u64, field: &[u8], value: &[u8]) -> Self {
        Self::of_packed::<Valued>(key, expire_ms, (field, value), Form::Hash, LargeValue::Hash)
    }

    /// Returns a slot with a set of one member.
    #[must_use]
    pub fn set(key: &[u8], expire_ms: u64, member: &[u8]) -> Self {
        if let Some(integer) = integers::parse(member)
            && Block::fits(key.len(), 1 + 8 * INTEGERS_MAX)
        {
            return Self::Small(Block::new(key, Form::Integers, expire_ms, &Integers::of(integer)));
        }
        Self::of_packed::<Bare>(key, expire_ms, (member, &[]), Form::Members, LargeValue::Set)
    }

    fn of_packed<K: Kind>(
        key: &[u8],
        expire_ms: u64,
        first: Pair<'_>,
        form: Form,
        large: impl FnOnce(PairsTree<K>) -> LargeValue,
    ) -> Self {
        let mut body = vec![1];
        pairs::put::<K>(&mut body, first);
        if body.len() <= SMALL_BYTES && Block::fits(key.len(), SMALL_BYTES) {
            return Self::Small(Block::new(key, form, expire_ms, &body));
        }
        Self::large(key, expire_ms, large(PairsTree::of(&body[1..])))
    }

    /// Returns the hash; `None` if the value has another type.
    #[must_use]
    #[inline]
    pub fn as_hash(&self) -> Option<Elements<'_, Valued>> {
        match self {
            Self::Small(block) => (block.form() == Form::Hash).then(|| Elements::small(block.body())),
            Self::Large(large) => match large.value() {
                LargeValue::Hash(tree) => Some(Elements::Large(tree)),
                _ => None,
            },
        }
    }

    /// Returns the set; `None` if the value has another type.
    #[must_use]
    #[inline]
    pub fn as_set(&self) -> Option<Elements<'_, Bare>> {
        match self {
            Self::Small(block) => match block.form() {
                Form::Members => Some(Elements::small(block.body())),
                Form::Integers => Some(Elements::Integers(Integers::new(block.body()))),
                Form::Text | Form::Hash => None,
            },
            Self::Large(large) => match large.value() {
                LargeValue::Set(tree) => Some(Elements::Large(tree)),
                _ => None,
            },
        }
    }

    /// Sets a field of a hash. Reports whether the field is new.
    pub fn set_field(&mut self, field: &[u8], value: &[u8]) -> bool {
        if let Self::Small(block) = self {
            if let Some(is_new) = put_into_block::<Valued>(block, (field, value)) {
                return is_new;
            }
            let tree = PairsTree::of(&block.body()[1..]);
            self.grow(LargeValue::Hash(tree));
        }
        match self.large_mut() {
            LargeValue::Hash(tree) => tree.insert(field, value),
            _ => unreachable!("the caller knows the type"),
        }
    }

    /// Removes a field of a hash; false if there is no such field.
    pub fn remove_field(&mut self, field: &[u8]) -> bool {
        match self {
            Self::Small(block) => take_from_block::<Valued>(block, field),
            Self::Large(_) => match self.large_mut() {
                LargeValue::Hash(tree) => tree.remove(field),
                _ => unreachable!("the caller knows the type"),
            },
        }
    }

    /// Adds a member to a set; false if the set has the member.
    pub fn add_member(&mut self, member: &[u8]) -> bool {
        if let Self::Small(block) = self
            && block.form() == Form::Integers
        {
            if let Some(is_new) = integers::parse(member).and_then(|integer| add_integer(block, integer)) {
                return is_new;
            }
            self.spell_out();
        }
        if let Self::Small(block) = self {
            if let Some(is_new) = put_into_block::<Bare>(block, (member, &[])) {
                return is_new;
            }
            let tree = PairsTree::of(&block.body()[1..]);
            self.grow(LargeValue::Set(tree));
        }
        match self.large_mut() {
            LargeValue::Set(tree) => tree.insert(member, &[]),
            _ => unreachable!("the caller knows the type"),
        }
    }

    /// Removes a member of a set; false if there is no such member.
    pub fn remove_member(&mut self, member: &[u8]) -> bool {
        match self {
            Self::Small(block) if block.form() == Form::Integers => remove_integer(block, member),
            Self::Small(block) => take_from_block::<Bare>(block, member),
            Self::Large(_) => match self.large_mut() {
                LargeValue::Set(tree) => tree.remove(member),
                _ => unreachable!("the caller knows the type"),
            },
        }
    }

    /// Gives a set of integers the form that can hold any member.
    fn spell_out(&mut self) {
        let Self::Small(block) = self else { return };
        let (count, members) = (Integers::new(block.body()).len(), spelled_out(block.body()));
        if count < SMALL_ELEMENTS && members.len() < SMALL_BYTES {
            let body = [&[count as u8][..], &members].concat();
            self.replace(Self::Small(Block::new(self.key(), Form::Members, self.expire_ms(), &body)));
        } else {
            self.grow(LargeValue::Set(PairsTree::of(&members)));
        }
    }

    fn large_mut(&mut self) -> &mut LargeValue {
        match self {
            Self::Large(large) => Arc::make_mut(large).value_mut(),
            Self::Small(_) => unreachable!("the value is large"),
        }
    }
}

/// Returns the members of a body of integers as packed elements.
pub(super) fn spelled_out(body: &[u8]) -> Vec<u8> {
    let (integers, mut members) = (Integers::new(body), Vec::new());
    for rank in 0..integers.len() {
        pairs::put::<Bare>(&mut members, (Buffer::new().format(integers.at(rank)).as_bytes(), &[]));
    }
    members
}

/// Sets an element in a block. Reports whether the element is new; `None` if the block has no room.
fn put_into_block<K: Kind>(block: &mut Block, (name, value): Pair<'_>) -> Option<bool> {
    let body = block.body();
    let place = pairs::find::<K>(&body[1..], name);
    if place.value.is_some_and(|old| old == value) {
        return Some(false);
    }
    let (count, is_new) = (usize::from(body[0]), place.value.is_none());
    let bytes = place.bytes.start + 1..place.bytes.end + 1;
    let mut element = Vec::with_capacity(name.len() + value.len() + 8);
    pairs::put::<K>(&mut element, (name, value));
    let grown = body.len() - bytes.len() + element.len();
    if grown > SMALL_BYTES || count + usize::from(is_new) > SMALL_ELEMENTS {
        return None;
    }
    block.splice(bytes, &element);
    if is_new {
        block.overwrite(|body| body[0] += 1);
    }
    Some(is_new)
}

/// Removes an element from a block; false if there is no such element.
fn take_from_block<K: Kind>(block: &mut Block, name: &[u8]) -> bool {
    let place = pairs::find::<K>(&block.body()[1..], name);
    if place.value.is_none() {
        return false;
    }
    block.splice(place.bytes.start + 1..place.bytes.end + 1, &[]);
    block.overwrite(|body| body[0] -= 1);
    true
}

/// Adds an integer to a block of integers. Reports whether the integer is new; `None` if the block has no room.
fn add_integer(block: &mut Block, integer: i64) -> Option<bool> {
    let integers = Integers::new(block.body());
    let is_full = integers.len() == INTEGERS_MAX;
    match integers.insertion(integer) {
        Insertion::Present => Some(false),
        _ if is_full => None,
        Insertion::At(at, bytes) => {
            block.splice(at..at, &bytes);
            Some(true)
        }
        Insertion::Wider(all) => {
            block.splice(0..block.body().len(), &all);
            Some(true)
        }
    }
}

fn remove_integer(block: &mut Block, member: &[u8]) -> bool {
    let integers = Integers::new(block.body());
    let Ok(rank) = integers.rank(member) else { return false };
    let bytes = integers.bytes_at(rank);
    block.splice(bytes, &[]);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use std::collections::BTreeMap;

    type Map = BTreeMap<Vec<u8>, Vec<u8>>;

    fn content<K: Kind>(elements: &Elements<'_, K>) -> Map {
        let mut all = Vec::new();
        for element in elements.iter_from(0) {
            element.with(|(name, value)| all.push((name.to_vec(), value.to_vec())));
        }
        assert!(all.is_sorted() && all.len() as u64 == elements.len());
        all.into_iter().collect()
    }

    #[test]
    fn a_hash_is_a_map_in_every_form() {
        for seed in 0..30 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut map = Map::from([(b"f".to_vec(), b"v".to_vec())]);
            let mut slot = Slot::hash(b"key", 5, b"f", b"v");
            let fields = [4, 40, 400][seed as usize % 3];
            let mut kept = Vec::new();
            for step in 0..600_u32 {
                let field = format!("field:{}", random.random_range(0..fields)).into_bytes();
                if random.random_bool(0.7) {
                    let value = step.to_string().repeat(random.random_range(0..9)).into_bytes();
                    assert_eq!(slot.set_field(&field, &value), map.insert(field, value).is_none());
                } else {
                    assert_eq!(slot.remove_field(&field), map.remove(&field).is_some());
                }
                if step % 60 == 0 {
                    kept.push((slot.clone(), map.clone()));
                }
            }
            kept.push((slot, map));
            for (slot, map) in kept {
                let hash = slot.as_hash().unwrap();
                assert_eq!(content(&hash), map);
                assert_eq!((slot.key(), slot.expire_ms(), slot.as_set().is_none()), (&b"key"[..], 5, true));
                for (rank, (field, value)) in map.iter().enumerate() {
                    assert_eq!(hash.get(field), Some(&value[..]));
                    assert_eq!(hash.rank(field), rank as u64);
                    hash.at(rank as u64).unwrap().with(|pair| assert_eq!(pair, (&field[..], &value[..])));
                }
                assert_eq!((hash.get(b"absent"), hash.at(map.len() as u64).is_none()), (None, true));
            }
        }
    }

    #[test]
    fn a_set_is_a_set_in_every_form() {
        for seed in 0..40 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut map = Map::from([(b"1".to_vec(), Vec::new())]);
            let mut slot = Slot::set(b"key", 5, b"1");
            let (members, others) = ([10, 100, 900][seed as usize % 3], seed % 4 * 50);
            let mut kept = Vec::new();
            for step in 0..900_u64 {
                let number = random.random_range(-members..members) * if step > 300 { 70_001 } else { 1 };
                let member = if step > 400 && step % 100 < others {
                    format!("x{number}").into_bytes()
                } else {
                    number.to_string().into_bytes()
                };
                if random.random_bool(0.7) {
                    assert_eq!(slot.add_member(&member), map.insert(member, Vec::new()).is_none());
                } else {
                    assert_eq!(slot.remove_member(&member), map.remove(&member).is_some());
                }
                if step % 60 == 0 {
                    kept.push((slot.clone(), map.clone()));
                }
            }
            kept.push((slot, map));
            for (slot, map) in kept {
                let set = slot.as_set().unwrap();
                assert_eq!(content(&set), map, "seed {seed}");
                for (rank, member) in map.keys().enumerate() {
                    assert_eq!((set.get(member), set.rank(member)), (Some(&[][..]), rank as u64));
                    set.at(rank as u64).unwrap().with(|(name, _)| assert_eq!(name, member));
                }
                assert_eq!(
                    (set.get(b"absent"), set.get(b"01"), set.at(map.len() as u64).is_none()),
                    (None, None, true)
                );
            }
        }
    }

    #[test]
    fn a_slot_has_sixteen_bytes() {
        assert_eq!(size_of::<Slot>(), 16);
    }
}
