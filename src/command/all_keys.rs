//! DBSIZE and KEYS: commands that look at every key.
//!
//! Guarantees: they answer for one moment of all engines, and never hold up a writer or another client. Where keys are
//! many, they run on a thread of their own over a snapshot that was cut in microseconds. Commands inside MULTI cannot
//! wait for that thread: there KEYS is refused where keys are many, and DBSIZE returns the last count.

use super::args::Args;
use super::definition::{Ctx, Done};
use super::glob;
use super::host::Task;
use super::reply::{Deferred, Out};
use crate::commit::committer::Committer;
use crate::engine::batch::Family;
use crate::engine::disk::Disk;
use crate::engine::key;
use crate::engine::keyspace::Keyspace;
use crate::engine::meta::Meta;
use crate::engine::walk::Walked;
use crate::error::{Error, Result};
use bytes::BytesMut;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Largest number of keys that a command visits on the thread that serves its client.
const FEW_KEYS: usize = 1000;
/// Longest time for such a visit.
const FEW_KEYS_TIME: Duration = Duration::from_millis(5);

const TOO_MANY_FOR_EXEC: &str = "ERR KEYS inside MULTI would hold up other clients: there are more than 1000 keys. Send it outside of \
                                 the transaction, or use SCAN";

/// Calls `visit` with the keys on disk if they are few. Returns false if they are not, or if the visit takes too long;
/// some keys were visited then.
fn visit_few(keys: &Keyspace<'_>, mut visit: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<bool> {
    let mut left = FEW_KEYS;
    let walked = keys.walk(&[0, 0], Instant::now() + FEW_KEYS_TIME, |met| {
        if left == 0 {
            return Ok(ControlFlow::Break(()));
        }
        left -= 1;
        visit(met.key(), met.meta)?;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(walked == Walked::End)
}

/// Returns the number of keys on disk, including expired keys that are not deleted yet; `None` if they are many.
pub fn count_few(keys: &Keyspace<'_>) -> Result<Option<u64>> {
    let mut count = 0;
    let are_few = visit_few(keys, |_, _| {
        count += 1;
        Ok(())
    })?;
    Ok(are_few.then_some(count))
}

/// DBSIZE
pub fn dbsize(ctx: &mut Ctx<'_>, _: Args<'_>, out: &mut Out) -> Done {
    if !ctx.keys.memory().is_empty() {
        // Without the lock, keys of commits that are not written yet would count.
        ctx.keys.require_lock()?;
    }
    let in_memory = ctx.keys.memory().len() as u64;
    if let Some(on_disk) = count_few(&ctx.keys)? {
        out.count(in_memory + on_disk);
    } else if ctx.client.is_in_exec {
        out.count(in_memory + ctx.host.known_key_count());
    } else {
        ctx.client.task = Some(Task::CountKeys);
    }
    Ok(())
}

/// KEYS pattern
pub fn keys(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let start = out.next_start();
    let mut listing = Listing::new(args.get(1), ctx.keys.now_ms, out);
    let memory = ctx.keys.memory();
    let are_few = memory.len() <= FEW_KEYS
        && visit_few(&ctx.keys, |key, meta| {
            listing.add(key, Meta::decode(meta)?.expire_ms());
            Ok(())
        })?;
    if are_few {
        if !memory.is_empty() {
            ctx.keys.require_lock()?;
            memory.cut().iter().for_each(|slot| listing.add(slot.key(), slot.expire_ms()));
        }
        listing.end();
        return Ok(());
    }
    out.truncate(start);
    if ctx.client.is_in_exec {
        return Err(TOO_MANY_FOR_EXEC.into());
    }
    ctx.client.task = Some(Task::ListKeys(args.get(1).to_vec()));
    Ok(())
}

/// The reply of KEYS while it is written.
struct Listing<'l> {
    pattern: &'l [u8],
    now_ms: u64,
    out: &'l mut Out,
    array: Deferred,
    count: usize,
}

impl<'l> Listing<'l> {
    fn new(pattern: &'l [u8], now_ms: u64, out: &'l mut Out) -> Self {
        let array = out.begin_array();
        Self { pattern, now_ms, out, array, count: 0 }
    }

    fn add(&mut self, key: &[u8], expire_ms: u64) {
        let is_expired = expire_ms != 0 && expire_ms <= self.now_ms;
        if !is_expired && glob::matches(self.pattern, key) {
            self.out.bulk(key);
            self.count += 1;
        }
    }

    fn end(self) {
        self.out.end_array(self.array, self.count);
    }
}

/// Returns the encoded reply of KEYS. Takes time in proportion to the number of keys.
pub fn list(committer: &Committer, pattern: &[u8]) -> Result<BytesMut> {
    let disk = committer.disk();
    let (mut cursor, memory) = {
        // `lock_logs` writes all executed commits, so that both homes are cut at one moment.
        let _turn = committer.lock_logs();
        (disk.walk_all(Family::Default), committer.memory().cut())
    };
    let mut out = Out::default();
    let mut listing = Listing::new(pattern, crate::clock::now_millis(), &mut out);
    cursor.seek_to_first();
    while let Some((stored, meta)) = cursor.item() {
        let key = key::user_key(stored).ok_or_else(|| Error::corrupt("metadata key", "start", "is a system key"))?;
        listing.add(key, Meta::decode(meta)?.expire_ms());
        cursor.next();
    }
    cursor.status().map_err(Error::rocks("list all keys"))?;
    memory.iter().for_each(|slot| listing.add(slot.key(), slot.expire_ms()));
    listing.end();
    Ok(std::mem::take(out.buffer_mut()))
}

/// Returns the number of keys on disk, including expired keys that are not deleted yet. Takes time in proportion to the
/// number of keys.
pub fn count_on_disk(disk: &Disk) -> Result<u64> {
    let mut cursor = disk.walk_all(Family::Default);
    cursor.seek_to_first();
    let mut count = 0;
    while cursor.valid() {
        count += 1;
        cursor.next();
    }
    cursor.status().map_err(Error::rocks("count the keys"))?;
    Ok(count)
}
