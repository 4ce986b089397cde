//! The part of the keyspace that reads and changes the elements of hashes, sets and streams.
//!
//! Guarantees: a walk shows elements in byte order of their names, in either home.

use super::batch::Family;
use super::effects::Overlay;
use super::key::{self, Generation, StreamId};
use super::keyspace::{Access, AccessError, Found, Keyspace};
use super::memory::{Elements, Kind, Slot};
use super::meta::{Collection, DiskType, Home};
use super::row_shard::Value;
use super::scan::{Direction, Scan};
use super::whole::{self, WHOLE_ELEMENTS_MAX};
use crate::error::{Error, Result};
use std::ops::Range;

impl Keyspace<'_> {
    /// Calls `with` with the value of a hash field, or with an empty value for a set member; with `None` if there is no
    /// such element. `with` must not use the keyspace.
    pub fn with_element<R>(
        &self,
        key: &[u8],
        collection: &Collection,
        field: &[u8],
        with: impl FnOnce(Option<&[u8]>) -> R,
    ) -> Access<R> {
        if collection.home == Home::Disk {
            return Ok(with(self.element_on_disk(key, collection, field)?.as_deref()));
        }
        let (slot, _) = self.slot(key)?;
        let Some(slot) = slot.as_deref() else { return self.changed_meanwhile().map(|()| with(None)) };
        match (slot.as_hash(), slot.as_set()) {
            (Some(hash), _) => Ok(with(hash.get(field))),
            (_, Some(set)) => Ok(with(set.get(field))),
            _ => self.changed_meanwhile().map(|()| with(None)),
        }
    }

    /// Does what [`Keyspace::with_element`] does for several elements, all at one moment.
    pub fn with_elements<'n>(
        &self,
        key: &[u8],
        collection: &Collection,
        names: impl ExactSizeIterator<Item = &'n [u8]>,
        mut with: impl FnMut(Option<&[u8]>),
    ) -> Access<()> {
        if collection.home == Home::Disk {
            if names.len() > 1 {
                self.require_lock()?;
            }
            for name in names {
                with(self.element_on_disk(key, collection, name)?.as_deref());
            }
            return Ok(());
        }
        let (slot, _) = self.slot(key)?;
        match slot.as_deref().map(|slot| (slot.as_hash(), slot.as_set())) {
            Some((Some(hash), _)) => names.for_each(|name| with(hash.get(name))),
            Some((_, Some(set))) => names.for_each(|name| with(set.get(name))),
            _ => {
                self.changed_meanwhile()?;
                names.for_each(|_| with(None));
            }
        }
        Ok(())
    }

    /// Reports whether a collection has an element.
    pub fn has_element(&self, key: &[u8], collection: &Collection, field: &[u8]) -> Access<bool> {
        self.with_element(key, collection, field, |value| value.is_some())
    }

    /// Without the lock: a key that was found is gone or has another type, so the command runs again under the lock.
    /// Under the lock: the key was not stored yet.
    fn changed_meanwhile(&self) -> Access<()> {
        self.require_lock()
    }

    fn element_on_disk(&self, key: &[u8], collection: &Collection, field: &[u8]) -> Access<Option<Value>> {
        let stored_key = key::sub(key, collection.generation, field);
        Ok(self.get_or(Family::Sub, &stored_key, || {
            let prefix = &stored_key[..stored_key.len() - field.len()];
            if is_small(collection)
                && let Some(Some(elements)) = self.disk().rows().whole(prefix, self.access())
            {
                return Ok(elements.element(field));
            }
            self.disk().row(Family::Sub, &stored_key, self.access())
        })?)
    }

    /// Calls `visit` with the fields and values of a hash, or with the members of a set, from the name `from`
    /// (inclusive) on, until `visit` returns false. `visit` must not use the keyspace.
    pub fn walk_elements(
        &self,
        key: &[u8],
        collection: &Collection,
        from: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Access<()> {
        if collection.home == Home::Disk {
            return self.walk_on_disk(key, collection, from, visit);
        }
        // The slot is cloned, so that no writer waits for a long walk.
        let slot = self.slot(key)?.0.map(|slot| Slot::clone(&slot));
        match slot.as_ref().map(|slot| (slot.as_hash(), slot.as_set())) {
            Some((Some(hash), _)) => visit_from(&hash, from, visit),
            Some((_, Some(set))) => visit_from(&set, from, &mut visit),
            _ => self.changed_meanwhile()?,
        }
        Ok(())
    }

    /// Returns the members of a set in memory at these ranks, in byte order of the members.
    pub fn members_at(&self, key: &[u8], ranks: impl Iterator<Item = u64>, mut visit: impl FnMut(&[u8])) -> Access<()> {
        let (slot, _) = self.slot(key)?;
        let Some(set) = slot.as_deref().and_then(Slot::as_set) else { return self.changed_meanwhile() };
        ranks.filter_map(|rank| set.at(rank)).for_each(|member| member.with(|(member, _)| visit(member)));
        Ok(())
    }

    pub(super) fn walk_on_disk(
        &self,
        key: &[u8],
        collection: &Collection,
        from: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Access<()> {
        let generation = collection.generation;
        let prefix = key::element_prefix(key, generation);
        if let Some(elements) = self.small(&prefix, collection)? {
            self.require_living(key, generation)?;
            let mut at = whole::seek(&elements, from);
            while let Some((name, value, end)) = whole::element_at(&elements, at) {
                if !visit(name, value) {
                    break;
                }
                at = end;
            }
            return Ok(());
        }
        let range = key::sub(key, generation, from)..key::prefix_range(prefix).end;
        let mut scan = self.scan_of(key, generation, Family::Sub, range, Direction::Forward)?;
        while let Some((stored, value)) = scan.next()? {
            let element = key::parse_element(stored);
            let element = element.ok_or_else(|| Error::corrupt("element key", "start", "does not parse"))?;
            if !visit(element.rest, value) {
                break;
            }
        }
        Ok(())
    }

    /// Returns all elements of a small collection on disk in one buffer (see `whole`); `None` if they may not fit into a
    /// buffer.
    fn small(&self, prefix: &[u8], collection: &Collection) -> Result<Option<Value>> {
        let overlay = self.overlay();
        if !is_small(collection) || overlay.is_some_and(Overlay::is_cleared) {
            return Ok(None);
        }
        let Some(stored) = self.disk().whole(prefix, self.access())? else { return Ok(None) };
        let range = key::prefix_range(prefix.to_vec());
        let laid_over = overlay.map_or_else(Vec::new, |overlay| overlay.in_range(Family::Sub, &range));
        Ok(laid_over.into_iter().try_fold(stored, |elements, (stored_key, value)| {
            whole::changed(&elements, &stored_key[prefix.len()..], value).as_deref().map(Value::from)
        }))
    }

    /// Scans the entries of a stream between two ids, both inclusive. [`entry_id`] returns the id in a scanned key.
    pub fn entries(
        &self,
        key: &[u8],
        generation: Generation,
        ids: Range<StreamId>,
        direction: Direction,
    ) -> Access<Scan<'_>> {
        let mut end = key::stream(key, generation, ids.end);
        end.push(0);
        self.scan_of(key, generation, Family::Stream, key::stream(key, generation, ids.start)..end, direction)
    }

    /// Returns the stored fields of a stream entry.
    pub fn entry(&self, key: &[u8], generation: Generation, id: StreamId) -> Access<Option<Value>> {
        Ok(self.get(Family::Stream, &key::stream(key, generation, id))?)
    }

    /// Scans the elements of one creation of a collection. Without the lock, the collection may be deleted and its
    /// elements compacted away after its metadata was read and before the scan fixes its state. So the scan is returned
    /// only if the collection has the same generation after the scan fixed its state; else the result is
    /// [`AccessError::NeedsLock`].
    fn scan_of(
        &self,
        key: &[u8],
        generation: Generation,
        family: Family,
        range: Range<Vec<u8>>,
        direction: Direction,
    ) -> Access<Scan<'_>> {
        let scan = Scan::new(self.disk(), self.overlay(), family, range, direction);
        self.require_living(key, generation)?;
        Ok(scan)
    }

    fn require_living(&self, key: &[u8], generation: Generation) -> Access<()> {
        if self.require_lock().is_ok() {
            return Ok(());
        }
        match self.look(key)? {
            Found::Collection(collection) if collection.generation == generation => Ok(()),
            _ => Err(AccessError::NeedsLock),
        }
    }

    // ---- changing ----

    /// Sets hash fields, or adds set members (with empty values). There must be at least one. The caller stores the
    /// changed collection afterwards.
    pub fn put_elements<'e>(
        &mut self,
        key: &[u8],
        collection: &Collection,
        elements: impl ExactSizeIterator<Item = (&'e [u8], &'e [u8])>,
    ) -> Access<()> {
        if collection.home == Home::Memory {
            return self.change_in_memory(key, |ops| match collection.kind {
                DiskType::Set => ops.add_members(key, elements.map(|(member, _)| member)),
                _ => ops.put_fields(key, elements),
            });
        }
        for (name, value) in elements {
            self.held().effects.put(Family::Sub, &key::sub(key, collection.generation, name), value);
        }
        Ok(())
    }

    /// Deletes hash fields or set members, all of which must exist. There must be at least one. The caller stores the
    /// changed collection afterwards.
    pub fn delete_elements<'e>(
        &mut self,
        key: &[u8],
        collection: &Collection,
        names: impl ExactSizeIterator<Item = &'e [u8]>,
    ) -> Access<()> {
        if collection.home == Home::Memory {
            return self.change_in_memory(key, |ops| match collection.kind {
                DiskType::Set => ops.remove_members(key, names),
                _ => ops.remove_fields(key, names),
            });
        }
        for name in names {
            self.held().effects.delete(Family::Sub, &key::sub(key, collection.generation, name));
        }
        Ok(())
    }

    /// Counts elements that are about to be deleted from a collection. Reports whether the remaining elements should be
    /// written anew under a new generation (see [`super::wear::Wear`]). False for a collection in memory, and for one
    /// that this commit created, because its elements would get the same generation.
    pub fn is_worn_by(&mut self, key: &[u8], collection: &Collection, deleted: u64) -> bool {
        if collection.home == Home::Memory {
            return false;
        }
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
}

fn visit_from<K: Kind>(elements: &Elements<'_, K>, from: &[u8], mut visit: impl FnMut(&[u8], &[u8]) -> bool) {
    let first = if from.is_empty() { 0 } else { elements.rank(from) };
    let _ = elements.iter_from(first).all(|element| element.with(|(name, value)| visit(name, value)));
}

fn is_small(collection: &Collection) -> bool {
    collection.count <= WHOLE_ELEMENTS_MAX
}

/// Returns the id in a key that [`Keyspace::entries`] scanned.
pub fn entry_id(scanned: &[u8]) -> Result<StreamId> {
    let id = key::parse_element(scanned).and_then(|element| key::parse_stream_id(element.rest));
    id.ok_or_else(|| Error::corrupt("stream entry key", "start", "does not parse"))
}
