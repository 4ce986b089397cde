//! Moves: the part of the keyspace that changes the home of a key.
//!
//! Guarantees: a move is an effect of the commit that is being made, whole in both homes; value, expiry and watchers
//! stay. Only values up to [`MOVED_BYTES_MAX`] move, strings up to [`MOVED_STRING_BYTES_MAX`], so that
//! a move holds the writer lock for a short time. Non-goal:
//! choosing what to move (see `commit::mover`).

use super::batch::Family;
use super::found::{Found, StringValue};
use super::key;
use super::keyspace::{Access, Keyspace};
use super::memory::{Element, Slot, Type};
use super::meta::{self, Collection, DiskType, Home};
use std::sync::atomic::Ordering;

/// Largest number of bytes of a hash or set that moves: each element becomes a row.
pub const MOVED_BYTES_MAX: usize = 64 << 10;
/// Largest number of bytes of a string that moves.
pub const MOVED_STRING_BYTES_MAX: usize = 1 << 20;

/// Reports whether a key in memory can move to disk.
#[must_use]
pub fn can_move_to_disk(slot: &Slot) -> bool {
    let bytes_max = match slot.value_type() {
        Type::String => MOVED_STRING_BYTES_MAX,
        Type::Hash | Type::Set => MOVED_BYTES_MAX,
        Type::List | Type::Zset => 0,
    };
    slot.memory_bytes() <= bytes_max
}

impl Keyspace<'_> {
    /// Moves a key to disk. Returns the bytes that it had in memory; `None` if the key is not in memory, has expired, or
    /// cannot move.
    pub fn move_to_disk(&mut self, key: &[u8]) -> Access<Option<usize>> {
        let slot = self.memory().get(key).map(|slot| Slot::clone(&slot));
        let Some(slot) = slot.filter(|slot| can_move_to_disk(slot) && !self.is_expired(slot.expire_ms())) else {
            return Ok(None);
        };
        let (bytes, expire_ms) = (slot.memory_bytes(), slot.expire_ms());
        self.change_unnoticed(|ops| ops.delete(key))?;
        let row = if slot.as_string().is_some() {
            meta::encode_string(&StringValue::Memory(slot).bytes(), expire_ms)
        } else {
            let kind = if slot.value_type() == Type::Hash { DiskType::Hash } else { DiskType::Set };
            let mut collection = Collection { expire_ms, ..Collection::new(kind, self.new_generation()) };
            let mut put = |element: Element<'_>| {
                collection.count += 1;
                element.with(|(name, value)| {
                    self.held().effects.put(Family::Sub, &key::sub(key, collection.generation, name), value);
                });
            };
            match (slot.as_hash(), slot.as_set()) {
                (Some(hash), _) => hash.iter_from(0).for_each(&mut put),
                (_, Some(set)) => set.iter_from(0).for_each(&mut put),
                _ => unreachable!("the other types were asked about"),
            }
            collection.encode()
        };
        self.held().effects.put(Family::Default, &key::meta(key), &row);
        self.note_expiry(key, expire_ms, None);
        Ok(Some(bytes))
    }

    /// Moves a key to memory. Returns the bytes that it has in memory; `None` if the key is not on disk, has expired, or
    /// cannot move.
    pub fn move_to_memory(&mut self, key: &[u8]) -> Access<Option<usize>> {
        let found = self.look_on_disk(key)?;
        if found.is_absent() || self.is_expired(found.expire_ms()) {
            return Ok(None);
        }
        let expire_ms = found.expire_ms();
        match &found {
            Found::String(value) if value.len() <= MOVED_STRING_BYTES_MAX => {
                self.change_unnoticed(|ops| ops.set_string(key, expire_ms, &value.bytes()))?;
            }
            Found::Collection(collection) if collection.kind != DiskType::Stream => {
                let Some(elements) = self.all_elements(key, collection)? else { return Ok(None) };
                self.change_unnoticed(|ops| {
                    match collection.kind {
                        DiskType::Set => ops.add_members(key, elements.iter().map(|(member, _)| &member[..])),
                        _ => ops.put_fields(key, elements.iter().map(|(field, value)| (&field[..], &value[..]))),
                    }
                    if expire_ms != 0 {
                        ops.expire(key, expire_ms);
                    }
                })?;
            }
            _ => return Ok(None),
        }
        self.delete_on_disk(key)?;
        self.forget_expiry(key, expire_ms);
        self.memory().arrivals().note(key);
        let slot = self.memory().get(key);
        if let Some(slot) = &slot {
            let tracker = self.memory().tracker();
            slot.touch().store(tracker.state_of(tracker.count_on_disk(key)), Ordering::Relaxed);
        }
        Ok(slot.map(|slot| slot.memory_bytes()))
    }

    /// Returns names and values of all elements; `None` if they take more than [`MOVED_BYTES_MAX`].
    #[expect(clippy::type_complexity, reason = "names and values")]
    fn all_elements(&self, key: &[u8], collection: &Collection) -> Access<Option<Vec<(Vec<u8>, Vec<u8>)>>> {
        if collection.count as usize > MOVED_BYTES_MAX {
            return Ok(None);
        }
        let (mut elements, mut bytes) = (Vec::new(), 0);
        self.walk_on_disk(key, collection, b"", |name, value| {
            bytes += name.len() + value.len();
            elements.push((name.to_vec(), value.to_vec()));
            bytes <= MOVED_BYTES_MAX
        })?;
        Ok((bytes <= MOVED_BYTES_MAX && !elements.is_empty()).then_some(elements))
    }

    /// Moves a key by hand. Returns whether the key is at its new home.
    pub fn move_key(&mut self, key: &[u8], to: Home) -> Access<bool> {
        Ok(match to {
            Home::Memory => self.move_to_memory(key)?.is_some(),
            Home::Disk => self.move_to_disk(key)?.is_some(),
        })
    }
}
