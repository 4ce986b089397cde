//! Which slots may hold keys of the disk engines. A walk over keys skips the slots that are known to be empty, and with
//! them the tombstones that RocksDB has there.
//!
//! Guarantees: a slot that counts as empty holds no key whose commit is settled. A put notes its slot once RocksDB has
//! the put. A walk that finds no key in a slot may call the slot empty, unless the slot was noted after the walk
//! called [`Slots::look`], which precedes the fixing of the walk's state.

use super::key::SLOTS;
use parking_lot::{Mutex, MutexGuard};
use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering, fence};

/// The slot holds no key.
const EMPTY: u8 = 0;
/// The slot may hold keys; a walk is looking at it.
const LOOKED_AT: u8 = 1;
/// The slot may hold keys.
const USED: u8 = 2;

/// The state of each slot.
pub struct Slots {
    states: Vec<AtomicU8>,
    /// Number of slots that may hold keys.
    used: AtomicUsize,
    /// Held by the one walk that may call slots empty.
    looking: Mutex<()>,
}

impl Default for Slots {
    /// Returns the state in which every slot may hold keys.
    fn default() -> Self {
        Self {
            states: (0..SLOTS).map(|_| AtomicU8::new(USED)).collect(),
            used: AtomicUsize::new(usize::from(SLOTS)),
            looking: Mutex::new(()),
        }
    }
}

impl Slots {
    /// Must be called after a batch was written and before the slots of its puts are noted.
    pub fn begin_noting(&self) {
        // Pairs with the fence in `look`: either the walk sees the batch, or the note sees the walk.
        fence(Ordering::SeqCst);
    }

    /// Notes that a key was put into a slot.
    pub fn note(&self, slot: u16) {
        let state = &self.states[usize::from(slot)];
        if state.load(Ordering::Relaxed) != USED && state.swap(USED, Ordering::SeqCst) == EMPTY {
            self.used.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Notes that the database is new: no slot holds a key.
    pub fn begin_empty(&self) {
        self.states.iter().for_each(|state| state.store(EMPTY, Ordering::SeqCst));
        self.used.store(0, Ordering::SeqCst);
    }

    /// Reports whether a slot may hold keys.
    #[must_use]
    pub fn may_have_keys(&self, slot: u16) -> bool {
        self.states[usize::from(slot)].load(Ordering::Acquire) != EMPTY
    }

    /// Reports whether any slot may hold keys.
    #[must_use]
    pub fn may_have_any(&self) -> bool {
        self.used.load(Ordering::Acquire) > 0
    }

    /// Begins a look at slots. The caller must fix the state of the database that it reads after this call. `None`
    /// while another walk holds a [`Look`].
    pub fn look(&self, slots: Range<u16>) -> Option<Look<'_>> {
        let _guard = self.looking.try_lock()?;
        for state in &self.states[usize::from(slots.start)..usize::from(slots.end)] {
            let _ = state.compare_exchange(USED, LOOKED_AT, Ordering::SeqCst, Ordering::SeqCst);
        }
        fence(Ordering::SeqCst);
        Some(Look { slots: self, _guard })
    }
}

/// A look at slots under way; dropping it lets another walk look.
pub struct Look<'s> {
    slots: &'s Slots,
    _guard: MutexGuard<'s, ()>,
}

impl Look<'_> {
    /// Notes that the walk found no key in a slot. The slot counts as empty unless it was noted since the look began.
    pub fn found_empty(&self, slot: u16) {
        let state = &self.slots.states[usize::from(slot)];
        if state.compare_exchange(LOOKED_AT, EMPTY, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.slots.used.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_empty_if_nothing_was_put_since_the_look_began() {
        let slots = Slots::default();
        let look = slots.look(3..6).unwrap();
        assert!(slots.look(0..1).is_none(), "one walk at a time");
        slots.note(4);
        (2..6).for_each(|slot| look.found_empty(slot));
        let used: Vec<u16> = (0..8).filter(|&slot| slots.may_have_keys(slot)).collect();
        assert_eq!(used, [0, 1, 2, 4, 6, 7]);
        drop(look);
        slots.note(3);
        assert!(slots.may_have_keys(3) && !slots.may_have_keys(5));
        assert!(slots.may_have_any());
        slots.begin_empty();
        assert!(!slots.may_have_any());
        slots.note(7);
        assert!(slots.may_have_any());
    }
}
