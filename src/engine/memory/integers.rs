//! A small set of integers, packed with as many bytes each as the widest needs.
//!
//! The bytes are {width: 1 byte, which is 2, 4 or 8; the integers, little-endian}. The integers are in the byte order
//! of their decimal texts, which is the order in which RocksDB has the rows of such a set, so a client sees the members
//! in the same order in either home.
//!
//! Guarantees: finding a member costs O(log n); reading allocates nothing. The bytes must come from this module. A
//! member is an integer only if its text is the canonical decimal text of an i64. Non-goal: other members; a set with
//! one of those has another form.

use itoa::Buffer;
use std::ops::Range;

/// Largest number of integers in this form.
pub(super) const INTEGERS_MAX: usize = 256;

/// Returns the integer whose canonical decimal text is `member`.
#[must_use]
pub(super) fn parse(member: &[u8]) -> Option<i64> {
    // No text of more than 20 bytes is an i64, and most members of other sets are told apart by their first byte.
    if member.len() > 20 || !matches!(member.first(), Some(b'0'..=b'9' | b'-')) {
        return None;
    }
    let value: i64 = std::str::from_utf8(member).ok()?.parse().ok()?;
    (Buffer::new().format(value).as_bytes() == member).then_some(value)
}

fn width_of(value: i64) -> usize {
    match value {
        -0x8000..0x8000 => 2,
        -0x8000_0000..0x8000_0000 => 4,
        _ => 8,
    }
}

/// A packed set of integers.
#[derive(Clone, Copy)]
pub struct Integers<'a> {
    width: usize,
    packed: &'a [u8],
}

/// How the packed bytes change by an insertion.
#[derive(PartialEq, Eq, Debug)]
pub enum Insertion {
    /// The integer is a member.
    Present,
    /// These bytes go in at this position.
    At(usize, Vec<u8>),
    /// The integers need more bytes each: these bytes replace all.
    Wider(Vec<u8>),
}

impl<'a> Integers<'a> {
    /// Returns the set in packed bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        let (width, packed) = bytes.split_first().expect("a packed set begins with its width");
        Self { width: usize::from(*width), packed }
    }

    /// Returns the packed bytes of a set of one integer.
    #[must_use]
    pub fn of(value: i64) -> Vec<u8> {
        let width = width_of(value);
        [&[width as u8], &value.to_le_bytes()[..width]].concat()
    }

    /// Returns the number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packed.len() / self.width
    }

    /// Returns the member at a rank, which must exist.
    #[must_use]
    pub fn at(&self, rank: usize) -> i64 {
        let bytes = &self.packed[rank * self.width..][..self.width];
        match *bytes {
            [a, b] => i64::from(i16::from_le_bytes([a, b])),
            [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
            _ => i64::from_le_bytes(bytes.try_into().expect("an integer has 2, 4 or 8 bytes")),
        }
    }

    /// Returns the rank of a member, or the rank that the text would have, by byte order.
    pub fn rank(&self, member: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match Buffer::new().format(self.at(middle)).as_bytes().cmp(member) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// Reports whether an integer is a member.
    #[must_use]
    pub fn contains(&self, value: i64) -> bool {
        if width_of(value) > self.width {
            return false;
        }
        // Comparing all integers costs less than a binary search by decimal texts.
        match self.width {
            2 => self.packed.as_chunks().0.contains(&(value as i16).to_le_bytes()),
            4 => self.packed.as_chunks().0.contains(&(value as i32).to_le_bytes()),
            _ => self.packed.as_chunks().0.contains(&value.to_le_bytes()),
        }
    }

    /// Returns how the packed bytes change if an integer is added.
    #[must_use]
    pub fn insertion(&self, value: i64) -> Insertion {
        let rank = match self.rank(Buffer::new().format(value).as_bytes()) {
            Ok(_) => return Insertion::Present,
            Err(rank) => rank,
        };
        let width = width_of(value);
        if width <= self.width {
            return Insertion::At(1 + rank * self.width, value.to_le_bytes()[..self.width].to_vec());
        }
        let mut wider = vec![width as u8];
        let all = (0..rank).map(|at| self.at(at)).chain([value]).chain((rank..self.len()).map(|at| self.at(at)));
        all.for_each(|member| wider.extend_from_slice(&member.to_le_bytes()[..width]));
        Insertion::Wider(wider)
    }

    /// Returns the packed bytes of the member at a rank.
    #[must_use]
    pub fn bytes_at(&self, rank: usize) -> Range<usize> {
        let start = 1 + rank * self.width;
        start..start + self.width
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use std::collections::BTreeSet;

    #[test]
    fn only_canonical_texts_are_integers() {
        for text in ["0", "7", "-1", "9223372036854775807", "-9223372036854775808"] {
            assert_eq!(parse(text.as_bytes()), text.parse().ok(), "{text}");
        }
        for text in ["", "-", "-0", "00", "01", "+1", " 1", "1 ", "9223372036854775808", "1e3", "x"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_packed_set_is_a_set_in_the_order_of_the_texts() {
        for seed in 0..20 {
            let mut random = StdRng::seed_from_u64(seed);
            let (mut bytes, mut model) = (Integers::of(5), BTreeSet::from(["5".to_owned()]));
            for step in 0..400 {
                let value = match step {
                    300.. => random.random::<i64>(),
                    150.. => i64::from(random.random::<i32>()),
                    _ => random.random_range(-300..300),
                };
                match Integers::new(&bytes).insertion(value) {
                    Insertion::Present => assert!(model.contains(&value.to_string())),
                    Insertion::At(at, more) => {
                        assert!(model.insert(value.to_string()));
                        bytes.splice(at..at, more);
                    }
                    Insertion::Wider(all) => {
                        assert!(model.insert(value.to_string()));
                        bytes = all;
                    }
                }
                if random.random_bool(0.3) && model.len() > 1 {
                    let rank = random.random_range(0..model.len());
                    let gone = model.iter().nth(rank).unwrap().clone();
                    assert_eq!(Integers::new(&bytes).rank(gone.as_bytes()), Ok(rank));
                    bytes.drain(Integers::new(&bytes).bytes_at(rank));
                    model.remove(&gone);
                    assert!(!Integers::new(&bytes).contains(gone.parse().unwrap()));
                }
            }
            let set = Integers::new(&bytes);
            let texts: Vec<String> = (0..set.len()).map(|rank| set.at(rank).to_string()).collect();
            assert_eq!(texts, model.iter().cloned().collect::<Vec<_>>());
            assert!(model.iter().all(|text| set.contains(text.parse().unwrap())));
        }
    }
}
