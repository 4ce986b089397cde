//! A group of shards behind a lock of its own, so that readers of one key never wait for the writer lock.
//!
//! Readers see a commit's changes all at once: while a change is hidden, the stripe keeps for each changed key the slot
//! that it had before, and readers get that one.
//!
//! Guarantees: the lock is held for one lookup or one change of one key, never for a commit. Only one thread changes a
//! stripe at a time (the holder of the writer lock, or the thread of a replay that owns the part).

use super::shard::{Group, Hashed};
use crate::csn::Csn;
use crate::engine::hash::hash;
use crate::engine::memory::slot::Slot;
use crate::engine::memory::small_bytes::SmallBytes;
use hashbrown::HashTable;
use parking_lot::{MappedRwLockReadGuard, RwLock, RwLockReadGuard};
use std::num::NonZeroU64;
use std::sync::Arc;

/// The commit under which a change is made.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Number that the commit will have.
    pub csn: Csn,
    /// Number of the hidden change to which this one belongs; `None`: readers see the change at once.
    pub hidden: Option<NonZeroU64>,
}

/// A slot that is being read. No key of the same stripe can be changed meanwhile.
pub type SlotGuard<'a> = MappedRwLockReadGuard<'a, Slot>;

/// What the keys had before a hidden change.
struct Earlier {
    /// Number of the hidden change. Once it is not the open one, this is out of date.
    number: NonZeroU64,
    /// The former slots of the changed keys; `None`: there was no such key.
    slots: HashTable<(SmallBytes, Option<Slot>)>,
    /// The former slots of all keys that are not in `slots`, after all keys were removed.
    all: Option<Arc<Group>>,
}

impl Earlier {
    fn find(&self, key: Hashed<'_>) -> Option<&Option<Slot>> {
        self.slots.find(key.hash(), |(found, _)| **found == *key.key()).map(|(_, slot)| slot)
    }
}

/// The content of a stripe.
pub(super) struct Content {
    group: Arc<Group>,
    /// What a hidden change has changed; `None`: nothing, or it is not hidden any more.
    earlier: Option<Box<Earlier>>,
    /// The newest commit that changed a key of the stripe.
    changed: Csn,
    /// The newest of these commits whose change was not hidden.
    changed_openly: Csn,
}

/// Some of all shards.
pub(super) struct Stripe(RwLock<Content>);

impl Stripe {
    pub(super) fn new(group: Arc<Group>) -> Self {
        Self(RwLock::new(Content { group, earlier: None, changed: Csn(0), changed_openly: Csn(0) }))
    }

    /// Returns the slot of a key, hidden changes included.
    #[inline]
    pub(super) fn get(&self, key: Hashed<'_>) -> Option<SlotGuard<'_>> {
        RwLockReadGuard::try_map(self.0.read(), |content| content.group.get(key)).ok()
    }

    /// Returns the slot of a key without the changes of the hidden change `open`, and the newest commit that changed a
    /// key of the stripe.
    #[inline]
    pub(super) fn seen(
        &self,
        key: Hashed<'_>,
        open: impl FnOnce() -> Option<NonZeroU64>,
    ) -> (Option<SlotGuard<'_>>, Csn) {
        let content = self.0.read();
        // Read under the lock: the stripe's hidden changes cannot have been made after this.
        let open = open();
        let changed = content.changed_as_seen(open);
        (RwLockReadGuard::try_map(content, |content| content.visible(key, open)).ok(), changed)
    }

    /// Holds the content for several lookups; `None` while it is being changed.
    pub(super) fn hold(&self) -> Option<RwLockReadGuard<'_, Content>> {
        self.0.try_read()
    }

    /// Holds the content together with that of other stripes, and perhaps a second time. Only one thread changes stripes,
    /// one at a time, so holding several cannot end in a deadlock.
    pub(super) fn hold_again(&self) -> RwLockReadGuard<'_, Content> {
        self.0.read_recursive()
    }

    /// Calls `change` with the stripe's content, after the former slot of `key` was kept if the change is hidden.
    #[inline]
    pub(super) fn change<R>(&self, key: Hashed<'_>, of: Change, change: impl FnOnce(&mut Group) -> R) -> R {
        let mut content = self.0.write();
        let content = &mut *content;
        content.note_change(of);
        if let Some(number) = of.hidden {
            content.keep(key, number);
        }
        change(Arc::make_mut(&mut content.group))
    }

    /// Replaces all shards.
    pub(super) fn replace(&self, group: Arc<Group>, of: Change) -> Arc<Group> {
        let mut content = self.0.write();
        content.note_change(of);
        let former = std::mem::replace(&mut content.group, group);
        if let Some(number) = of.hidden {
            let earlier = content.earlier_of(number);
            earlier.all.get_or_insert_with(|| Arc::clone(&former));
        }
        former
    }

    /// Returns the slots that the hidden change has changed, as they were before.
    pub(super) fn former(&self, number: NonZeroU64) -> Former {
        let content = self.0.read();
        let earlier = content.earlier.as_ref().filter(|earlier| earlier.number == number);
        earlier.map_or_else(Former::default, |earlier| Former {
            slots: earlier.slots.iter().cloned().collect(),
            all: earlier.all.clone(),
        })
    }

    /// Forgets what was before a hidden change, which has ended.
    pub(super) fn end_hidden(&self) {
        let earlier = self.0.write().earlier.take();
        drop(earlier);
    }

    /// Returns the shards.
    pub(super) fn group(&self) -> Arc<Group> {
        Arc::clone(&self.0.read().group)
    }
}

/// What a stripe had before a hidden change.
#[derive(Default)]
pub(super) struct Former {
    /// The former slots of the changed keys; `None`: there was no such key.
    pub slots: Vec<(SmallBytes, Option<Slot>)>,
    /// The former slots of all keys that are not in `slots`, after all keys were removed.
    pub all: Option<Arc<Group>>,
}

impl Content {
    /// Returns the slot of a key, hidden changes included.
    pub(super) fn find(&self, key: Hashed<'_>) -> Option<&Slot> {
        self.group.get(key)
    }

    /// Returns the newest commit that changed a key of the stripe, without the hidden change `open`.
    pub(super) fn changed_as_seen(&self, open: Option<NonZeroU64>) -> Csn {
        let is_hidden = self.earlier.as_ref().is_some_and(|earlier| Some(earlier.number) == open);
        if is_hidden { self.changed_openly } else { self.changed }
    }

    fn note_change(&mut self, of: Change) {
        self.changed = of.csn;
        if of.hidden.is_none() {
            self.changed_openly = of.csn;
        }
    }

    /// Returns the slot of a key without the changes of the hidden change `open`.
    #[inline]
    pub(super) fn visible(&self, key: Hashed<'_>, open: Option<NonZeroU64>) -> Option<&Slot> {
        if let Some(earlier) = &self.earlier
            && open == Some(earlier.number)
        {
            if let Some(slot) = earlier.find(key) {
                return slot.as_ref();
            }
            if let Some(all) = &earlier.all {
                return all.get(key);
            }
        }
        self.group.get(key)
    }

    fn earlier_of(&mut self, number: NonZeroU64) -> &mut Earlier {
        let earlier = self.earlier.take_if(|earlier| earlier.number == number);
        let new = || Box::new(Earlier { number, slots: HashTable::new(), all: None });
        self.earlier.insert(earlier.unwrap_or_else(new))
    }

    fn keep(&mut self, key: Hashed<'_>, number: NonZeroU64) {
        let group = Arc::clone(&self.group);
        let earlier = self.earlier_of(number);
        if earlier.all.is_none() && earlier.find(key).is_none() {
            let former = (SmallBytes::from(key.key()), group.get(key).cloned());
            earlier.slots.insert_unique(key.hash(), former, |(key, _)| hash(key));
        }
    }
}
