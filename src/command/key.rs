//! Commands on keys of any type: existence, type and deletion. Further ones are re-exported.

pub(super) use super::all_keys::{dbsize, keys};
pub(super) use super::expire::{expire, expireat, expiretime, persist, pexpire, pexpireat, pexpiretime, pttl, ttl};
pub(super) use super::rename::{rename, renamenx};

use super::args::Args;
use super::definition::{Ctx, Done};
use super::errors;
use super::reply::Out;

/// DEL key [key ...], UNLINK key [key ...]
pub(super) fn del(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let mut deleted = 0;
    for key in args.from(1).iter() {
        let found = ctx.keys.find_to_change(key)?;
        ctx.keys.delete(key, &found)?;
        deleted += i64::from(!found.is_absent());
    }
    out.int(deleted);
    Ok(())
}

/// EXISTS key [key ...]
pub(super) fn exists(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let keys = args.from(1);
    let mut found = 0;
    if keys.len() > 1 && ctx.keys.require_lock().is_err() {
        ctx.keys.with_slots(keys.iter(), |slot| found += i64::from(slot.is_some()))?;
        out.int(found);
        return Ok(());
    }
    for key in keys.iter() {
        found += i64::from(!ctx.keys.find(key)?.is_absent());
    }
    out.int(found);
    Ok(())
}

/// TYPE key
pub(super) fn type_of(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    out.simple(ctx.keys.find(&args[1])?.type_name());
    Ok(())
}

/// FLUSHALL [ASYNC | SYNC], FLUSHDB [ASYNC | SYNC]
pub(super) fn flush(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let is_known =
        args.try_get(1).is_none_or(|mode| mode.eq_ignore_ascii_case(b"async") || mode.eq_ignore_ascii_case(b"sync"));
    if args.len() > 2 || !is_known {
        return Err(errors::SYNTAX.into());
    }
    ctx.keys.clear()?;
    out.ok();
    Ok(())
}
