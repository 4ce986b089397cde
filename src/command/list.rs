//! Lists: elements by position, in memory.
//!
//! Guarantees: an effect carries the elements, counts and positions that the command found, so that applying the effect
//! needs no search. A list without elements does not exist. An expired list is left to the expiry cycle by a command
//! that would only remove elements from it. Blocking pops are not supported.

use super::args::Args;
use super::definition::{Ctx, Done, Fail};
use super::number::{self, integer};
use super::reply::Out;
use super::{errors, index};
use crate::engine::keyspace::{Keyspace, ListRef};
use crate::engine::memory::Encoder;

/// An end of a list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Left,
    Right,
}

impl End {
    fn parse(text: &[u8]) -> Result<Self, Fail> {
        match text {
            text if text.eq_ignore_ascii_case(b"left") => Ok(Self::Left),
            text if text.eq_ignore_ascii_case(b"right") => Ok(Self::Right),
            _ => Err(errors::SYNTAX.into()),
        }
    }

    fn push<'e>(self, ops: &mut Encoder<'_>, key: &[u8], elements: impl ExactSizeIterator<Item = &'e [u8]>) {
        match self {
            Self::Left => ops.push_front(key, elements),
            Self::Right => ops.push_back(key, elements),
        }
    }

    fn pop(self, ops: &mut Encoder<'_>, key: &[u8], count: u64) {
        match self {
            Self::Left => ops.pop_front(key, count),
            Self::Right => ops.pop_back(key, count),
        }
    }
}

/// Returns the list at a key; `None` if there is no such key.
fn find<'k>(keys: &'k Keyspace<'_>, key: &[u8]) -> Result<Option<ListRef<'k>>, Fail> {
    let list = keys.list(key)?;
    if list.is_none() && !keys.find(key)?.is_absent() {
        return Err(errors::WRONG_TYPE.into());
    }
    Ok(list)
}

/// Returns the length of the list at a key that is about to be pushed to. Deletes the key if it has expired.
fn len_to_change(keys: &mut Keyspace<'_>, key: &[u8]) -> Result<u64, Fail> {
    if let Some(list) = keys.list(key)? {
        return Ok(list.len());
    }
    if !keys.find_to_change(key)?.is_absent() {
        return Err(errors::WRONG_TYPE.into());
    }
    Ok(0)
}

// ---- reading ----

/// LLEN key
pub(super) fn llen(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    out.count(find(&ctx.keys, &args[1])?.map_or(0, |list| list.len()));
    Ok(())
}

/// LINDEX key index
pub(super) fn lindex(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let Some(list) = find(&ctx.keys, &args[1])? else {
        out.null();
        return Ok(());
    };
    out.bulk_or_null(index::at(integer(&args[2])?, list.len()).and_then(|at| list.get(at)));
    Ok(())
}

/// LRANGE key start stop
pub(super) fn lrange(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let (start, stop) = (integer(&args[2])?, integer(&args[3])?);
    let Some(list) = find(&ctx.keys, &args[1])? else {
        out.array(0);
        return Ok(());
    };
    let wanted = index::range(start, stop, list.len());
    let count = (wanted.end - wanted.start) as usize;
    out.array(count);
    list.iter_from(wanted.start).take(count).for_each(|element| out.bulk(element));
    Ok(())
}

// ---- adding ----

/// LPUSH key element [element ...]
pub(super) fn lpush(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    push(ctx, args, End::Left, out)
}

/// RPUSH key element [element ...]
pub(super) fn rpush(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    push(ctx, args, End::Right, out)
}

fn push(ctx: &mut Ctx<'_>, args: Args<'_>, end: End, out: &mut Out) -> Done {
    let (key, elements) = (args.get(1), args.from(2).iter());
    let len = len_to_change(&mut ctx.keys, key)? + elements.len() as u64;
    ctx.keys.change_in_memory(key, |ops| end.push(ops, key, elements))?;
    out.count(len);
    Ok(())
}

/// LPUSHX key element [element ...]
pub(super) fn lpushx(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    push_to_present(ctx, args, End::Left, out)
}

/// RPUSHX key element [element ...]
pub(super) fn rpushx(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    push_to_present(ctx, args, End::Right, out)
}

fn push_to_present(ctx: &mut Ctx<'_>, args: Args<'_>, end: End, out: &mut Out) -> Done {
    if find(&ctx.keys, &args[1])?.is_some() {
        return push(ctx, args, end, out);
    }
    out.int(0);
    Ok(())
}

/// LINSERT key BEFORE|AFTER pivot element
pub(super) fn linsert(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let (key, place, pivot, element) = (args.get(1), args.get(2), args.get(3), args.get(4));
    let is_after = place.eq_ignore_ascii_case(b"after");
    if !is_after && !place.eq_ignore_ascii_case(b"before") {
        return Err(errors::SYNTAX.into());
    }
    let Some(list) = find(&ctx.keys, key)? else {
        out.int(0);
        return Ok(());
    };
    let Some(at) = list.iter_from(0).position(|found| found == pivot) else {
        out.int(-1);
        return Ok(());
    };
    out.count(list.len() + 1);
    drop(list);
    Ok(ctx.keys.change_in_memory(key, |ops| ops.insert_element(key, at as u64 + u64::from(is_after), element))?)
}

/// LSET key index element
pub(super) fn lset(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let (key, element) = (args.get(1), args.get(3));
    let list = find(&ctx.keys, key)?.ok_or(errors::NO_SUCH_KEY)?;
    let at = index::at(integer(&args[2])?, list.len()).ok_or(errors::INDEX_OUT_OF_RANGE)?;
    drop(list);
    ctx.keys.change_in_memory(key, |ops| ops.set_element(key, at, element))?;
    out.ok();
    Ok(())
}

// ---- removing ----

/// LPOP key [count]
pub(super) fn lpop(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    pop(ctx, args, End::Left, out)
}

/// RPOP key [count]
pub(super) fn rpop(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    pop(ctx, args, End::Right, out)
}

fn pop(ctx: &mut Ctx<'_>, args: Args<'_>, end: End, out: &mut Out) -> Done {
    let key = args.get(1);
    if args.len() > 3 {
        return Err(errors::wrong_arity(if end == End::Left { "lpop" } else { "rpop" }).into());
    }
    let count = match args.try_get(2) {
        Some(text) => Some(number::count(text)?),
        None => None,
    };
    let Some(list) = find(&ctx.keys, key)? else {
        if count.is_some() {
            out.null_array()
        } else {
            out.null()
        }
        return Ok(());
    };
    let taken = count.unwrap_or(1).min(list.len());
    if count.is_some() {
        out.array(taken as usize);
    }
    match end {
        End::Left => list.iter_from(0).take(taken as usize).for_each(|element| out.bulk(element)),
        End::Right => list.iter_back_from(u64::MAX).take(taken as usize).for_each(|element| out.bulk(element)),
    }
    drop(list);
    if taken > 0 {
        ctx.keys.change_in_memory(key, |ops| end.pop(ops, key, taken))?;
    }
    Ok(())
}

/// LREM key count element
pub(super) fn lrem(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let (key, count, element) = (args.get(1), integer(&args[2])?, args.get(3));
    let Some(list) = find(&ctx.keys, key)? else {
        out.int(0);
        return Ok(());
    };
    let wanted = if count == 0 { usize::MAX } else { count.unsigned_abs() as usize };
    let places = 0..list.len();
    let indexes: Vec<u64> = if count < 0 {
        let matching = list.iter_back_from(u64::MAX).zip(places.rev()).filter(|(found, _)| *found == element);
        let mut indexes: Vec<u64> = matching.map(|(_, at)| at).take(wanted).collect();
        indexes.reverse();
        indexes
    } else {
        let matching = list.iter_from(0).zip(places).filter(|(found, _)| *found == element);
        matching.map(|(_, at)| at).take(wanted).collect()
    };
    drop(list);
    if !indexes.is_empty() {
        ctx.keys.change_in_memory(key, |ops| ops.remove_elements(key, indexes.iter().copied()))?;
    }
    out.count(indexes.len() as u64);
    Ok(())
}

/// LTRIM key start stop
pub(super) fn ltrim(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let (key, start, stop) = (args.get(1), integer(&args[2])?, integer(&args[3])?);
    let len = find(&ctx.keys, key)?.map_or(0, |list| list.len());
    let kept = index::range(start, stop, len);
    if kept != (0..len) {
        ctx.keys.change_in_memory(key, |ops| ops.keep_elements(key, kept.start, kept.end))?;
    }
    out.ok();
    Ok(())
}

// ---- moving ----

/// Largest number of bytes that the ops of LMOVE take beside keys and element.
const PLACE_BYTES: usize = 64;

/// An end of the list at a key.
struct Place<'a> {
    key: &'a [u8],
    end: End,
}

/// LMOVE source destination LEFT|RIGHT LEFT|RIGHT
pub(super) fn lmove(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let (from, to) = (End::parse(&args[3])?, End::parse(&args[4])?);
    move_element(ctx, &Place { key: args.get(1), end: from }, &Place { key: args.get(2), end: to }, out)
}

/// RPOPLPUSH source destination
pub(super) fn rpoplpush(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let (from, to) = (Place { key: args.get(1), end: End::Right }, Place { key: args.get(2), end: End::Left });
    move_element(ctx, &from, &to, out)
}

fn move_element(ctx: &mut Ctx<'_>, from: &Place<'_>, to: &Place<'_>, out: &mut Out) -> Done {
    let Some(list) = find(&ctx.keys, from.key)? else {
        out.null();
        return Ok(());
    };
    let (len, at) = (list.len(), if from.end == End::Left { 0 } else { list.len() - 1 });
    let element = list.get(at).expect("a list has elements").to_vec();
    drop(list);
    // Room is checked first, because the next step may delete an expired key.
    ctx.keys.require_room(from.key.len() + to.key.len() + element.len() + PLACE_BYTES)?;
    len_to_change(&mut ctx.keys, to.key)?;
    let stays = from.key == to.key && (from.end == to.end || len == 1);
    if !stays {
        // The push comes before the pop, so that a list that is rotated is never empty in between and keeps its expiry.
        ctx.keys.change_in_memory(to.key, |ops| to.end.push(ops, to.key, std::iter::once(&element[..])))?;
        ctx.keys.change_in_memory(from.key, |ops| from.end.pop(ops, from.key, 1))?;
    }
    out.bulk(&element);
    Ok(())
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
