//! A part of the keys in memory: the keys of some of its stripes, with their counters and expiries.
//!
//! Guarantees: no part depends on another one, so that several threads can each change a part at the same time. Counters
//! are exact between changes.

use super::shard::{Group, Hashed, SHARDS, SHARDS_PER_GROUP};
use super::stripe::{Change, Former, SlotGuard, Stripe};
use crate::csn::Csn;
use crate::engine::memory::reclaim;
use crate::engine::memory::slot::{Slot, Type};
use crate::engine::memory::small_bytes::SmallBytes;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Number of parts.
pub const PARTS: usize = 8;
/// Number of stripes of a part.
pub(super) const STRIPES_PER_PART: usize = SHARDS / SHARDS_PER_GROUP / PARTS;
/// Heap bytes of an expiry in its index, at the usual fill of the nodes of a B-tree.
const EXPIRY_BYTES: usize = 48;

/// Some of the keys in memory.
pub struct Part {
    stripes: Vec<Stripe>,
    /// Expiry (in ms since the Unix epoch) and key of every key that expires.
    expiries: Mutex<BTreeSet<(u64, SmallBytes)>>,
    /// Numbers of keys by type.
    keys: [AtomicUsize; Type::COUNT],
    /// Heap bytes of tables, keys and values, without the expiries.
    bytes: AtomicUsize,
    /// Number of keys that expire.
    expiring: AtomicUsize,
}

impl Part {
    /// Returns a part without keys, whose stripes share the group `empty`.
    pub(super) fn new(empty: &Arc<Group>) -> Self {
        Self {
            stripes: (0..STRIPES_PER_PART).map(|_| Stripe::new(Arc::clone(empty))).collect(),
            expiries: Mutex::default(),
            keys: std::array::from_fn(|_| AtomicUsize::new(0)),
            bytes: AtomicUsize::new(0),
            expiring: AtomicUsize::new(0),
        }
    }

    /// Returns the number of keys of a type.
    #[must_use]
    pub fn len_of(&self, of: Type) -> usize {
        self.keys[of as usize].load(Ordering::Relaxed)
    }

    /// Returns the number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.iter().map(|keys| keys.load(Ordering::Relaxed)).sum()
    }

    /// Reports whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of keys that expire.
    #[must_use]
    pub fn expiring(&self) -> usize {
        self.expiring.load(Ordering::Relaxed)
    }

    /// Returns the heap bytes of keys, values, tables and expiries; O(1). Memory that only cuts hold is not counted.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed) + self.expiring() * EXPIRY_BYTES
    }

    pub(super) fn stripe(&self, key: Hashed<'_>) -> &Stripe {
        &self.stripes[key.shard() / SHARDS_PER_GROUP % STRIPES_PER_PART]
    }

    pub(super) fn stripes(&self) -> &[Stripe] {
        &self.stripes
    }

    /// Returns the slot of a key, expired or not.
    #[must_use]
    #[inline]
    pub fn get(&self, key: Hashed<'_>) -> Option<SlotGuard<'_>> {
        self.stripe(key).get(key)
    }

    /// Returns what a reader sees of a key while the hidden change `open` is under way; see [`Stripe::seen`].
    #[inline]
    pub(super) fn seen(
        &self,
        key: Hashed<'_>,
        open: impl FnOnce() -> Option<NonZeroU64>,
    ) -> (Option<SlotGuard<'_>>, Csn) {
        self.stripe(key).seen(key, open)
    }

    /// Changes the slot of a key; `None` if there is no such key. The key must stay as it is.
    #[inline]
    pub fn update<R>(&self, key: Hashed<'_>, of: Change, change: impl FnOnce(&mut Slot) -> R) -> Option<R> {
        let changed = self.stripe(key).change(key, of, |group| {
            let slot = group.get_mut(key)?;
            let before = (slot.memory_bytes(), slot.expire_ms(), slot.value_type());
            let result = change(slot);
            Some((result, before, (slot.memory_bytes(), slot.expire_ms(), slot.value_type())))
        });
        let (result, before, after) = changed?;
        self.count(before.0, after.0);
        if before.1 != after.1 {
            self.index_expiry(key.key(), before.1, after.1);
        }
        if before.2 != after.2 {
            self.keys[before.2 as usize].fetch_sub(1, Ordering::Relaxed);
            self.keys[after.2 as usize].fetch_add(1, Ordering::Relaxed);
        }
        Some(result)
    }

    /// Sets the slot of a key, whether or not the key exists.
    pub fn insert(&self, key: Hashed<'_>, slot: Slot, of: Change) {
        debug_assert_eq!(slot.key(), key.key());
        let after = (slot.memory_bytes(), slot.expire_ms(), slot.value_type());
        let former = self.stripe(key).change(key, of, |group| match group.get_mut(key) {
            Some(there) => Ok(std::mem::replace(there, slot)),
            None => Err(group.add(key, slot)),
        });
        self.keys[after.2 as usize].fetch_add(1, Ordering::Relaxed);
        match former {
            Ok(former) => {
                self.keys[former.value_type() as usize].fetch_sub(1, Ordering::Relaxed);
                self.count(former.memory_bytes(), after.0);
                self.index_expiry(key.key(), former.expire_ms(), after.1);
                former.dispose();
            }
            Err(grown) => {
                self.count(0, after.0 + grown);
                self.index_expiry(key.key(), 0, after.1);
            }
        }
    }

    /// Adds a slot if the key does not exist; false if it does.
    pub fn insert_new(&self, key: Hashed<'_>, slot: Slot, of: Change) -> bool {
        let (bytes, expire_ms, of_type) = (slot.memory_bytes(), slot.expire_ms(), slot.value_type());
        let grown = self.stripe(key).change(key, of, |group| group.get(key).is_none().then(|| group.add(key, slot)));
        let Some(grown) = grown else { return false };
        self.keys[of_type as usize].fetch_add(1, Ordering::Relaxed);
        self.count(0, bytes + grown);
        self.index_expiry(key.key(), 0, expire_ms);
        true
    }

    /// Removes a key and returns its slot. For dropping a large value see [`Part::delete`].
    pub fn remove(&self, key: Hashed<'_>, of: Change) -> Option<Slot> {
        let (slot, freed) = self.stripe(key).change(key, of, |group| group.remove(key))?;
        self.keys[slot.value_type() as usize].fetch_sub(1, Ordering::Relaxed);
        self.count(slot.memory_bytes() + freed, 0);
        self.index_expiry(key.key(), slot.expire_ms(), 0);
        Some(slot)
    }

    /// Removes a key and drops its value, a large value on another thread; false if there is no such key.
    pub fn delete(&self, key: Hashed<'_>, of: Change) -> bool {
        let Some(slot) = self.remove(key, of) else { return false };
        slot.dispose();
        true
    }

    /// Removes all keys; the stripes then share the group `empty`.
    pub(super) fn clear(&self, empty: &Arc<Group>, of: Change) {
        let bytes = self.memory_bytes();
        let groups: Vec<_> = self.stripes.iter().map(|stripe| stripe.replace(Arc::clone(empty), of)).collect();
        let expiries = std::mem::take(&mut *self.expiries.lock());
        reclaim::dispose((groups, expiries), bytes);
        self.keys.iter().for_each(|keys| keys.store(0, Ordering::Relaxed));
        self.bytes.store(0, Ordering::Relaxed);
        self.expiring.store(0, Ordering::Relaxed);
    }

    /// Puts back what a stripe had before a hidden change.
    pub(super) fn put_back(&self, stripe: usize, former: Former, of: Change) {
        if let Some(all) = former.all {
            let gone = self.stripes[stripe].replace(Arc::clone(&all), of);
            self.recount(&gone, false);
            self.recount(&all, true);
        }
        for (key, slot) in former.slots {
            let key = Hashed::of(&key);
            match slot {
                Some(slot) => self.insert(key, slot, of),
                None => drop(self.delete(key, of)),
            }
        }
    }

    /// Adds the keys of a group to the counters and expiries, or subtracts them.
    fn recount(&self, group: &Group, adds: bool) {
        let tables = group.table_bytes();
        self.count(if adds { 0 } else { tables }, if adds { tables } else { 0 });
        for slot in group.slots() {
            let (keys, bytes) = (&self.keys[slot.value_type() as usize], slot.memory_bytes());
            if adds {
                keys.fetch_add(1, Ordering::Relaxed);
                self.count(0, bytes);
                self.index_expiry(slot.key(), 0, slot.expire_ms());
            } else {
                keys.fetch_sub(1, Ordering::Relaxed);
                self.count(bytes, 0);
                self.index_expiry(slot.key(), slot.expire_ms(), 0);
            }
        }
    }

    fn count(&self, before: usize, after: usize) {
        if before < after {
            self.bytes.fetch_add(after - before, Ordering::Relaxed);
        } else if after < before {
            self.bytes.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    fn index_expiry(&self, key: &[u8], before_ms: u64, after_ms: u64) {
        if before_ms == after_ms {
            return;
        }
        let mut expiries = self.expiries.lock();
        let mut indexed = (before_ms, SmallBytes::from(key));
        if before_ms != 0 {
            expiries.remove(&indexed);
        }
        if after_ms != 0 {
            indexed.0 = after_ms;
            expiries.insert(indexed);
        }
        self.expiring.store(expiries.len(), Ordering::Relaxed);
    }

    /// Returns up to `limit` expiries that are not after `now_ms`, with their keys, the earliest first.
    pub(super) fn expired(&self, now_ms: u64, limit: usize) -> Vec<(u64, SmallBytes)> {
        if self.expiring() == 0 {
            return Vec::new();
        }
        self.expiries.lock().iter().take_while(|(at, _)| *at <= now_ms).take(limit).cloned().collect()
    }
}

#[cfg(test)]
impl Part {
    /// Panics if a counter or the index of expiries differs from a recount.
    pub fn check(&self) {
        let groups: Vec<_> = self.stripes.iter().map(Stripe::group).collect();
        let slots = || groups.iter().flat_map(|group| group.slots());
        let tables: usize = groups.iter().map(|group| group.table_bytes()).sum();
        assert_eq!(self.bytes.load(Ordering::Relaxed), tables + slots().map(Slot::memory_bytes).sum::<usize>());
        assert_eq!(self.len(), slots().count());
        for of in Type::ALL {
            assert_eq!(self.len_of(of), slots().filter(|slot| slot.value_type() == of).count());
        }
        let expiring: BTreeSet<_> = slots()
            .filter(|slot| slot.expire_ms() != 0)
            .map(|slot| (slot.expire_ms(), SmallBytes::from(slot.key())))
            .collect();
        assert_eq!(*self.expiries.lock(), expiring);
        assert_eq!(self.expiring(), expiring.len());
    }
}
