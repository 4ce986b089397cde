//! Keys of any type: whether they are there, what they hold, which there are, and their end.

pub use super::expire::{expire, expireat, expiretime, persist, pexpire, pexpireat, pexpiretime, pttl, ttl};
pub use super::rename::{rename, renamenx};

use super::args::Args;
use super::reply::Out;
use super::{Ctx, Done, errors, glob};
use crate::engine::key::SLOTS;
use crate::engine::keyspace::scanned_key;

/// Keys on disk up to which DBSIZE counts them itself, unless their values are large.
const COUNTED_KEYS_MAX: u64 = 1000;
/// Bytes of values that DBSIZE reads for that.
const COUNTED_BYTES_MAX: usize = 1 << 20;

/// DEL key [key ...], UNLINK key [key ...]
pub fn del(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
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
pub fn exists(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let keys = args.from(1);
    if keys.len() > 1 {
        // Several reads show one moment only under the lock.
        ctx.keys.memory()?;
    }
    let mut found = 0;
    for key in keys.iter() {
        found += i64::from(!ctx.keys.find(key)?.is_absent());
    }
    out.int(found);
    Ok(())
}

/// TYPE key
pub fn type_of(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    out.simple(ctx.keys.find(&args[1])?.type_name());
    Ok(())
}

/// KEYS pattern
pub fn keys(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let (pattern, now_ms) = (args.get(1), ctx.keys.now_ms);
    let array = out.begin_array();
    let mut count = 0;
    let mut write = |key: &[u8], expire_ms: u64| {
        let is_expired = expire_ms != 0 && expire_ms <= now_ms;
        if !is_expired && glob::matches(pattern, key) {
            out.bulk(key);
            count += 1;
        }
    };
    let mut scan = ctx.keys.disk_keys(0..SLOTS);
    while let Some(pair) = scan.next()? {
        let (key, meta) = scanned_key(pair)?;
        write(key, meta.expire_ms());
    }
    let memory = ctx.keys.memory()?;
    memory.lists.iter().for_each(|(key, list)| write(key, list.expire_ms));
    memory.zsets.iter().for_each(|(key, zset)| write(key, zset.expire_ms));
    out.end_array(array, count);
    Ok(())
}

/// DBSIZE
///
/// Exact where there are few keys on disk; else the host's count, which may be a little old.
pub fn dbsize(ctx: &mut Ctx<'_>, _: Args<'_>, out: &mut Out) -> Done {
    let in_memory = ctx.keys.memory()?.len() as u64;
    let (mut on_disk, mut bytes) = (0, 0);
    let mut scan = ctx.keys.disk_keys(0..SLOTS);
    while let Some((_, value)) = scan.next()? {
        on_disk += 1;
        bytes += value.len();
        if on_disk > COUNTED_KEYS_MAX || bytes > COUNTED_BYTES_MAX {
            on_disk = ctx.host.disk_key_count()?;
            break;
        }
    }
    out.count(in_memory + on_disk);
    Ok(())
}

/// FLUSHALL [ASYNC | SYNC], FLUSHDB [ASYNC | SYNC]
pub fn flush(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let is_known =
        args.try_get(1).is_none_or(|mode| mode.eq_ignore_ascii_case(b"async") || mode.eq_ignore_ascii_case(b"sync"));
    if args.len() > 2 || !is_known {
        return Err(errors::SYNTAX.into());
    }
    ctx.keys.clear()?;
    out.ok();
    Ok(())
}
