//! A key with its value in memory: a block, or a large value behind a pointer.
//!
//! Guarantees: a clone costs O(1) and never changes. A slot has 16 bytes. A small value becomes large when it no longer
//! fits into a block; a large value stays large until it is replaced.

use super::block::{Block, Form};
use super::elements::spelled_out;
use super::list::List;
use super::pairs::{Bare, Valued};
use super::pairs_tree::PairsTree;
use super::reclaim;
use super::text::Text;
use super::zset::Zset;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Heap bytes of a large key beside its key and its value: the counters of the `Arc`, the struct, and the overhead of
/// two allocations.
const LARGE_BYTES: usize = 16 + size_of::<Large>() + 2 * 8;

/// The type of a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    /// A byte string.
    String,
    /// Fields with values.
    Hash,
    /// Members.
    Set,
    /// Byte strings by position.
    List,
    /// Members with scores.
    Zset,
}

impl Type {
    /// Number of types.
    pub const COUNT: usize = 5;
    /// Returns Redis' name of the type.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Hash => "hash",
            Self::Set => "set",
            Self::List => "list",
            Self::Zset => "zset",
        }
    }

    /// All types.
    pub const ALL: [Self; Self::COUNT] = [Self::String, Self::Hash, Self::Set, Self::List, Self::Zset];
}

/// A value that does not fit into a block.
#[derive(Clone)]
pub enum LargeValue {
    /// A string's bytes.
    Text(Text),
    /// A hash's fields and values.
    Hash(PairsTree<Valued>),
    /// A set's members.
    Set(PairsTree<Bare>),
    /// A list's elements.
    List(List),
    /// A sorted set's members and scores.
    Zset(Zset),
}

/// A key with a value that does not fit into a block.
pub struct Large {
    key: Box<[u8]>,
    expire_ms: u64,
    touch: AtomicU32,
    value: LargeValue,
}

impl Clone for Large {
    fn clone(&self) -> Self {
        Self {
            key: self.key.clone(),
            expire_ms: self.expire_ms,
            touch: AtomicU32::new(self.touch.load(Ordering::Relaxed)),
            value: self.value.clone(),
        }
    }
}

/// A key, its expiry and its value.
#[derive(Clone)]
pub enum Slot {
    /// Key and value share an allocation.
    Small(Block),
    /// The value has allocations of its own.
    Large(Arc<Large>),
}

impl Slot {
    /// Returns a slot with a large value.
    #[must_use]
    pub fn large(key: &[u8], expire_ms: u64, value: LargeValue) -> Self {
        Self::Large(Arc::new(Large { key: key.into(), expire_ms, touch: AtomicU32::new(0), value }))
    }

    /// Replaces the value, and drops a large former value on another thread. The state of the access tracker stays.
    pub(super) fn replace(&mut self, with: Self) {
        with.touch().store(self.touch().load(Ordering::Relaxed), Ordering::Relaxed);
        std::mem::replace(self, with).dispose();
    }

    /// Drops the slot, a large value on another thread.
    pub(super) fn dispose(self) {
        if let Self::Large(_) = &self {
            let bytes = self.memory_bytes();
            reclaim::dispose(self, bytes);
        }
    }

    /// Makes the value large; key, expiry and the state of the access tracker stay.
    pub(super) fn grow(&mut self, value: LargeValue) {
        let touch = AtomicU32::new(self.touch().load(Ordering::Relaxed));
        *self = Self::Large(Arc::new(Large { key: self.key().into(), expire_ms: self.expire_ms(), touch, value }));
    }

    /// Returns the key.
    #[must_use]
    #[inline]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Small(block) => block.key(),
            Self::Large(large) => &large.key,
        }
    }

    /// Returns the same value under another key.
    #[must_use]
    pub fn renamed(self, key: &[u8]) -> Self {
        if let Self::Small(block) = &self
            && Block::fits(key.len(), block.body().len())
        {
            return Self::Small(block.renamed(key));
        }
        let (expire_ms, touch) = (self.expire_ms(), AtomicU32::new(self.touch().load(Ordering::Relaxed)));
        Self::Large(Arc::new(Large { key: key.into(), expire_ms, touch, value: self.into_large() }))
    }

    /// Returns the value in its large form.
    fn into_large(self) -> LargeValue {
        match self {
            Self::Small(block) => match block.form() {
                Form::Text => LargeValue::Text(Text::of(block.body())),
                Form::Hash => LargeValue::Hash(PairsTree::of(&block.body()[1..])),
                Form::Members => LargeValue::Set(PairsTree::of(&block.body()[1..])),
                Form::Integers => LargeValue::Set(PairsTree::of(&spelled_out(block.body()))),
            },
            Self::Large(large) => large.value.clone(),
        }
    }

    /// Reports whether the value is a collection without elements.
    #[must_use]
    pub fn is_empty_collection(&self) -> bool {
        match self {
            Self::Small(block) => match block.form() {
                Form::Text => false,
                Form::Hash | Form::Members => block.body()[0] == 0,
                Form::Integers => block.body().len() == 1,
            },
            Self::Large(large) => match &large.value {
                LargeValue::Text(_) => false,
                LargeValue::Hash(hash) => hash.is_empty(),
                LargeValue::Set(set) => set.is_empty(),
                LargeValue::List(list) => list.is_empty(),
                LargeValue::Zset(zset) => zset.is_empty(),
            },
        }
    }

    /// Returns the type of the value.
    #[must_use]
    pub fn value_type(&self) -> Type {
        match self {
            Self::Small(block) => match block.form() {
                Form::Text => Type::String,
                Form::Hash => Type::Hash,
                Form::Members | Form::Integers => Type::Set,
            },
            Self::Large(large) => match large.value {
                LargeValue::Text(_) => Type::String,
                LargeValue::Hash(_) => Type::Hash,
                LargeValue::Set(_) => Type::Set,
                LargeValue::List(_) => Type::List,
                LargeValue::Zset(_) => Type::Zset,
            },
        }
    }

    /// Returns the list; `None` if the value has another type.
    #[must_use]
    pub fn as_list(&self) -> Option<&List> {
        match self {
            Self::Large(large) => match &large.value {
                LargeValue::List(list) => Some(list),
                _ => None,
            },
            Self::Small(_) => None,
        }
    }

    /// Returns the sorted set; `None` if the value has another type.
    #[must_use]
    pub fn as_zset(&self) -> Option<&Zset> {
        match self {
            Self::Large(large) => match &large.value {
                LargeValue::Zset(zset) => Some(zset),
                _ => None,
            },
            Self::Small(_) => None,
        }
    }

    /// Returns the milliseconds since the Unix epoch from which on the key is expired; 0: never.
    #[must_use]
    pub fn expire_ms(&self) -> u64 {
        match self {
            Self::Small(block) => block.expire_ms(),
            Self::Large(large) => large.expire_ms,
        }
    }

    /// Sets the expiry.
    pub fn set_expire(&mut self, expire_ms: u64) {
        match self {
            Self::Small(block) => block.set_expire(expire_ms),
            Self::Large(large) => Arc::make_mut(large).expire_ms = expire_ms,
        }
    }

    /// Returns the state of the access tracker for the key.
    #[must_use]
    pub fn touch(&self) -> &AtomicU32 {
        match self {
            Self::Small(block) => block.touch(),
            Self::Large(large) => &large.touch,
        }
    }

    /// Returns the heap bytes held, allocator overhead included; O(1).
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        match self {
            Self::Small(block) => block.memory_bytes(),
            Self::Large(large) => LARGE_BYTES + large.key.len() + large.value.memory_bytes(),
        }
    }
}

impl Large {
    /// Returns the value.
    #[must_use]
    pub fn value(&self) -> &LargeValue {
        &self.value
    }

    /// Returns the key, and the value for changing it.
    pub(super) fn key_and_value(&mut self) -> (&[u8], &mut LargeValue) {
        (&self.key, &mut self.value)
    }

    /// Returns the value, for changing it.
    pub(super) fn value_mut(&mut self) -> &mut LargeValue {
        &mut self.value
    }
}

impl LargeValue {
    fn memory_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.memory_bytes(),
            Self::Hash(hash) => hash.memory_bytes(),
            Self::Set(set) => set.memory_bytes(),
            Self::List(list) => list.memory_bytes(),
            Self::Zset(zset) => zset.memory_bytes(),
        }
    }
}
