//! Sorted sets: members with scores, in memory, ordered by score and then by the member's bytes.
//!
//! Guarantees: an effect carries final scores, existing members, or ranks, so that applying the effect needs no
//! arithmetic and no search; pairs that change nothing are not part of an effect. A sorted set without members does not
//! exist. The score -0 is 0. An expired sorted set is left to the expiry cycle by a command that would only remove
//! members from it.
//!
//! Lexical ranges are defined only for sets whose members all have the same score, as in Redis.

mod add;
mod bounds;
mod range;
mod remove;

pub(super) use add::{zadd, zincrby};
pub(super) use range::{zcount, zrange, zrangebylex, zrangebyscore, zrevrange, zrevrangebyscore};
pub(super) use remove::{zpopmax, zpopmin, zrem, zremrangebyrank, zremrangebyscore};

use super::args::Args;
use super::definition::{Ctx, Done, Fail};
use super::errors;
use super::reply::{Out, Protocol};
use crate::engine::keyspace::{Keyspace, ZsetRef};
use crate::engine::memory::Zset;
use std::ops::Range;

/// Returns the sorted set at a key; `None` if there is no such key.
fn find<'k>(keys: &'k Keyspace<'_>, key: &[u8]) -> Result<Option<ZsetRef<'k>>, Fail> {
    let zset = keys.zset(key)?;
    if zset.is_none() && !keys.find(key)?.is_absent() {
        return Err(errors::WRONG_TYPE.into());
    }
    Ok(zset)
}

/// Order in which members are listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    Ascending,
    Descending,
}

/// Form in which members are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// Members only.
    Bare,
    /// Members and scores in one array.
    Flat,
    /// Members and scores: in one array in RESP2, as pairs in RESP3.
    Paired,
}

/// Writes the members at these ranks, which must exist.
fn write_members(out: &mut Out, zset: &Zset, ranks: Range<u64>, order: Order, form: Form) {
    let count = (ranks.end - ranks.start) as usize;
    let nests = form == Form::Paired && out.protocol() == Protocol::Resp3;
    out.array(if form == Form::Bare || nests { count } else { count * 2 });
    let write = |(member, score): (&[u8], f64)| {
        if nests {
            out.array(2);
        }
        out.bulk(member);
        if form != Form::Bare {
            out.double(score);
        }
    };
    match order {
        Order::Ascending => zset.iter_from(ranks.start).take(count).for_each(write),
        Order::Descending => zset.iter_back_from(ranks.end.saturating_sub(1)).take(count).for_each(write),
    }
}

/// ZCARD key
pub(super) fn zcard(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    out.count(find(&ctx.keys, &args[1])?.map_or(0, |zset| zset.len()));
    Ok(())
}

/// ZSCORE key member
pub(super) fn zscore(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    match find(&ctx.keys, &args[1])?.and_then(|zset| zset.score(&args[2])) {
        Some(score) => out.double(score),
        None => out.null(),
    }
    Ok(())
}

/// ZRANK key member
pub(super) fn zrank(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    rank(ctx, args, Order::Ascending, out)
}

/// ZREVRANK key member
pub(super) fn zrevrank(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    rank(ctx, args, Order::Descending, out)
}

fn rank(ctx: &mut Ctx<'_>, args: Args<'_>, order: Order, out: &mut Out) -> Done {
    let zset = find(&ctx.keys, &args[1])?;
    match zset.and_then(|zset| Some((zset.rank(&args[2])?, zset.len()))) {
        Some((rank, _)) if order == Order::Ascending => out.count(rank),
        Some((rank, len)) => out.count(len - 1 - rank),
        None => out.null(),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
