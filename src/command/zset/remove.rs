//! Removal from sorted sets: by member, by rank, by score, and from either end.

use super::super::args::Args;
use super::super::definition::{Ctx, Done};
use super::super::number::{self, integer};
use super::super::reply::Out;
use super::super::{errors, index};
use super::bounds::ScoreRange;
use super::{Form, Order, find, write_members};
use crate::engine::memory::Zset;
use hashbrown::HashSet;
use std::ops::Range;

/// ZREM key member [member ...]
pub(crate) fn zrem(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let (key, members) = (args.get(1), args.from(2).iter());
    let Some(zset) = find(&ctx.keys, key)? else {
        out.int(0);
        return Ok(());
    };
    let is_single = members.len() == 1;
    let mut seen = HashSet::new();
    let mut is_first = |member| is_single || seen.insert(member);
    let gone: Vec<&[u8]> = members.filter(|member| zset.score(member).is_some() && is_first(*member)).collect();
    drop(zset);
    if !gone.is_empty() {
        ctx.keys.change_in_memory(key, |ops| ops.remove_scored(key, gone.iter().copied()))?;
    }
    out.count(gone.len() as u64);
    Ok(())
}

/// ZREMRANGEBYRANK key start stop
pub(crate) fn zremrangebyrank(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let (start, stop) = (integer(&args[2])?, integer(&args[3])?);
    remove_range(ctx, args.get(1), |zset| index::range(start, stop, zset.len()), out)
}

/// ZREMRANGEBYSCORE key min max
pub(crate) fn zremrangebyscore(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let scores = ScoreRange::parse(&args[2], &args[3])?;
    remove_range(ctx, args.get(1), |zset| scores.ranks(zset), out)
}

fn remove_range(ctx: &mut Ctx<'_>, key: &[u8], ranks: impl FnOnce(&Zset) -> Range<u64>, out: &mut Out) -> Done {
    let ranks = find(&ctx.keys, key)?.map_or(0..0, |zset| ranks(&zset));
    out.count(ranks.end - ranks.start);
    remove_ranks(ctx, key, ranks)
}

fn remove_ranks(ctx: &mut Ctx<'_>, key: &[u8], ranks: Range<u64>) -> Done {
    if !ranks.is_empty() {
        ctx.keys.change_in_memory(key, |ops| ops.remove_ranks(key, ranks.start, ranks.end))?;
    }
    Ok(())
}

/// ZPOPMIN key [count]
pub(crate) fn zpopmin(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    pop(ctx, args, Order::Ascending, out)
}

/// ZPOPMAX key [count]
pub(crate) fn zpopmax(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    pop(ctx, args, Order::Descending, out)
}

/// Removes members from the beginning of a listing in this order and writes them.
fn pop(ctx: &mut Ctx<'_>, args: Args<'_>, order: Order, out: &mut Out) -> Done {
    if args.len() > 3 {
        return Err(errors::SYNTAX.into());
    }
    let (count, form) = match args.try_get(2) {
        Some(text) => (number::count(text)?, Form::Paired),
        None => (1, Form::Flat),
    };
    let Some(zset) = find(&ctx.keys, &args[1])? else {
        out.array(0);
        return Ok(());
    };
    let count = count.min(zset.len());
    let ranks = match order {
        Order::Ascending => 0..count,
        Order::Descending => zset.len() - count..zset.len(),
    };
    write_members(out, &zset, ranks.clone(), order, form);
    drop(zset);
    remove_ranks(ctx, args.get(1), ranks)
}
