//! The part of the keyspace that changes keys. Every call needs the writer lock.

use super::batch::Family;
use super::effects::{Extent, Overlaid};
use super::found::Found;
use super::key::{self, Generation, StreamId};
use super::keyspace::{Access, AccessError, Changing, Keyspace};
use super::memory::{ListEncoder, ListOps, ZsetEncoder, ZsetOps};
use super::meta::{self, Collection, DiskType, Meta};

impl Keyspace<'_> {
    /// Returns what a key holds, for a command that is about to write the key: an expired key is deleted as part of the
    /// commit.
    pub fn find_to_change(&mut self, key: &[u8]) -> Access<Found> {
        let found = self.look(key)?;
        if self.is_expired(found.expire_ms()) {
            self.delete(key, &found)?;
            return Ok(Found::Absent);
        }
        Ok(found)
    }

    /// Marks the watchers of a key. Needed for effects that do not change the key's metadata.
    pub fn touch(&mut self, key: &[u8]) {
        self.held().watches.touch(key);
    }

    /// Returns the generation of a collection that this commit creates.
    #[must_use]
    pub fn new_generation(&mut self) -> Generation {
        Generation(self.held().csn.0)
    }

    /// Deletes a key that holds `found`, with its entry of the expiry index.
    pub fn delete(&mut self, key: &[u8], found: &Found) -> Access<()> {
        self.delete_value(key, found)?;
        if matches!(found, Found::String(_) | Found::Collection(_)) {
            self.forget_expiry(key, found.expire_ms());
        }
        Ok(())
    }

    /// Deletes the value of a key that holds `found`. The key's entry of the expiry index stays.
    pub(super) fn delete_value(&mut self, key: &[u8], found: &Found) -> Access<()> {
        match found {
            Found::Absent => return Ok(()),
            Found::List(_) => self.change_list(key, |ops| ops.delete(key))?,
            Found::Zset(_) => self.change_zset(key, |ops| ops.delete(key))?,
            Found::String(_) | Found::Collection(_) => {
                self.drop_young_elements(key)?;
                self.held().effects.delete(Family::Default, &key::meta(key));
            }
        }
        self.touch(key);
        Ok(())
    }

    /// Deletes the elements of a collection that this same commit created, one by one: if the commit creates the
    /// collection a second time, both creations have the same generation, so the generation does not tell their
    /// elements apart.
    fn drop_young_elements(&mut self, key: &[u8]) -> Access<()> {
        let held = self.held();
        let Overlaid::Value(stored) = held.effects.lookup(Family::Default, &key::meta(key)) else { return Ok(()) };
        let generation = Generation(held.csn.0);
        match Meta::decode(stored)? {
            Meta::Collection(collection) if collection.generation == generation => {}
            _ => return Ok(()),
        }
        let range = key::prefix_range(key::element_prefix(key, generation));
        for family in [Family::Sub, Family::Stream] {
            for element in held.effects.present_in_range(family, &range) {
                held.effects.delete(family, &element);
            }
        }
        Ok(())
    }

    /// Deletes a key from the memory engines, if the key is there, because the key is about to live on disk.
    fn leave_memory(&mut self, key: &[u8]) -> Access<()> {
        if self.held().memory.lists.get(key).is_some() {
            self.change_list(key, |ops| ops.delete(key))?;
        }
        if self.held().memory.zsets.get(key).is_some() {
            self.change_zset(key, |ops| ops.delete(key))?;
        }
        Ok(())
    }

    /// Makes a key a string, whatever the key held before. `expire_ms` is in ms since the Unix epoch; 0: never.
    pub fn put_string(&mut self, key: &[u8], value: &[u8], expire_ms: u64) -> Access<()> {
        self.store_string(key, value, expire_ms, None)
    }

    /// Stores a string. `before_ms` is the key's expiry before this commit, 0: never; `None` if the caller did not read
    /// the key.
    fn store_string(&mut self, key: &[u8], value: &[u8], expire_ms: u64, before_ms: Option<u64>) -> Access<()> {
        // Checked first, so that no list or sorted set is deleted for a string that does not fit.
        self.require_room(key.len() + value.len())?;
        self.leave_memory(key)?;
        self.drop_young_elements(key)?;
        self.held().effects.put(Family::Default, &key::meta(key), &meta::encode_string(value, expire_ms));
        self.note_expiry(key, expire_ms, before_ms);
        self.touch(key);
        Ok(())
    }

    /// Stores a collection's metadata. The key must be absent or hold that collection. A count of 0 deletes the key,
    /// except for a stream, which may be empty.
    pub fn put_collection(&mut self, key: &[u8], collection: &Collection) -> Access<()> {
        if collection.count == 0 && collection.kind != DiskType::Stream {
            return self.delete(key, &Found::Collection(*collection));
        }
        self.held().effects.put(Family::Default, &key::meta(key), &collection.encode());
        self.touch(key);
        Ok(())
    }

    /// Sets a hash field or adds a set member (with an empty value).
    pub fn put_element(&mut self, key: &[u8], generation: Generation, field: &[u8], value: &[u8]) {
        self.held().effects.put(Family::Sub, &key::sub(key, generation, field), value);
    }

    /// Deletes a hash field or a set member.
    pub fn delete_element(&mut self, key: &[u8], generation: Generation, field: &[u8]) {
        self.held().effects.delete(Family::Sub, &key::sub(key, generation, field));
    }

    /// Counts elements that are about to be deleted from a collection. Reports whether the remaining elements should be
    /// written anew under a new generation (see [`Wear`]). False for a collection that this commit created, because its
    /// elements would get the same generation.
    pub fn is_worn_by(&mut self, key: &[u8], collection: &Collection, deleted: u64) -> bool {
        let held = self.held();
        let count = collection.count.saturating_sub(deleted);
        held.wear.note(key, collection.generation, deleted, count) && collection.generation != Generation(held.csn.0)
    }

    /// Adds a stream entry.
    pub fn put_entry(&mut self, key: &[u8], generation: Generation, id: StreamId, fields: &[u8]) {
        self.held().effects.put(Family::Stream, &key::stream(key, generation, id), fields);
    }

    /// Deletes a stream entry.
    pub fn delete_entry(&mut self, key: &[u8], generation: Generation, id: StreamId) {
        self.held().effects.delete(Family::Stream, &key::stream(key, generation, id));
    }

    /// Records list ops and applies them. The key must be absent or hold a list.
    pub fn change_list(&mut self, key: &[u8], encode: impl FnOnce(&mut ListEncoder<'_>)) -> Access<()> {
        let held = self.held();
        let before = held.effects.extent();
        encode(&mut ListEncoder::new(&mut held.effects.lists));
        held.require_ops(before)?;
        ListOps::new(&held.effects.lists[before.lists..]).try_for_each(|op| op?.apply(&mut held.memory.lists))?;
        held.watches.touch(key);
        Ok(())
    }

    /// Records sorted set ops and applies them. The key must be absent or hold a sorted set.
    pub fn change_zset(&mut self, key: &[u8], encode: impl FnOnce(&mut ZsetEncoder<'_>)) -> Access<()> {
        let held = self.held();
        let before = held.effects.extent();
        encode(&mut ZsetEncoder::new(&mut held.effects.zsets));
        held.require_ops(before)?;
        ZsetOps::new(&held.effects.zsets[before.zsets..]).try_for_each(|op| op?.apply(&mut held.memory.zsets))?;
        held.watches.touch(key);
        Ok(())
    }

    /// Sets when a key that holds `found` expires, in ms since the Unix epoch; 0: never.
    pub fn set_expire(&mut self, key: &[u8], found: &Found, expire_ms: u64) -> Access<()> {
        match found {
            Found::Absent => return Ok(()),
            Found::List(_) => self.change_list(key, |ops| ops.expire(key, expire_ms))?,
            Found::Zset(_) => self.change_zset(key, |ops| ops.expire(key, expire_ms))?,
            Found::String(value) => self.store_string(key, value, expire_ms, Some(value.expire_ms))?,
            Found::Collection(collection) => {
                self.put_collection(key, &Collection { expire_ms, ..*collection })?;
                self.note_expiry(key, expire_ms, Some(collection.expire_ms));
            }
        }
        if expire_ms == 0 && !matches!(found, Found::List(_) | Found::Zset(_)) {
            self.forget_expiry(key, found.expire_ms());
        }
        self.touch(key);
        Ok(())
    }
}

impl Changing<'_> {
    /// Must be called after memory ops were recorded and before they are applied; `before` is the extent before them.
    /// If the ops exceed the commit's bound, they are removed, and the result is [`AccessError::TooLarge`].
    fn require_ops(&mut self, before: Extent) -> Access<()> {
        if !self.effects.takes_ops(before) {
            return Err(AccessError::TooLarge);
        }
        self.undo.before_change(self.memory);
        Ok(())
    }
}
