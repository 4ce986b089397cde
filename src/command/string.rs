//! Strings.
//!
//! Guarantees: a change of a part of a string in memory costs what changes; a value is never longer than `proto-max-bulk-len`; INCRBYFLOAT adds decimals,
//! see `decimal`. A command that sets a key unconditionally replaces whatever the key held, expired or not, in one
//! effect.

use super::args::Args;
use super::definition::{Ctx, Done, Fail};
use super::expire::{self, Expiry};
use super::number::{integer, parse_f64, parse_i64};
use super::reply::Out;
use super::{decimal, errors};
use crate::engine::keyspace::{Found, Keyspace, StringValue};
use crate::engine::memory::{Slot, StringRef};
use crate::engine::meta::Home;
use crate::engine::rows::FETCHED_TOGETHER;
use std::borrow::Cow;

/// Returns the string at a key; `None` if there is no such key, an error if the key holds another type.
fn find<'a>(keys: &Keyspace<'a>, key: &[u8]) -> Result<Option<StringValue>, Fail> {
    match keys.find(key)? {
        Found::Absent => Ok(None),
        Found::String(value) => Ok(Some(value)),
        _ => Err(errors::WRONG_TYPE.into()),
    }
}

// ---- reading ----

/// GET key
pub(super) fn get(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    out.bulk_or_null(find(&ctx.keys, &args[1])?.as_ref().map(StringValue::bytes).as_deref());
    Ok(())
}

/// MGET key [key ...]
pub(super) fn mget(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let keys = args.from(1);
    out.array(keys.len());
    if keys.len() > 1 && ctx.keys.require_lock().is_err() {
        return Ok(ctx.keys.with_slots(keys.iter(), |slot| match slot.and_then(Slot::as_string) {
            Some(StringRef::Small(bytes)) => out.bulk(bytes),
            Some(StringRef::Large(text)) => out.bulk(&text.pieces(0..text.len()).collect::<Vec<_>>().concat()),
            None => out.null(),
        })?);
    }
    for (nth, key) in keys.iter().enumerate() {
        if nth % FETCHED_TOGETHER == 0 && nth + 1 < keys.len() {
            ctx.keys.fetch(keys.iter().skip(nth).take(FETCHED_TOGETHER));
        }
        match ctx.keys.find(key)? {
            Found::String(value) => out.bulk(&value.bytes()),
            _ => out.null(),
        }
    }
    Ok(())
}

/// STRLEN key
pub(super) fn strlen(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    out.count(find(&ctx.keys, &args[1])?.map_or(0, |value| value.len() as u64));
    Ok(())
}

/// GETRANGE key start end
pub(super) fn getrange(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let start = integer(&args[2])?;
    let end = integer(&args[3])?;
    let value = find(&ctx.keys, &args[1])?;
    // As in Redis, two negative positions in the wrong order give nothing even where both lie before the value.
    let is_reversed = start < 0 && end < 0 && start > end;
    let length = value.as_ref().map_or(0, StringValue::len) as i64;
    let from_front = |position: i64| if position < 0 { (length + position).max(0) } else { position };
    let (start, end) = (from_front(start), from_front(end).min(length - 1));
    let is_empty = is_reversed || start > end;
    let wanted = if is_empty { 0..0 } else { start as usize..end as usize + 1 };
    out.bulk(&value.as_ref().map(|value| value.slice(wanted)).unwrap_or_default());
    Ok(())
}

// ---- setting ----

/// Whether SET requires the key to be absent or present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Condition {
    Absent,
    Present,
}

/// The effect of SET on the expiry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lifetime<'a> {
    Forever,
    Kept,
    Until(Expiry, &'a [u8]),
}

/// SET's options.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct SetOptions<'a> {
    condition: Option<Condition>,
    returns_old: bool,
    lifetime: Lifetime<'a>,
}

impl<'a> SetOptions<'a> {
    fn parse(args: Args<'a>) -> Result<Self, Fail> {
        let mut options = Self { condition: None, returns_old: false, lifetime: Lifetime::Forever };
        let mut rest = args.iter();
        while let Some(option) = rest.next() {
            let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
            if is("NX") && options.condition != Some(Condition::Present) {
                options.condition = Some(Condition::Absent);
            } else if is("XX") && options.condition != Some(Condition::Absent) {
                options.condition = Some(Condition::Present);
            } else if is("GET") {
                options.returns_old = true;
            } else if is("KEEPTTL") && !matches!(options.lifetime, Lifetime::Until(..)) {
                options.lifetime = Lifetime::Kept;
            } else {
                let expiry = Expiry::of_option(option).filter(|expiry| match options.lifetime {
                    Lifetime::Forever => true,
                    Lifetime::Kept => false,
                    Lifetime::Until(given, _) => given == *expiry,
                });
                let (expiry, text) = expiry.zip(rest.next()).ok_or(errors::SYNTAX)?;
                options.lifetime = Lifetime::Until(expiry, text);
            }
        }
        Ok(options)
    }
}

/// SET key value [NX | XX] [GET] [EX seconds | PX milliseconds | EXAT seconds | PXAT milliseconds | KEEPTTL]
pub(super) fn set(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let (key, value) = (args.get(1), args.get(2));
    let options = SetOptions::parse(args.from(3))?;
    let expire_ms = match options.lifetime {
        Lifetime::Forever | Lifetime::Kept => 0,
        Lifetime::Until(expiry, text) => expiry.deadline(text, "set", ctx.keys.now_ms)?,
    };
    let is_blind = options.condition.is_none() && !options.returns_old && options.lifetime != Lifetime::Kept;
    if is_blind {
        store(&mut ctx.keys, key, value, expire_ms)?;
        out.ok();
        return Ok(());
    }
    let found = ctx.keys.find(key)?;
    if options.returns_old && !matches!(found, Found::Absent | Found::String(_)) {
        return Err(errors::WRONG_TYPE.into());
    }
    let is_met = options.condition.is_none_or(|condition| (condition == Condition::Absent) == found.is_absent());
    match &found {
        Found::String(old) if options.returns_old => out.bulk(&old.bytes()),
        _ if options.returns_old || !is_met => out.null(),
        _ => out.ok(),
    }
    if is_met {
        let old = Old::of(&found);
        let expire_ms = if options.lifetime == Lifetime::Kept { found.expire_ms() } else { expire_ms };
        drop(found);
        replace(&mut ctx.keys, key, old, value, expire_ms)?;
    }
    Ok(())
}

/// Makes a key a string. If the expiry lies in the past the key is deleted, because no client could see the value.
fn store(keys: &mut Keyspace<'_>, key: &[u8], value: &[u8], expire_ms: u64) -> Done {
    if expire_ms == 0 || expire_ms > keys.now_ms {
        return Ok(keys.put_string(key, value, expire_ms)?);
    }
    let found = keys.find_to_change(key)?;
    Ok(keys.delete(key, &found)?)
}

/// What is known of a key whose value is about to be replaced.
#[derive(Clone, Copy)]
struct Old {
    home: Option<Home>,
    /// When the key was to expire, in ms since the Unix epoch; 0: never.
    expire_ms: u64,
}

impl Old {
    fn of(found: &Found) -> Self {
        Self { home: found.home(), expire_ms: found.expire_ms() }
    }
}

/// Does what [`store`] does for a key that was found. The entry of a disk key in the expiry index is removed if there is
/// no new expiry.
fn replace(keys: &mut Keyspace<'_>, key: &[u8], old: Old, value: &[u8], expire_ms: u64) -> Done {
    if expire_ms == 0 && old.home == Some(Home::Disk) {
        keys.forget_expiry(key, old.expire_ms);
    }
    store(keys, key, value, expire_ms)
}

fn set_with_expiry(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out, expiry: Expiry, command: &str) -> Done {
    let expire_ms = expiry.deadline(args.get(2), command, ctx.keys.now_ms)?;
    store(&mut ctx.keys, &args[1], &args[3], expire_ms)?;
    out.ok();
    Ok(())
}

/// SETEX key seconds value
pub(super) fn setex(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    set_with_expiry(ctx, args, out, expire::EX, "setex")
}

/// PSETEX key milliseconds value
pub(super) fn psetex(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    set_with_expiry(ctx, args, out, expire::PX, "psetex")
}

/// SETNX key value
pub(super) fn setnx(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let is_absent = ctx.keys.find(&args[1])?.is_absent();
    if is_absent {
        ctx.keys.put_string(&args[1], &args[2], 0)?;
    }
    out.int(is_absent.into());
    Ok(())
}

/// MSET key value [key value ...]
pub(super) fn mset(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let pairs = args.from(1);
    if !pairs.len().is_multiple_of(2) {
        return Err(errors::wrong_arity("mset").into());
    }
    for (key, value) in pairs.iter().step_by(2).zip(pairs.from(1).iter().step_by(2)) {
        ctx.keys.put_string(key, value, 0)?;
    }
    out.ok();
    Ok(())
}

/// GETSET key value
pub(super) fn getset(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let found = ctx.keys.find(&args[1])?;
    match &found {
        Found::Absent => out.null(),
        Found::String(value) => out.bulk(&value.bytes()),
        _ => return Err(errors::WRONG_TYPE.into()),
    }
    let old = Old::of(&found);
    drop(found);
    replace(&mut ctx.keys, &args[1], old, &args[2], 0)
}

/// GETDEL key
pub(super) fn getdel(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let found = ctx.keys.find_to_change(&args[1])?;
    match &found {
        Found::Absent => out.null(),
        Found::String(value) => out.bulk(&value.bytes()),
        _ => return Err(errors::WRONG_TYPE.into()),
    }
    Ok(ctx.keys.delete(&args[1], &found)?)
}

// ---- changing a part ----

/// Refuses a value that would be longer than `proto-max-bulk-len`.
fn check_length(ctx: &Ctx<'_>, bytes: usize, more: usize) -> Done {
    let bytes = (bytes as u64).saturating_add(more as u64);
    if bytes > ctx.host.config().proto_max_bulk_len.0 {
        return Err(errors::STRING_TOO_LONG.into());
    }
    Ok(())
}

/// APPEND key value
pub(super) fn append(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let (key, tail) = (args.get(1), args.get(2));
    let Some(old) = find(&ctx.keys, key)? else {
        ctx.keys.put_string(key, tail, 0)?;
        out.count(tail.len() as u64);
        return Ok(());
    };
    let len = old.len();
    check_length(ctx, len, tail.len())?;
    out.count((len + tail.len()) as u64);
    if tail.is_empty() {
        return Ok(());
    }
    Ok(ctx.keys.write_string(key, old, len, tail)?)
}

/// SETRANGE key offset value
pub(super) fn setrange(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let (key, part) = (args.get(1), args.get(3));
    let offset = integer(&args[2])?;
    let offset = usize::try_from(offset).map_err(|_| errors::OFFSET_OUT_OF_RANGE)?;
    let old = find(&ctx.keys, key)?;
    let len = old.as_ref().map_or(0, StringValue::len);
    if part.is_empty() {
        out.count(len as u64);
        return Ok(());
    }
    check_length(ctx, offset, part.len())?;
    out.count(len.max(offset + part.len()) as u64);
    match old {
        Some(old) => Ok(ctx.keys.write_string(key, old, offset, part)?),
        None => {
            let value = [&vec![0; offset][..], part].concat();
            Ok(ctx.keys.put_string(key, &value, 0)?)
        }
    }
}

/// Adds to an integer. An absent key counts as 0.
fn add(ctx: &mut Ctx<'_>, key: &[u8], increment: i64, out: &mut Out) -> Done {
    let old = find(&ctx.keys, key)?;
    let value = old.as_ref().map_or(Some(0), |old| parse_i64(&old.bytes())).ok_or(errors::NOT_AN_INTEGER)?;
    let sum = value.checked_add(increment).ok_or(errors::OVERFLOW)?;
    put_number(ctx, key, old, itoa::Buffer::new().format(sum).as_bytes())?;
    out.int(sum);
    Ok(())
}

/// Stores a number in place of the string that was found at the key; the expiry stays.
fn put_number(ctx: &mut Ctx<'_>, key: &[u8], old: Option<StringValue>, number: &[u8]) -> Done {
    match old {
        Some(old) => Ok(ctx.keys.replace_string(key, old, number)?),
        None => Ok(ctx.keys.put_string(key, number, 0)?),
    }
}

/// INCR key
pub(super) fn incr(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    add(ctx, &args[1], 1, out)
}

/// DECR key
pub(super) fn decr(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    add(ctx, &args[1], -1, out)
}

/// INCRBY key increment
pub(super) fn incrby(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let increment = integer(&args[2])?;
    add(ctx, &args[1], increment, out)
}

/// DECRBY key decrement
pub(super) fn decrby(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let decrement = integer(&args[2])?;
    add(ctx, &args[1], decrement.checked_neg().ok_or(errors::DECREMENT_OVERFLOW)?, out)
}

/// INCRBYFLOAT key increment
pub(super) fn incrbyfloat(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let (key, increment) = (args.get(1), args.get(2));
    let old = find(&ctx.keys, key)?;
    let sum = {
        let value = old.as_ref().map_or(Cow::Borrowed(&b"0"[..]), StringValue::bytes);
        if parse_f64(&value).is_none() || parse_f64(increment).is_none() {
            return Err(errors::NOT_A_FLOAT.into());
        }
        decimal::sum(&value, increment).ok_or(errors::NOT_FINITE)?
    };
    put_number(ctx, key, old, sum.as_bytes())?;
    out.bulk(sum.as_bytes());
    Ok(())
}
