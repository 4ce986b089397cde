//! Hashes: fields with values, each field an element on disk.
//!
//! Guarantees: setting a field writes it even if the value does not change; HGETALL and similar commands see one moment
//! of the hash. A hash without fields does not exist.

use super::args::Args;
use super::collection::{self, Membership};
use super::definition::{Ctx, Done, Fail};
use super::number::{integer, parse_f64, parse_i64};
use super::reply::Out;
use super::{decimal, errors};
use crate::engine::keyspace::Keyspace;
use crate::engine::meta::{Collection, DiskType};
use crate::engine::row_shard::Value;

fn find(keys: &Keyspace<'_>, key: &[u8]) -> Result<Option<Collection>, Fail> {
    collection::find(keys, key, DiskType::Hash)
}

fn field(keys: &Keyspace<'_>, key: &[u8], field: &[u8]) -> Result<Option<Value>, Fail> {
    match find(keys, key)? {
        Some(hash) => Ok(keys.element(key, &hash, field)?),
        None => Ok(None),
    }
}

// ---- reading ----

/// HGET key field
pub(super) fn hget(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    out.bulk_or_null(field(&ctx.keys, &args[1], &args[2])?.as_deref());
    Ok(())
}

/// HMGET key field [field ...]
pub(super) fn hmget(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let (key, fields) = (args.get(1), args.from(2));
    if fields.len() > 1 {
        // Only under the lock do several reads see one moment.
        ctx.keys.memory()?;
    }
    let hash = find(&ctx.keys, key)?;
    out.array(fields.len());
    for field in fields.iter() {
        let value = match &hash {
            Some(hash) => ctx.keys.element(key, hash, field)?,
            None => None,
        };
        out.bulk_or_null(value.as_deref());
    }
    Ok(())
}

/// HEXISTS key field
pub(super) fn hexists(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    out.int(field(&ctx.keys, &args[1], &args[2])?.is_some().into());
    Ok(())
}

/// HLEN key
pub(super) fn hlen(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    out.count(find(&ctx.keys, &args[1])?.map_or(0, |hash| hash.count));
    Ok(())
}

/// Calls `write` with each field and its value, and returns the number of fields.
fn write_all(ctx: &Ctx<'_>, key: &[u8], mut write: impl FnMut(&[u8], &[u8])) -> Result<usize, Fail> {
    let mut fields = 0;
    if let Some(hash) = find(&ctx.keys, key)? {
        collection::walk(&ctx.keys, key, &hash, b"", |field, value| {
            write(field, value);
            fields += 1;
            true
        })?;
    }
    Ok(fields)
}

/// HGETALL key
pub(super) fn hgetall(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let map = out.begin_array();
    let fields = write_all(ctx, &args[1], |field, value| {
        out.bulk(field);
        out.bulk(value);
    })?;
    out.end_map(map, fields);
    Ok(())
}

/// HKEYS key
pub(super) fn hkeys(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let array = out.begin_array();
    let fields = write_all(ctx, &args[1], |field, _| out.bulk(field))?;
    out.end_array(array, fields);
    Ok(())
}

/// HVALS key
pub(super) fn hvals(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let array = out.begin_array();
    let fields = write_all(ctx, &args[1], |_, value| out.bulk(value))?;
    out.end_array(array, fields);
    Ok(())
}

// ---- changing ----

/// Stores the metadata if fields were added; otherwise only marks the watchers of the key.
fn grow(keys: &mut Keyspace<'_>, key: &[u8], hash: &Collection, added: u64) -> Done {
    if added == 0 {
        keys.touch(key);
        return Ok(());
    }
    Ok(keys.put_collection(key, &Collection { count: hash.count + added, ..*hash })?)
}

/// Sets the fields of HSET and HMSET, and returns how many of them are new.
fn set_fields(ctx: &mut Ctx<'_>, args: Args<'_>, command: &str) -> Result<u64, Fail> {
    let (key, pairs) = (args.get(1), args.from(2));
    if !pairs.len().is_multiple_of(2) {
        return Err(errors::wrong_arity(command).into());
    }
    let hash = collection::find_or_new(&mut ctx.keys, key, DiskType::Hash)?;
    let fields = pairs.iter().step_by(2);
    let added = collection::select(&ctx.keys, key, &hash, fields.clone(), Membership::Absent)?.len() as u64;
    for (field, value) in fields.zip(pairs.from(1).iter().step_by(2)) {
        ctx.keys.put_element(key, hash.generation, field, value);
    }
    grow(&mut ctx.keys, key, &hash, added)?;
    Ok(added)
}

/// HSET key field value [field value ...]
pub(super) fn hset(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    out.count(set_fields(ctx, args, "hset")?);
    Ok(())
}

/// HMSET key field value [field value ...]
pub(super) fn hmset(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    set_fields(ctx, args, "hmset")?;
    out.ok();
    Ok(())
}

/// HSETNX key field value
pub(super) fn hsetnx(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let (key, field) = (args.get(1), args.get(2));
    let hash = collection::find_or_new(&mut ctx.keys, key, DiskType::Hash)?;
    let is_new = ctx.keys.element(key, &hash, field)?.is_none();
    if is_new {
        ctx.keys.put_element(key, hash.generation, field, &args[3]);
        grow(&mut ctx.keys, key, &hash, 1)?;
    }
    out.int(is_new.into());
    Ok(())
}

/// HDEL key field [field ...]
pub(super) fn hdel(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    out.count(collection::remove_named(&mut ctx.keys, args, DiskType::Hash)?);
    Ok(())
}

/// HINCRBY key field increment
pub(super) fn hincrby(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let (key, field) = (args.get(1), args.get(2));
    let increment = integer(&args[3])?;
    let hash = collection::find_or_new(&mut ctx.keys, key, DiskType::Hash)?;
    let old = ctx.keys.element(key, &hash, field)?;
    let value = old.as_deref().map_or(Some(0), parse_i64).ok_or(errors::HASH_NOT_AN_INTEGER)?;
    let sum = value.checked_add(increment).ok_or(errors::OVERFLOW)?;
    ctx.keys.put_element(key, hash.generation, field, itoa::Buffer::new().format(sum).as_bytes());
    grow(&mut ctx.keys, key, &hash, old.is_none().into())?;
    out.int(sum);
    Ok(())
}

/// HINCRBYFLOAT key field increment
pub(super) fn hincrbyfloat(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let (key, field, increment) = (args.get(1), args.get(2), args.get(3));
    if !parse_f64(increment).ok_or(errors::NOT_A_FLOAT)?.is_finite() {
        return Err(errors::INCREMENT_NOT_FINITE.into());
    }
    let hash = collection::find_or_new(&mut ctx.keys, key, DiskType::Hash)?;
    let old = ctx.keys.element(key, &hash, field)?;
    let value = old.as_deref().unwrap_or(b"0");
    parse_f64(value).ok_or(errors::HASH_NOT_A_FLOAT)?;
    let sum = decimal::sum(value, increment).ok_or(errors::NOT_FINITE)?;
    ctx.keys.put_element(key, hash.generation, field, sum.as_bytes());
    grow(&mut ctx.keys, key, &hash, old.is_none().into())?;
    out.bulk(sum.as_bytes());
    Ok(())
}
