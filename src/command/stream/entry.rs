//! The stored form of a stream entry: its fields and their values.
//!
//! ```text
//! pairs varint | { length varint, field; length varint, value } for each pair
//! ```
//! Varints: [`crate::varint`].
//!
//! Guarantees: decoding allocates nothing; bytes in another form are an error.

use super::super::reply::Out;
use crate::error::{Error, Result};
use crate::varint;

/// Encodes fields and values, which alternate.
pub(super) fn encode<'e>(strings: impl ExactSizeIterator<Item = &'e [u8]> + Clone) -> Vec<u8> {
    // Two bytes hold the length of any string below 16 KiB.
    let bytes = strings.clone().map(|string| 2 + string.len()).sum::<usize>();
    let mut out = Vec::with_capacity(varint::BYTES_MAX + bytes);
    varint::put(&mut out, strings.len() as u64 / 2);
    for string in strings {
        varint::put(&mut out, string.len() as u64);
        out.extend_from_slice(string);
    }
    out
}

/// Writes the fields and values of a stored entry as one array.
pub(super) fn write(stored: &[u8], out: &mut Out) -> Result<()> {
    let corrupt = |detail: &str| Error::corrupt("stream entry", "value", detail);
    let mut rest = stored;
    let pairs = varint::take(&mut rest).map_err(|_| corrupt("has no count"))?;
    let strings = usize::try_from(pairs).ok().and_then(|pairs| pairs.checked_mul(2));
    let strings = strings.ok_or_else(|| corrupt("has a count that is too large"))?;
    out.array(strings);
    for _ in 0..strings {
        out.bulk(take_string(&mut rest).ok_or_else(|| corrupt("ends inside a string"))?);
    }
    if !rest.is_empty() {
        return Err(corrupt("continues after its last string"));
    }
    Ok(())
}

fn take_string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(varint::take(rest).ok()?).ok()?;
    let (string, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::reply::Protocol;
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_entry_survives_a_round_trip(pairs in vec((vec(any::<u8>(), 0..300), vec(any::<u8>(), 0..300)), 0..20)) {
            let strings: Vec<&[u8]> = pairs.iter().flat_map(|(field, value)| [&field[..], &value[..]]).collect();
            let stored = encode(strings.iter().copied());
            let (mut written, mut expected) = (Out::new(Protocol::Resp2), Out::new(Protocol::Resp2));
            write(&stored, &mut written).unwrap();
            expected.array(strings.len());
            strings.iter().for_each(|string| expected.bulk(string));
            prop_assert_eq!(written.as_bytes(), expected.as_bytes());
            for cut in 0..stored.len() {
                prop_assert!(write(&stored[..cut], &mut Out::default()).is_err());
            }
            let longer = [&stored[..], &[0]].concat();
            prop_assert!(write(&longer, &mut Out::default()).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(stored in vec(any::<u8>(), 0..64)) {
            let mut out = Out::default();
            let _ = write(&stored, &mut out);
            // A string takes at least one byte and is written with at most six more.
            prop_assert!(out.len() <= 32 + 7 * stored.len());
        }
    }

    #[test]
    fn counts_and_lengths_beyond_the_input_are_errors() {
        for stored in
            [&[0xFF; 9][..], &[0xFF; 11], &[2, 1, b'a'], &[1, 200, 200, 1, b'a'], &[1, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]]
        {
            assert!(write(stored, &mut Out::default()).is_err(), "{stored:?}");
        }
    }
}
