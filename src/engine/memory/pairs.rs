//! The elements of a hash or a set, packed into bytes in the byte order of their names.
//!
//! An element of a hash is {length of the field: varint, field, length of the value: varint, value}; an element of a set
//! is {length of the member: varint, member}. The order is the order in which RocksDB has the rows of such a collection,
//! so a client sees the elements in the same order in either home.
//!
//! Guarantees: reading borrows and allocates nothing. The bytes must come from this module: anything else is a defect.
//! Non-goal: many elements. Finding one is a walk.

use crate::varint;
use std::cmp::Ordering;
use std::ops::Range;

/// Whether elements have a value beside their name.
pub trait Kind: Clone + Default + Send + Sync + 'static {
    /// True for the fields of a hash, false for the members of a set.
    const VALUED: bool;
}

/// The fields of a hash.
#[derive(Clone, Default)]
pub struct Valued;

/// The members of a set.
#[derive(Clone, Default)]
pub struct Bare;

impl Kind for Valued {
    const VALUED: bool = true;
}

impl Kind for Bare {
    const VALUED: bool = false;
}

/// An element; a set's member has an empty value.
pub(super) type Pair<'a> = (&'a [u8], &'a [u8]);

/// Returns the byte string at the front of `rest`, and what follows.
#[inline]
fn take(rest: &[u8]) -> (&[u8], &[u8]) {
    // Most lengths take one byte.
    if let [len @ 0..0x80, rest @ ..] = rest {
        return rest.split_at(usize::from(*len));
    }
    let mut rest = rest;
    let len = varint::take(&mut rest).expect("packed elements begin with a length");
    rest.split_at(len as usize)
}

/// Appends an element.
pub(super) fn put<K: Kind>(out: &mut Vec<u8>, (name, value): Pair<'_>) {
    varint::put(out, name.len() as u64);
    out.extend_from_slice(name);
    if K::VALUED {
        varint::put(out, value.len() as u64);
        out.extend_from_slice(value);
    }
}

/// Iterates over packed elements.
#[derive(Clone)]
pub struct Pairs<'a, K> {
    all: usize,
    rest: &'a [u8],
    kind: std::marker::PhantomData<K>,
}

impl<'a, K: Kind> Pairs<'a, K> {
    /// Returns an iterator over all elements of `packed`.
    #[must_use]
    pub fn new(packed: &'a [u8]) -> Self {
        Self { all: packed.len(), rest: packed, kind: std::marker::PhantomData }
    }

    /// Returns the byte position of the next element.
    #[must_use]
    pub fn position(&self) -> usize {
        self.all - self.rest.len()
    }
}

impl<'a, K: Kind> Iterator for Pairs<'a, K> {
    type Item = Pair<'a>;

    #[inline]
    fn next(&mut self) -> Option<Pair<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let (name, rest) = take(self.rest);
        let (value, rest) = if K::VALUED { take(rest) } else { (&[][..], rest) };
        self.rest = rest;
        Some((name, value))
    }
}

/// Where a name is, or where it belongs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place<'a> {
    /// Bytes of the element; empty if there is no element of that name: there it belongs.
    pub bytes: Range<usize>,
    /// Number of elements before it.
    pub rank: usize,
    /// The element's value; `None` if there is no such element.
    pub value: Option<&'a [u8]>,
}

/// Returns the place of a name.
#[must_use]
pub(super) fn find<'a, K: Kind>(packed: &'a [u8], name: &[u8]) -> Place<'a> {
    let mut pairs = Pairs::<K>::new(packed);
    let mut rank = 0;
    loop {
        let start = pairs.position();
        let Some((found, value)) = pairs.next() else {
            return Place { bytes: start..start, rank, value: None };
        };
        match found.cmp(name) {
            Ordering::Less => rank += 1,
            Ordering::Equal => return Place { bytes: start..pairs.position(), rank, value: Some(value) },
            Ordering::Greater => return Place { bytes: start..start, rank, value: None },
        }
    }
}

/// Returns the value of an element; for a set's member an empty value.
#[must_use]
pub(super) fn get<'a, K: Kind>(packed: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    // Equality is cheaper than order: names of another length need no comparison.
    Pairs::<K>::new(packed).find(|(found, _)| *found == name).map(|(_, value)| value)
}

/// Returns the byte position of the element at `rank`, which is the end if `rank` is the number of elements.
#[must_use]
pub(super) fn seek<K: Kind>(packed: &[u8], rank: usize) -> usize {
    let mut pairs = Pairs::<K>::new(packed);
    for _ in 0..rank {
        pairs.next();
    }
    pairs.position()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed<K: Kind>(pairs: &[Pair<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        pairs.iter().for_each(|pair| put::<K>(&mut out, *pair));
        out
    }

    #[test]
    fn elements_are_found_by_name_and_rank() {
        let long = [b'v'; 300];
        let all: [Pair<'_>; 3] = [(b"a", b"1"), (b"bb", &long), (b"c", b"")];
        let bytes = packed::<Valued>(&all);
        assert_eq!(Pairs::<Valued>::new(&bytes).collect::<Vec<_>>(), all);
        assert_eq!(get::<Valued>(&bytes, b"bb"), Some(&long[..]));
        assert_eq!(find::<Valued>(&bytes, b"c").rank, 2);
        assert_eq!(find::<Valued>(&bytes, b"b"), Place { bytes: 4..4, rank: 1, value: None });
        assert_eq!(find::<Valued>(&bytes, b"d").bytes, bytes.len()..bytes.len());
        assert_eq!(seek::<Valued>(&bytes, 1), 4);
        let members = packed::<Bare>(&[(b"x", b""), (b"y", b"")]);
        assert_eq!(
            (members.len(), get::<Bare>(&members, b"y"), get::<Bare>(&members, b"z")),
            (4, Some(&b""[..]), None)
        );
    }
}
