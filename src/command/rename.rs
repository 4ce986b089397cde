//! RENAME and RENAMENX.
//!
//! Guarantees: a key is renamed whole, with its expiry, in one commit. In memory the rename is one op. On disk the
//! key's name is part of each element's row, so a collection is copied element by element to a new generation: this
//! takes time in proportion to the size of the collection, and holds the collection in memory until the commit is
//! written. A collection that is larger than `max-commit-bytes` cannot be renamed.

use super::args::Args;
use super::collection::walk;
use super::definition::{Ctx, Done, Fail};
use super::errors;
use super::reply::Out;
use crate::engine::elements::entry_id;
use crate::engine::key::StreamId;
use crate::engine::keyspace::{Found, Keyspace};
use crate::engine::meta::{Collection, DiskType, Home};
use crate::engine::scan::Direction;

/// RENAME key newkey
pub(super) fn rename(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let source = find_source(&ctx.keys, &args[1])?;
    if args[1] != args[2] {
        move_key(&mut ctx.keys, &args[1], &source, &args[2])?;
    }
    out.ok();
    Ok(())
}

/// RENAMENX key newkey
pub(super) fn renamenx(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let source = find_source(&ctx.keys, &args[1])?;
    let is_free = args[1] != args[2] && ctx.keys.find(&args[2])?.is_absent();
    if is_free {
        move_key(&mut ctx.keys, &args[1], &source, &args[2])?;
    }
    out.int(is_free.into());
    Ok(())
}

/// Returns what the source holds. An expired source is left to the expiry cycle, because a command that fails has no
/// effect.
fn find_source<'a>(keys: &Keyspace<'a>, key: &[u8]) -> Result<Found, Fail> {
    let found = keys.find(key)?;
    if found.is_absent() {
        return Err(errors::NO_SUCH_KEY.into());
    }
    Ok(found)
}

fn move_key(keys: &mut Keyspace<'_>, from: &[u8], source: &Found, to: &[u8]) -> Done {
    // Elements are read and room is checked before the target is deleted, so that a refusal leaves the target in place.
    let elements = match source {
        Found::Collection(collection) if collection.home == Home::Disk => {
            Some(Elements::of(keys, from, collection, to)?)
        }
        Found::String(value) if value.home() == Home::Disk => {
            keys.require_room(to.len() + value.len())?;
            None
        }
        _ => None,
    };
    let target = &keys.find_to_change(to)?;
    if source.home() == Some(Home::Memory) {
        if target.home() == Some(Home::Disk) {
            keys.delete(to, target)?;
        }
        keys.change_in_memory(from, |ops| ops.rename(from, to))?;
        keys.touch(to);
        return Ok(());
    }
    match source {
        Found::Absent => return Ok(()),
        Found::List(_) | Found::Zset(_) => unreachable!("they are in memory"),
        Found::String(value) => {
            keys.delete(to, target)?;
            keys.put_string(to, &value.bytes(), value.expire_ms())?;
        }
        Found::Collection(collection) => {
            let elements = elements.expect("read above");
            keys.delete(to, target)?;
            elements.put(keys, to, collection)?;
        }
    }
    Ok(keys.delete(from, source)?)
}

/// Elements of a collection, for storing them under another name.
enum Elements {
    /// Names and values of a hash or set.
    Named(Vec<(Vec<u8>, Vec<u8>)>),
    /// Ids and fields of a stream.
    Entries(Vec<(StreamId, Vec<u8>)>),
}

impl Elements {
    /// Reads the elements. Returns an error if their copies under the name `to` exceed the bound of one commit.
    fn of(keys: &Keyspace<'_>, key: &[u8], collection: &Collection, to: &[u8]) -> Result<Self, Fail> {
        let mut copied = 0;
        let mut takes = |bytes: usize| {
            copied += to.len() + bytes;
            keys.require_room(copied)
        };
        if collection.kind == DiskType::Stream {
            let mut entries = Vec::new();
            let mut scan =
                keys.entries(key, collection.generation, StreamId::MIN..StreamId::MAX, Direction::Forward)?;
            while let Some((stored, fields)) = scan.next()? {
                takes(fields.len())?;
                entries.push((entry_id(stored)?, fields.to_vec()));
            }
            return Ok(Self::Entries(entries));
        }
        let (mut named, mut taken) = (Vec::new(), Ok(()));
        walk(keys, key, collection, b"", |name, value| {
            taken = takes(name.len() + value.len());
            named.push((name.to_vec(), value.to_vec()));
            taken.is_ok()
        })?;
        taken?;
        Ok(Self::Named(named))
    }

    /// Stores the elements as a collection at a key, which must be absent, with the expiry of the original.
    fn put(&self, keys: &mut Keyspace<'_>, key: &[u8], original: &Collection) -> Done {
        let generation = keys.new_generation();
        let copy = Collection { generation, expire_ms: 0, ..*original };
        match self {
            Self::Named(named) => {
                keys.put_elements(key, &copy, named.iter().map(|(name, value)| (&name[..], &value[..])))?;
            }
            Self::Entries(entries) => {
                for (id, fields) in entries {
                    keys.put_entry(key, generation, *id, fields);
                }
            }
        }
        match original.expire_ms {
            0 => keys.put_collection(key, &copy)?,
            expire_ms => keys.set_expire(key, &Found::Collection(copy), expire_ms)?,
        }
        Ok(())
    }
}
