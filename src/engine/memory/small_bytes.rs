//! A key or a member: a byte string that needs no allocation when it is short.
//!
//! Guarantees: a `SmallBytes` compares as its bytes do; a clone costs O(1). A short key or member lies beside its value
//! or score, so that finding it costs no further cache miss.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Largest number of bytes held without an allocation, chosen so that a `SmallBytes` has 24 bytes.
const INLINE_BYTES: usize = 22;

/// Heap bytes of a longer string beside its bytes: the counters of the `Arc`, and the overhead of the allocator.
const SHARED_BYTES: usize = 16 + 8;

/// An immutable byte string. Dereferences to its bytes.
#[derive(Clone)]
pub struct SmallBytes(Form);

#[derive(Clone)]
enum Form {
    Inline { len: u8, bytes: [u8; INLINE_BYTES] },
    Shared(Arc<[u8]>),
}

impl SmallBytes {
    /// Returns the heap bytes held.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        match &self.0 {
            Form::Inline { .. } => 0,
            Form::Shared(bytes) => SHARED_BYTES + bytes.len(),
        }
    }
}

impl From<&[u8]> for SmallBytes {
    fn from(from: &[u8]) -> Self {
        if from.len() > INLINE_BYTES {
            return Self(Form::Shared(from.into()));
        }
        let mut bytes = [0; INLINE_BYTES];
        bytes[..from.len()].copy_from_slice(from);
        Self(Form::Inline { len: from.len() as u8, bytes })
    }
}

impl Deref for SmallBytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Form::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Form::Shared(bytes) => bytes,
        }
    }
}

impl PartialEq for SmallBytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for SmallBytes {}

impl PartialOrd for SmallBytes {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SmallBytes {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(other)
    }
}

impl fmt::Debug for SmallBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_every_length_come_back_and_keep_their_order() {
        assert_eq!(size_of::<SmallBytes>(), 24);
        let all: Vec<Vec<u8>> = (0..60).map(|len| (0..len).collect()).collect();
        for pair in all.windows(2) {
            let [short, long] = [0, 1].map(|at| SmallBytes::from(&pair[at][..]));
            assert_eq!((&*short, &*long), (&pair[0][..], &pair[1][..]));
            assert!(short < long && short == short.clone());
            assert_eq!(short.memory_bytes() == 0, short.len() <= INLINE_BYTES);
        }
    }
}
