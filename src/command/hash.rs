//! Hashes: fields with values.
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

fn find(keys: &Keyspace<'_>, key: &[u8]) -> Result<Option<Collection>, Fail> {
    collection::find(keys, key, DiskType::Hash)
}

/// Calls `with` with the value of a field; with `None` if there is no such field.
fn with_field<R>(
    keys: &Keyspace<'_>,
    key: &[u8],
    field: &[u8],
    with: impl FnOnce(Option<&[u8]>) -> R,
) -> Result<R, Fail> {
    match find(keys, key)? {
        Some(hash) => Ok(keys.with_element(key, &hash, field, with)?),
        None => Ok(with(None)),
    }
}

// ---- reading ----

/// HGET key field
pub(super) fn hget(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    with_field(&ctx.keys, &args[1], &args[2], |value| out.bulk_or_null(value))
}

/// HMGET key field [field ...]
pub(super) fn hmget(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let (key, fields) = (args.get(1), args.from(2));
    let hash = find(&ctx.keys, key)?;
    out.array(fields.len());
    match &hash {
        Some(hash) => ctx.keys.with_elements(key, hash, fields.iter(), |value| out.bulk_or_null(value))?,
        None => fields.iter().for_each(|_| out.null()),
    }
    Ok(())
}

/// HEXISTS key field
pub(super) fn hexists(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    with_field(&ctx.keys, &args[1], &args[2], |value| out.int(value.is_some().into()))
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
    let hash = collection::find_or_new(&mut ctx.keys, key, DiskType::Hash, args)?;
    let fields = pairs.iter().step_by(2);
    let added = collection::select(&ctx.keys, key, &hash, fields.clone(), Membership::Absent)?.len() as u64;
    let elements = (0..pairs.len() / 2).map(|nth| (pairs.get(2 * nth), pairs.get(2 * nth + 1)));
    ctx.keys.put_elements(key, &hash, elements)?;
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
    let hash = collection::find_or_new(&mut ctx.keys, key, DiskType::Hash, args)?;
    let is_new = !ctx.keys.has_element(key, &hash, field)?;
    if is_new {
        ctx.keys.put_elements(key, &hash, std::iter::once((field, args.get(3))))?;
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
    let hash = collection::find_or_new(&mut ctx.keys, key, DiskType::Hash, args)?;
    let (is_new, value) =
        ctx.keys.with_element(key, &hash, field, |old| (old.is_none(), old.map_or(Some(0), parse_i64)))?;
    let sum = value.ok_or(errors::HASH_NOT_AN_INTEGER)?.checked_add(increment).ok_or(errors::OVERFLOW)?;
    let mut buffer = itoa::Buffer::new();
    ctx.keys.put_elements(key, &hash, std::iter::once((field, buffer.format(sum).as_bytes())))?;
    grow(&mut ctx.keys, key, &hash, is_new.into())?;
    out.int(sum);
    Ok(())
}

/// HINCRBYFLOAT key field increment
pub(super) fn hincrbyfloat(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let (key, field, increment) = (args.get(1), args.get(2), args.get(3));
    if !parse_f64(increment).ok_or(errors::NOT_A_FLOAT)?.is_finite() {
        return Err(errors::INCREMENT_NOT_FINITE.into());
    }
    let hash = collection::find_or_new(&mut ctx.keys, key, DiskType::Hash, args)?;
    let (is_new, sum) = ctx.keys.with_element(key, &hash, field, |old| {
        let value = old.unwrap_or(b"0");
        parse_f64(value).ok_or(errors::HASH_NOT_A_FLOAT)?;
        Ok::<_, Fail>((old.is_none(), decimal::sum(value, increment).ok_or(errors::NOT_FINITE)?))
    })??;
    ctx.keys.put_elements(key, &hash, std::iter::once((field, sum.as_bytes())))?;
    grow(&mut ctx.keys, key, &hash, is_new.into())?;
    out.bulk(sum.as_bytes());
    Ok(())
}
