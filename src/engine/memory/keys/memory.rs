//! All keys in memory.
//!
//! Readers need no writer lock. One thread at a time changes the keys: the holder of the writer lock, or the
//! threads of a replay, each in its own parts. A change of one key is seen at once. Changes of several keys that belong
//! together are hidden until they are published together; hidden changes can be taken back.
//!
//! Guarantees: a reader that saw one key of a published change sees all of it. `memory_bytes` is exact up to the
//! allocator's rounding, at any time, in O(1). Large values are dropped on another thread than the writer's. Non-goal:
//! hiding expired keys (the caller knows the time).

use super::cut::MemoryCut;
use super::part::{PARTS, Part, STRIPES_PER_PART};
use super::shard::{Group, Hashed, SHARDS, SHARDS_PER_GROUP};
use super::stripe::{Change, SlotGuard, Stripe};
use crate::csn::Csn;
use crate::engine::arrivals::Arrivals;
use crate::engine::memory::slot::{Slot, Type};
use crate::engine::memory::small_bytes::SmallBytes;
use crate::engine::tracker::Tracker;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Number of keys that are fetched together: a little more than a CPU can fetch at once.
const FETCHED_TOGETHER: usize = 16;

/// What a reader without the writer lock sees of a key.
pub struct Seen<'a> {
    /// The key's slot; `None`: the key is not in memory.
    pub slot: Option<SlotGuard<'a>>,
    /// The answer contains changes of commits up to this one at most.
    pub csn: Csn,
}

/// Keys and their values.
pub struct Memory {
    parts: [Part; PARTS],
    /// The group that all stripes without keys share.
    empty: Arc<Group>,
    /// Number of the hidden change that is under way; 0: none.
    open: AtomicU64,
    tracker: Tracker,
    arrivals: Arrivals,
    /// State of the thread that changes the keys.
    hiding: Mutex<Hiding>,
}

#[derive(Default)]
struct Hiding {
    /// Number of the newest hidden change.
    last: u64,
    /// The commit that made the hidden change, once its command has ended.
    ended: Option<Csn>,
    /// Stripes that the hidden change has touched, by number among all stripes.
    touched: BTreeSet<u16>,
}

impl Default for Memory {
    fn default() -> Self {
        let empty = Arc::default();
        let parts = std::array::from_fn(|_| Part::new(&empty));
        Self {
            parts,
            empty,
            open: AtomicU64::new(0),
            tracker: Tracker::default(),
            arrivals: Arrivals::default(),
            hiding: Mutex::default(),
        }
    }
}

impl Memory {
    /// Returns a memory home without keys.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the tracker of accesses, in either home.
    #[must_use]
    pub fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// Returns the keys that moved to memory lately.
    #[must_use]
    pub fn arrivals(&self) -> &Arrivals {
        &self.arrivals
    }

    /// Returns the number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.iter().map(Part::len).sum()
    }

    /// Returns the number of keys of a type.
    #[must_use]
    pub fn len_of(&self, of: Type) -> usize {
        self.parts.iter().map(|part| part.len_of(of)).sum()
    }

    /// Returns the number of keys that expire.
    #[must_use]
    pub fn expiring(&self) -> usize {
        self.parts.iter().map(Part::expiring).sum()
    }

    /// Reports whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(Part::is_empty)
    }

    /// Returns the heap bytes of keys, values, tables and expiries; O(1). Memory that only cuts hold is not counted.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.parts.iter().map(Part::memory_bytes).sum()
    }

    /// Returns all parts, by number.
    pub fn parts(&self) -> &[Part; PARTS] {
        &self.parts
    }

    /// Returns the part to which a key belongs, whether or not the key exists.
    #[must_use]
    #[inline]
    pub fn part_of(&self, key: Hashed<'_>) -> &Part {
        &self.parts[Self::part_number(key)]
    }

    /// Returns the number of the part to which a key belongs.
    #[must_use]
    #[inline]
    pub fn part_number(key: Hashed<'_>) -> usize {
        key.shard() / (SHARDS / PARTS)
    }

    /// Returns the slot of a key, expired or not, for the thread that changes the keys.
    #[must_use]
    #[inline]
    pub fn get(&self, key: &[u8]) -> Option<SlotGuard<'_>> {
        let key = Hashed::of(key);
        self.part_of(key).get(key)
    }

    /// Returns what a reader without the writer lock sees of a key.
    #[must_use]
    #[inline]
    pub fn seen(&self, key: &[u8]) -> Seen<'_> {
        let key = Hashed::of(key);
        let open = || NonZeroU64::new(self.open.load(Ordering::Acquire));
        let (slot, csn) = self.part_of(key).seen(key, open);
        Seen { slot, csn }
    }

    /// Brings the slots of keys that are about to be read into the CPU's caches, several at the same time.
    pub fn fetch<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) {
        let mut keys = keys.map(Hashed::of);
        let (mut wanted, mut held) = (Vec::new(), Vec::new());
        loop {
            wanted.clear();
            wanted.extend(keys.by_ref().take(FETCHED_TOGETHER));
            if wanted.len() < 2 {
                return;
            }
            // All locks are taken before the first lookup, because taking a lock waits for the lookups before it.
            held.extend(wanted.iter().map(|key| self.part_of(*key).stripe(*key).hold()));
            for (content, key) in held.iter().zip(&wanted) {
                std::hint::black_box(content.as_ref().and_then(|content| content.find(*key)).is_some());
            }
            held.clear();
        }
    }

    /// Calls `with` with what a reader without the writer lock sees of each key, all at one moment. Returns the newest
    /// commit that may have changed the answers.
    pub fn seen_together<'k>(&self, keys: impl Iterator<Item = &'k [u8]>, mut with: impl FnMut(Option<&Slot>)) -> Csn {
        let keys: Vec<_> = keys.map(Hashed::of).collect();
        let held: Vec<_> = keys.iter().map(|key| self.part_of(*key).stripe(*key).hold_again()).collect();
        // Read while all stripes are held: their hidden changes cannot have been made after this.
        let open = NonZeroU64::new(self.open.load(Ordering::Acquire));
        let mut newest = Csn::ZERO;
        for (content, key) in held.iter().zip(&keys) {
            newest = newest.max(content.changed_as_seen(open));
            with(content.visible(*key, open));
        }
        newest
    }

    /// Changes the slot of a key; `None` if there is no such key. The key must stay as it is.
    pub fn update<R>(&self, key: &[u8], of: Change, change: impl FnOnce(&mut Slot) -> R) -> Option<R> {
        let key = self.touched(key, of);
        self.part_of(key).update(key, of, change)
    }

    /// Sets a slot, whether or not its key exists.
    pub fn insert(&self, slot: Slot, of: Change) {
        let name = SmallBytes::from(slot.key());
        let key = self.touched(&name, of);
        self.part_of(key).insert(key, slot, of);
    }

    /// Sets a slot if its key does not exist; false if it does. Several threads may add keys in this way at the same
    /// time.
    pub fn insert_new(&self, slot: Slot, of: Change) -> bool {
        let name = SmallBytes::from(slot.key());
        let key = self.touched(&name, of);
        self.part_of(key).insert_new(key, slot, of)
    }

    /// Removes a key and returns its slot.
    pub fn remove(&self, key: &[u8], of: Change) -> Option<Slot> {
        let key = self.touched(key, of);
        self.part_of(key).remove(key, of)
    }

    /// Removes a key and drops its value, a large value on another thread; false if there is no such key.
    pub fn delete(&self, key: &[u8], of: Change) -> bool {
        let key = self.touched(key, of);
        self.part_of(key).delete(key, of)
    }

    /// Removes all keys.
    pub fn clear(&self, of: Change) {
        if of.hidden.is_some() {
            self.hiding.lock().touched.extend(0..(SHARDS / SHARDS_PER_GROUP) as u16);
        }
        self.parts.iter().for_each(|part| part.clear(&self.empty, of));
    }

    /// Removes the keys of one part.
    pub(in crate::engine::memory) fn clear_part(&self, part: usize, of: Change) {
        self.parts[part].clear(&self.empty, of);
    }

    /// Begins a hidden change: until it is published no reader sees changes with this number. The hidden change before
    /// it, if it is still hidden, is published now.
    #[must_use]
    pub fn hide(&self) -> NonZeroU64 {
        self.publish_all();
        let mut hiding = self.hiding.lock();
        hiding.last += 1;
        self.open.store(hiding.last, Ordering::Release);
        NonZeroU64::new(hiding.last).expect("it has just been raised")
    }

    /// Notes that the command ended whose commit makes the hidden change. It stays hidden until
    /// [`Memory::publish_until`], so that no reader waits for the commit to be written.
    pub fn end_hidden(&self, csn: Csn) {
        self.hiding.lock().ended = Some(csn);
    }

    /// Makes the hidden change visible, all of it at one moment, if its commit is not above `written`.
    pub fn publish_until(&self, written: Csn) {
        if self.open.load(Ordering::Acquire) == 0 {
            return;
        }
        if self.hiding.lock().ended.is_some_and(|csn| csn <= written) {
            self.publish_all();
        }
    }

    fn publish_all(&self) {
        let mut hiding = self.hiding.lock();
        hiding.ended = None;
        self.open.store(0, Ordering::Release);
        for stripe in std::mem::take(&mut hiding.touched) {
            self.stripe(stripe).end_hidden();
        }
    }

    /// Takes a hidden change back: all keys are as they were when the change began.
    pub fn take_back(&self, number: NonZeroU64, csn: Csn) {
        let mut hiding = self.hiding.lock();
        hiding.ended = None;
        let touched = std::mem::take(&mut hiding.touched);
        for stripe in &touched {
            let former = self.stripe(*stripe).former(number);
            let part = &self.parts[usize::from(*stripe) / STRIPES_PER_PART];
            part.put_back(usize::from(*stripe) % STRIPES_PER_PART, former, Change { csn, hidden: None });
        }
        // Readers look at what was kept until everything is back.
        self.open.store(0, Ordering::Release);
        touched.iter().for_each(|stripe| self.stripe(*stripe).end_hidden());
    }

    fn stripe(&self, number: u16) -> &Stripe {
        let number = usize::from(number);
        &self.parts[number / STRIPES_PER_PART].stripes()[number % STRIPES_PER_PART]
    }

    /// Hashes a key that is about to be changed in its part.
    pub fn touched<'k>(&self, key: &'k [u8], of: Change) -> Hashed<'k> {
        let key = Hashed::of(key);
        if of.hidden.is_some() {
            self.hiding.lock().touched.insert((key.shard() / SHARDS_PER_GROUP) as u16);
        }
        key
    }

    /// Returns the cursor to continue from (0 at the end), and the slots of whole shards from `cursor` on, until there
    /// are at least `count` slots. A key that exists from the first call to the last one is returned exactly once.
    #[must_use]
    pub fn scan(&self, cursor: u64, count: usize) -> (u64, Vec<Slot>) {
        let mut slots = Vec::new();
        let mut at = usize::try_from(cursor).unwrap_or(SHARDS);
        while at < SHARDS && slots.len() < count.max(1) {
            let group = self.stripe((at / SHARDS_PER_GROUP) as u16).group();
            slots.extend(group.slots_of(at % SHARDS_PER_GROUP).cloned());
            at += 1;
        }
        (if at < SHARDS { at as u64 } else { 0 }, slots)
    }

    /// Calls `visit` with the slots of one shard until `visit` returns false. `number` chooses the shard and the slot to
    /// begin with.
    pub fn visit_shard(&self, number: u64, visit: impl FnMut(&Slot) -> bool) {
        let shard = number as usize % SHARDS;
        let group = self.stripe((shard / SHARDS_PER_GROUP) as u16).group();
        let slots = || group.slots_of(shard % SHARDS_PER_GROUP);
        let begin = (number / SHARDS as u64) as usize % slots().count().max(1);
        let _ = slots().skip(begin).chain(slots().take(begin)).all(visit);
    }

    /// Returns up to `limit` keys whose expiry is not after `now_ms`, the earliest first.
    #[must_use]
    pub fn expired(&self, now_ms: u64, limit: usize) -> Vec<SmallBytes> {
        let mut due: Vec<_> = self.parts.iter().flat_map(|part| part.expired(now_ms, limit)).collect();
        due.sort_unstable();
        due.into_iter().take(limit).map(|(_, key)| key).collect()
    }

    /// Returns a cut of the current content, which another thread may read.
    #[must_use]
    pub fn cut(&self) -> MemoryCut {
        let stripes = self.parts.iter().flat_map(Part::stripes);
        MemoryCut::new(stripes.map(Stripe::group).collect(), self.len())
    }
}

#[cfg(test)]
impl Memory {
    /// Panics if a counter differs from a recount.
    pub fn check(&self) {
        self.parts.iter().for_each(Part::check);
        assert_eq!(self.len(), self.cut().iter().count());
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
