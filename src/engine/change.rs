//! The part of the keyspace that changes keys. Every call needs the writer lock.

use super::batch::Family;
use super::effects::Overlaid;
use super::found::{Found, StringValue};
use super::key::{self, Generation};
use super::keyspace::{Access, AccessError, Keyspace};
use super::memory::{Change, Encoder, Ops, Type};
use super::meta::{self, Collection, DiskType, Home, Meta};
use crate::config::RoutingPolicy;

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

    /// Returns the generation of a collection that this commit creates on disk.
    #[must_use]
    pub fn new_generation(&mut self) -> Generation {
        Generation(self.held().csn.0)
    }

    /// Returns an empty hash or set at its home, not stored yet. `bytes` is about what its first elements take.
    #[must_use]
    pub fn new_collection(&mut self, kind: DiskType, bytes: usize) -> Collection {
        match self.held().routing.home_of_new(bytes) {
            Home::Memory => Collection::in_memory(kind, 0, 0),
            Home::Disk => Collection::new(kind, self.new_generation()),
        }
    }

    /// Deletes a key that holds `found`, with its entry of the expiry index.
    pub fn delete(&mut self, key: &[u8], found: &Found) -> Access<()> {
        self.delete_value(key, found)?;
        if found.home() == Some(Home::Disk) {
            self.forget_expiry(key, found.expire_ms());
        }
        Ok(())
    }

    /// Deletes the value of a key that holds `found`. The entry of a disk key in the expiry index stays.
    pub(super) fn delete_value(&mut self, key: &[u8], found: &Found) -> Access<()> {
        match found.home() {
            None => return Ok(()),
            Some(Home::Memory) => self.change_in_memory(key, |ops| ops.delete(key))?,
            Some(Home::Disk) => self.delete_on_disk(key)?,
        }
        self.touch(key);
        Ok(())
    }

    pub(super) fn delete_on_disk(&mut self, key: &[u8]) -> Access<()> {
        self.drop_young_elements(key)?;
        self.held().effects.delete(Family::Default, &key::meta(key));
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

    /// Makes a key a string, whatever the key held before. `expire_ms` is in ms since the Unix epoch; 0: never.
    pub fn put_string(&mut self, key: &[u8], value: &[u8], expire_ms: u64) -> Access<()> {
        // Checked first, so that nothing is deleted for a string that does not fit.
        self.require_room(key.len() + value.len())?;
        let there = self.memory().get(key).map(|slot| slot.value_type());
        match there {
            // A string stays where it is; in place of another type, it begins anew.
            Some(of) if of == Type::String || self.held().routing.home_of_new(value.len()) == Home::Memory => {
                return self.change_in_memory(key, |ops| ops.set_string(key, expire_ms, value));
            }
            Some(_) => self.change_in_memory(key, |ops| ops.delete(key))?,
            None => {}
        }
        if self.held().routing.policy == RoutingPolicy::Access {
            let is_absent = self.look_on_disk(key)?.is_absent();
            if is_absent && self.held().routing.home_of_new(value.len()) == Home::Memory {
                return self.change_in_memory(key, |ops| ops.set_string(key, expire_ms, value));
            }
            if !is_absent {
                self.memory().tracker().note_on_disk(key);
            }
        }
        self.put_string_on_disk(key, value, expire_ms, None)
    }

    /// Stores a string on disk. The key must not be in memory. `before_ms` is the key's expiry on disk before this
    /// commit, 0: never; `None` if the caller did not read the key.
    pub(super) fn put_string_on_disk(
        &mut self,
        key: &[u8],
        value: &[u8],
        expire_ms: u64,
        before_ms: Option<u64>,
    ) -> Access<()> {
        self.drop_young_elements(key)?;
        self.held().effects.put(Family::Default, &key::meta(key), &meta::encode_string(value, expire_ms));
        self.note_expiry(key, expire_ms, before_ms);
        self.touch(key);
        Ok(())
    }

    /// Replaces the bytes of a string that was found at the key; its expiry stays. `found` is consumed, because a value
    /// that is not shared is changed in place.
    pub fn replace_string(&mut self, key: &[u8], found: StringValue, value: &[u8]) -> Access<()> {
        let (home, expire_ms) = (found.home(), found.expire_ms());
        drop(found);
        self.require_room(key.len() + value.len())?;
        match home {
            Home::Memory => self.change_in_memory(key, |ops| ops.replace_string(key, value)),
            Home::Disk => self.put_string_on_disk(key, value, expire_ms, Some(expire_ms)),
        }
    }

    /// Writes bytes at a position of a string that was found at the key; a gap behind its end is filled with zeros. Its
    /// expiry stays.
    pub fn write_string(&mut self, key: &[u8], found: StringValue, position: usize, bytes: &[u8]) -> Access<()> {
        if found.home() == Home::Memory {
            let is_at_end = position == found.len();
            drop(found);
            return self.change_in_memory(key, |ops| {
                if is_at_end {
                    ops.append(key, bytes);
                } else {
                    ops.write(key, position as u64, bytes);
                }
            });
        }
        let end = position + bytes.len();
        let mut value = Vec::with_capacity(found.len().max(end));
        value.extend_from_slice(&found.bytes());
        value.resize(found.len().max(end), 0);
        value[position..end].copy_from_slice(bytes);
        self.replace_string(key, found, &value)
    }

    /// Stores a collection's metadata. The key must be absent or hold that collection. A count of 0 deletes the key,
    /// except for a stream, which may be empty.
    pub fn put_collection(&mut self, key: &[u8], collection: &Collection) -> Access<()> {
        if collection.home == Home::Memory {
            // The ops on the elements have created or deleted the key.
            self.touch(key);
            return Ok(());
        }
        if collection.count == 0 && collection.kind != DiskType::Stream {
            return self.delete(key, &Found::Collection(*collection));
        }
        self.held().effects.put(Family::Default, &key::meta(key), &collection.encode());
        self.touch(key);
        Ok(())
    }

    /// Records ops on a key in memory and applies them. The ops must fit what the key holds.
    pub fn change_in_memory(&mut self, key: &[u8], encode: impl FnOnce(&mut Encoder<'_>)) -> Access<()> {
        self.change_unnoticed(encode)?;
        self.touch(key);
        Ok(())
    }

    /// Does what [`Keyspace::change_in_memory`] does, and marks no watchers.
    pub(super) fn change_unnoticed(&mut self, encode: impl FnOnce(&mut Encoder<'_>)) -> Access<()> {
        let memory = self.memory();
        let held = self.held();
        let before = held.effects.extent();
        encode(&mut Encoder::new(&mut held.effects.memory));
        if !held.effects.takes_ops(before) {
            return Err(AccessError::TooLarge);
        }
        let of = Change { csn: held.csn, hidden: held.hidden };
        Ops::new(&held.effects.memory[before.memory..]).try_for_each(|op| op?.apply(memory, of))?;
        Ok(())
    }

    /// Sets when a key that holds `found` expires, in ms since the Unix epoch; 0: never.
    pub fn set_expire(&mut self, key: &[u8], found: &Found, expire_ms: u64) -> Access<()> {
        if found.home() == Some(Home::Memory) {
            return self.change_in_memory(key, |ops| ops.expire(key, expire_ms));
        }
        match found {
            Found::Absent | Found::List(_) | Found::Zset(_) => return Ok(()),
            Found::String(value) => {
                self.require_room(key.len() + value.len())?;
                self.put_string_on_disk(key, &value.bytes(), expire_ms, Some(value.expire_ms()))?;
            }
            Found::Collection(collection) => {
                self.put_collection(key, &Collection { expire_ms, ..*collection })?;
                self.note_expiry(key, expire_ms, Some(collection.expire_ms));
            }
        }
        if expire_ms == 0 {
            self.forget_expiry(key, found.expire_ms());
        }
        self.touch(key);
        Ok(())
    }
}
