//! The buffer in which the row cache keeps a small hash or set: all elements, in byte order of their names.
//!
//! ```text
//! element    name length u16 | value length u16 | name | value        little-endian; never stored
//! ```
//!
//! Guarantees: each name occurs once. A buffer is never larger than [`WHOLE_BYTES_MAX`]; a function that would make it
//! larger reports this instead.

use std::ops::Range;

/// Largest size of a buffer in bytes. The limit is small because a buffer is searched from its start and copied by each
/// change.
const WHOLE_BYTES_MAX: usize = 2 << 10;
/// Largest number of elements that can fit into a buffer.
pub const WHOLE_ELEMENTS_MAX: u64 = (WHOLE_BYTES_MAX / HEAD_BYTES) as u64;

const HEAD_BYTES: usize = 4;

/// Appends an element behind all others; false, and no change, if the buffer would get too large.
pub fn push(whole: &mut Vec<u8>, name: &[u8], value: &[u8]) -> bool {
    let fits = whole.len() + HEAD_BYTES + name.len() + value.len() <= WHOLE_BYTES_MAX;
    if fits {
        whole.extend_from_slice(&(name.len() as u16).to_le_bytes());
        whole.extend_from_slice(&(value.len() as u16).to_le_bytes());
        whole.extend_from_slice(name);
        whole.extend_from_slice(value);
    }
    fits
}

/// Returns name, value and end offset of the element that starts at offset `at`; `None` behind the last element.
#[must_use]
pub fn element_at(whole: &[u8], at: usize) -> Option<(&[u8], &[u8], usize)> {
    let (head, rest) = whole.get(at..)?.split_first_chunk::<HEAD_BYTES>()?;
    let [name, value] = [[head[0], head[1]], [head[2], head[3]]].map(|length| usize::from(u16::from_le_bytes(length)));
    Some((&rest[..name], &rest[name..name + value], at + HEAD_BYTES + name + value))
}

/// Returns start and end of the first element whose name is not below `name`. If that element has another name, the end
/// equals the start.
fn find(whole: &[u8], name: &[u8]) -> (usize, usize) {
    let mut at = 0;
    while let Some((found, _, end)) = element_at(whole, at) {
        match found.cmp(name) {
            std::cmp::Ordering::Less => at = end,
            std::cmp::Ordering::Equal => return (at, end),
            std::cmp::Ordering::Greater => break,
        }
    }
    (at, at)
}

/// Returns the offset of the first element whose name is not below `name`.
#[must_use]
pub fn seek(whole: &[u8], name: &[u8]) -> usize {
    find(whole, name).0
}

/// Returns the range of an element's value; `None` if there is no such element.
#[must_use]
pub fn value_of(whole: &[u8], name: &[u8]) -> Option<Range<usize>> {
    let (start, end) = find(whole, name);
    (end > start).then(|| start + HEAD_BYTES + name.len()..end)
}

/// Returns a copy of the buffer in which the element has the given value, or is deleted if `value` is `None`. Returns
/// `None` if the copy would get too large.
#[must_use]
pub fn changed(whole: &[u8], name: &[u8], value: Option<&[u8]>) -> Option<Vec<u8>> {
    let (start, end) = find(whole, name);
    let mut out = Vec::with_capacity(whole.len() + HEAD_BYTES + name.len() + value.map_or(0, <[u8]>::len));
    out.extend_from_slice(&whole[..start]);
    if !value.is_none_or(|value| push(&mut out, name, value)) {
        return None;
    }
    out.extend_from_slice(&whole[end..]);
    (out.len() <= WHOLE_BYTES_MAX).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn get<'w>(whole: &'w [u8], name: &[u8]) -> Option<&'w [u8]> {
        value_of(whole, name).map(|range| &whole[range])
    }

    fn all(whole: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let first = element_at(whole, 0);
        let elements = std::iter::successors(first, |(_, _, end)| element_at(whole, *end));
        elements.map(|(name, value, _)| (name.to_vec(), value.to_vec())).collect()
    }

    proptest! {
        #[test]
        fn a_buffer_holds_what_a_map_holds(
            changes in prop::collection::vec(("[a-c]{0,3}", prop::option::of("[x-z]{0,5}")), 0..60),
            from in "[a-c]{0,3}",
        ) {
            let (mut whole, mut model) = (Vec::new(), BTreeMap::new());
            for (name, value) in changes {
                let (name, value) = (name.into_bytes(), value.map(String::into_bytes));
                whole = changed(&whole, &name, value.as_deref()).expect("it is small");
                match value {
                    Some(value) => model.insert(name.clone(), value),
                    None => model.remove(&name),
                };
                prop_assert_eq!(get(&whole, &name), model.get(&name).map(Vec::as_slice));
            }
            let expected: Vec<_> = model.clone().into_iter().collect();
            prop_assert_eq!(all(&whole), expected);
            let first = element_at(&whole, seek(&whole, from.as_bytes())).map(|(name, ..)| name.to_vec());
            prop_assert_eq!(first, model.range(from.into_bytes()..).next().map(|(name, _)| name.clone()));
        }
    }

    #[test]
    fn a_buffer_that_would_get_too_large_is_given_up() {
        let value = vec![7; WHOLE_BYTES_MAX - HEAD_BYTES - 1];
        let whole = changed(b"", b"a", Some(&value)).unwrap();
        assert_eq!((whole.len(), get(&whole, b"a")), (WHOLE_BYTES_MAX, Some(&value[..])));
        assert!(changed(&whole, b"b", Some(b"")).is_none());
        assert!(changed(&whole, b"A", Some(b"")).is_none());
        assert!(changed(b"", b"", Some(&[0; 1 << 17])).is_none());
        assert_eq!(changed(&whole, b"a", None).unwrap(), b"");
    }
}
