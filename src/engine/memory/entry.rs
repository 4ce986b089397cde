//! An entry of a dictionary: the value of a key, and its expiry.

/// A value that a dictionary can hold. Cloning it must be cheap, because the copy of a shard clones its values.
pub trait Value: Clone + Send + Sync + 'static {
    /// Returns the heap bytes held; O(1).
    fn memory_bytes(&self) -> usize;
}

/// A value and its expiry.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry<V> {
    /// The value.
    pub value: V,
    /// Milliseconds since the Unix epoch from which on the key is expired; 0: never.
    pub expire_ms: u64,
}
