//! LEB128: an unsigned number in seven bits a byte, lowest first, the high bit set in every byte but the last.
//!
//! Guarantees: a number has one form, the shortest one; any other is refused. Arbitrary bytes never panic.

/// Longest form of a number of 64 bits, in bytes.
pub const BYTES_MAX: usize = 10;

/// Why bytes do not begin with a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The bytes end before the number does.
    Unfinished,
    /// The number is not in its shortest form, or has more than 64 bits.
    Malformed,
}

/// Appends a number.
#[inline]
pub fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a number off the front of `bytes`, which stay as they are if there is none.
#[inline]
pub fn take(bytes: &mut &[u8]) -> Result<u64, Fault> {
    let mut value = 0;
    for (at, &byte) in bytes.iter().enumerate().take(BYTES_MAX) {
        let overflows = at + 1 == BYTES_MAX && byte > 1;
        if overflows || (byte == 0 && at > 0) {
            return Err(Fault::Malformed);
        }
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            *bytes = &bytes[at + 1..];
            return Ok(value);
        }
    }
    Err(Fault::Unfinished)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_number_survives_and_leaves_what_follows(value: u64, small in 0..300u64, rest: Vec<u8>) {
            for value in [value, small, value >> 32] {
                let mut bytes = Vec::new();
                put(&mut bytes, value);
                prop_assert!(bytes.len() <= BYTES_MAX);
                prop_assert_eq!(take(&mut &bytes[..bytes.len() - 1]), Err(Fault::Unfinished));
                bytes.extend_from_slice(&rest);
                let mut left = &bytes[..];
                prop_assert_eq!(take(&mut left), Ok(value));
                prop_assert_eq!(left, &rest[..]);
            }
        }

        #[test]
        fn arbitrary_bytes_have_one_reading(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut left = &bytes[..];
            if let Ok(value) = take(&mut left) {
                let mut again = Vec::new();
                put(&mut again, value);
                prop_assert_eq!(&again[..], &bytes[..bytes.len() - left.len()]);
            }
        }
    }

    #[test]
    fn longer_forms_and_larger_numbers_are_refused() {
        for bytes in
            [&[0x80, 0][..], &[0xff, 0x80, 0], &[0xff; 11], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]]
        {
            assert_eq!(take(&mut &*bytes), Err(Fault::Malformed), "{bytes:x?}");
        }
        assert_eq!(take(&mut &[][..]), Err(Fault::Unfinished));
    }
}
