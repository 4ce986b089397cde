//! SCAN, HSCAN, SSCAN: iterations in steps.
//!
//! Guarantees: a key or element that exists during a whole iteration is returned, also if it moves between memory and
//! disk; an expired key is not. SCAN's cursor is a place in a fixed order of the shards of memory, the slots on disk and
//! the keys that moved to memory since the iteration began. Each shard or slot is visited as a whole, except a slot of very many keys: within such a slot, and in a large hash or set, an iteration goes by name,
//! and its cursors are kept in a bounded table. A step of SCAN that takes long ends early, so that it does not hold up
//! other clients. A small collection is returned in one step.
//!
use super::args::{Args, OwnedArgs};
use super::collection;
use super::definition::{Ctx, Done, Fail};
use super::number::integer;
use super::reply::Out;
use super::{cursor, errors, glob};
use crate::engine::key::SLOTS;
use crate::engine::keyspace::{Found, Keyspace};
use crate::engine::memory::keys::SHARDS;
use crate::engine::meta::{DiskType, Meta};
use crate::engine::walk::Walked;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Number of elements up to which a collection is returned in one step.
const SMALL_ELEMENTS_MAX: u64 = 512;
/// Elements or keys of a step if the request has no COUNT.
const COUNT: u64 = 10;
/// Largest number of keys of a step of SCAN, whatever COUNT says.
const KEYS_MAX: u64 = 1000;
/// Keys of one slot that a step of SCAN visits beyond the requested ones before it stops within the slot.
const SLOT_KEYS_MAX: u64 = 1000;
/// Longest time that a step of SCAN walks the disk slots.
const STEP_TIME: Duration = Duration::from_millis(2);

/// Place of the first slot on disk. The places below it are those of the shards of memory.
const DISK: u64 = SHARDS as u64;
/// Place behind all shards and slots: the keys that moved to memory since the iteration began.
const END: u64 = DISK + SLOTS as u64;
/// Place of a cursor that is kept in the table.
const KEPT: u64 = (1 << PLACE_BITS) - 1;
/// Bits of a cursor that are the place. Above them is the number of the newest arrival when the iteration began; for a
/// place in the table, the cursor's number there.
const PLACE_BITS: u32 = 16;

/// The options of an iteration's step.
struct Options<'a> {
    pattern: Option<&'a [u8]>,
    count: u64,
    kind: Option<&'a [u8]>,
}

impl<'a> Options<'a> {
    /// Reads the options. Only SCAN takes TYPE.
    fn parse(args: Args<'a>, takes_type: bool) -> Result<Self, Fail> {
        let mut options = Self { pattern: None, count: COUNT, kind: None };
        let mut rest = args.iter();
        while let Some(option) = rest.next() {
            let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
            let value = rest.next().ok_or(errors::SYNTAX)?;
            if is("COUNT") {
                let count = integer(value)?;
                options.count = u64::try_from(count).ok().filter(|&count| count > 0).ok_or(errors::SYNTAX)?;
            } else if is("MATCH") {
                options.pattern = (!glob::matches_all(value)).then_some(value);
            } else if is("TYPE") && takes_type {
                options.kind = Some(value);
            } else {
                return Err(errors::SYNTAX.into());
            }
        }
        Ok(options)
    }

    fn accept_name(&self, name: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob::matches(pattern, name))
    }

    fn accept_type(&self, name: &str) -> bool {
        self.kind.is_none_or(|kind| kind.eq_ignore_ascii_case(name.as_bytes()))
    }
}

fn parse_cursor(text: &[u8]) -> Result<u64, Fail> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(text).ok().filter(|_| is_number).and_then(|text| text.parse().ok());
    number.ok_or_else(|| errors::INVALID_CURSOR.into())
}

fn write_step(out: &mut Out, cursor: u64, found: &OwnedArgs) {
    let found = found.as_args();
    out.array(2);
    out.bulk(itoa::Buffer::new().format(cursor).as_bytes());
    out.array(found.len());
    found.iter().for_each(|item| out.bulk(item));
}

// ---- keys ----

/// SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]
pub(super) fn scan(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let cursor = parse_cursor(&args[1])?;
    let options = Options::parse(args.from(2), true)?;
    let options = Options { count: options.count.min(KEYS_MAX), ..options };
    let mut step = Step { keys: &ctx.keys, options, seen: 0, found: OwnedArgs::default() };
    let arrivals = ctx.keys.memory().arrivals();
    let (mut place, mut began) = (cursor & KEPT, cursor >> PLACE_BITS);
    let mut within = None;
    if cursor == 0 {
        began = arrivals.newest();
    } else if place == KEPT {
        let kept = cursor::find(began).ok_or(errors::INVALID_CURSOR)?;
        let (number, name) = kept.split_first_chunk::<8>().ok_or(errors::INVALID_CURSOR)?;
        (place, began) = (DISK, u64::from_le_bytes(*number));
        within = Some(name.to_vec());
    }
    if place > END || began > arrivals.newest() {
        return Err(errors::INVALID_CURSOR.into());
    }
    arrivals.note_step(began);
    let mut next = None;
    if place < DISK {
        place = step.visit_shards(place)?;
    }
    if (DISK..END).contains(&place) && step.seen < step.options.count {
        let from = within.unwrap_or_else(|| ((place - DISK) as u16).to_be_bytes().to_vec());
        (place, next) = step.visit_slots(&from)?;
    }
    if place == END && step.seen < step.options.count {
        (place, began) = step.visit_arrivals(began)?;
    }
    let cursor = match next {
        Some(name) => cursor::keep([&began.to_le_bytes()[..], &name].concat()) << PLACE_BITS | KEPT,
        None if place == END && began == arrivals.newest() => 0,
        None => began << PLACE_BITS | place,
    };
    write_step(out, cursor, &step.found);
    Ok(())
}

/// A step of SCAN while it runs.
struct Step<'a, 'k> {
    keys: &'a Keyspace<'k>,
    options: Options<'a>,
    /// Keys visited, whether returned or not.
    seen: u64,
    found: OwnedArgs,
}

impl Step<'_, '_> {
    fn visit(&mut self, key: &[u8], kind: &str, expire_ms: u64) {
        self.seen += 1;
        let is_expired = expire_ms != 0 && expire_ms <= self.keys.now_ms;
        if !is_expired && self.options.accept_type(kind) && self.options.accept_name(key) {
            self.found.extend([key]);
        }
    }

    /// Visits slots from `from` on, a slot's number or a key's stored name, until enough keys were seen. Returns the place
    /// to continue at; within a slot, also the stored name of the next key.
    fn visit_slots(&mut self, from: &[u8]) -> Result<(u64, Option<Vec<u8>>), Fail> {
        let (mut last_slot, mut next) = (None, (END, None));
        let walked = self.keys.walk(from, Instant::now() + STEP_TIME, |met| {
            let is_new_slot = last_slot.replace(met.slot) != Some(met.slot);
            if self.seen >= self.options.count && is_new_slot {
                next = (DISK + u64::from(met.slot), None);
                return Ok(ControlFlow::Break(()));
            }
            if self.seen >= self.options.count + SLOT_KEYS_MAX {
                next = (DISK + u64::from(met.slot), Some(met.stored.to_vec()));
                return Ok(ControlFlow::Break(()));
            }
            let meta = Meta::decode(met.meta)?;
            self.visit(met.key(), type_name(&meta), meta.expire_ms());
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(match walked {
            Walked::End => (END, None),
            Walked::Stopped => next,
            Walked::OutOfTime(slot) => (DISK + u64::from(slot), None),
        })
    }

    /// Visits keys that moved to memory after the arrival `began`, until enough keys were seen. Returns the place to
    /// continue at, and the number of the last arrival that was visited. If some arrivals are forgotten, all keys in
    /// memory are to be visited again.
    fn visit_arrivals(&mut self, began: u64) -> Result<(u64, u64), Fail> {
        let memory = self.keys.memory();
        let wanted = usize::try_from(self.options.count - self.seen).unwrap_or(usize::MAX);
        let Some(keys) = memory.arrivals().since(began, wanted) else {
            return Ok((0, memory.arrivals().newest()));
        };
        if keys.is_empty() {
            return Ok((END, began));
        }
        self.keys.require_lock()?;
        for key in &keys {
            // The key may have moved to disk again.
            let found = self.keys.peek(key)?;
            if !found.is_absent() {
                self.visit(key, found.type_name(), found.expire_ms());
            }
        }
        Ok((END, began + keys.len() as u64))
    }

    /// Visits whole shards from `first` on until enough keys were seen. Returns the place to continue at.
    fn visit_shards(&mut self, first: u64) -> Result<u64, Fail> {
        let memory = self.keys.memory();
        if memory.is_empty() {
            return Ok(DISK);
        }
        self.keys.require_lock()?;
        let wanted = usize::try_from(self.options.count).unwrap_or(usize::MAX);
        let (next, slots) = memory.scan(first, wanted);
        for slot in slots {
            self.visit(slot.key(), slot.value_type().name(), slot.expire_ms());
        }
        Ok(if next == 0 { DISK } else { next })
    }
}

fn type_name(meta: &Meta) -> &'static str {
    match meta {
        Meta::String { .. } => "string",
        Meta::Collection(collection) => Found::Collection(*collection).type_name(),
    }
}

// ---- elements ----

/// HSCAN key cursor [MATCH pattern] [COUNT count]
pub(super) fn hscan(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    scan_elements(ctx, args, out, DiskType::Hash)
}

/// SSCAN key cursor [MATCH pattern] [COUNT count]
pub(super) fn sscan(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    scan_elements(ctx, args, out, DiskType::Set)
}

fn scan_elements(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out, kind: DiskType) -> Done {
    let key = args.get(1);
    let cursor = parse_cursor(&args[2])?;
    let mut found = OwnedArgs::default();
    let Some(collection) = collection::find(&ctx.keys, key, kind)? else {
        write_step(out, 0, &found);
        return Ok(());
    };
    let options = Options::parse(args.from(3), false)?;
    let from = match cursor {
        0 => Vec::new(),
        cursor => cursor::find(cursor).ok_or(errors::INVALID_CURSOR)?,
    };
    let mut left = if collection.count <= SMALL_ELEMENTS_MAX { u64::MAX } else { options.count };
    let mut next = None;
    collection::walk(&ctx.keys, key, &collection, &from, |name, value| {
        if left == 0 {
            next = Some(name.to_vec());
            return false;
        }
        left -= 1;
        if options.accept_name(name) {
            found.extend([name]);
            if kind == DiskType::Hash {
                found.extend([value]);
            }
        }
        true
    })?;
    write_step(out, next.map_or(0, cursor::keep), &found);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_numbers() {
        for (text, expected) in
            [("0", Some(0)), ("18446744073709551615", Some(u64::MAX)), ("18446744073709551616", None)]
        {
            assert_eq!(parse_cursor(text.as_bytes()).ok(), expected, "{text}");
        }
        for text in ["", " 1", "1 ", "-1", "+1", "x"] {
            assert!(parse_cursor(text.as_bytes()).is_err(), "{text}");
        }
    }
}
