//! Streams: entries by id, on disk.
//!
//! Guarantees: an entry's id is above every id that the stream ever gave out. Trimming costs time in proportion to the
//! entries that it deletes, however many were deleted before. An emptied stream stays and keeps its last id. Consumer
//! groups are not supported.

mod add;
mod entry;
mod id;
mod range;
mod read;
mod trim;

pub(super) use add::xadd;
pub(super) use range::{xrange, xrevrange};
pub(super) use read::xread;
pub(super) use trim::xtrim;

use super::args::Args;
use super::definition::{Ctx, Done, Fail};
use super::errors;
use super::reply::Out;
use crate::engine::elements::entry_id;
use crate::engine::key::StreamId;
use crate::engine::keyspace::{Found, Keyspace};
use crate::engine::meta::{Collection, DiskType};
use crate::engine::scan::Direction;

/// Returns the stream that was found; `None` if there is no such key, an error if the key holds another type.
fn expect_stream(found: &Found) -> Result<Option<Collection>, Fail> {
    match found {
        Found::Absent => Ok(None),
        Found::Collection(stream) if stream.kind == DiskType::Stream => Ok(Some(*stream)),
        _ => Err(errors::WRONG_TYPE.into()),
    }
}

fn find(keys: &Keyspace<'_>, key: &[u8]) -> Result<Option<Collection>, Fail> {
    expect_stream(&keys.find(key)?)
}

/// XLEN key
pub(super) fn xlen(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    out.count(find(&ctx.keys, &args[1])?.map_or(0, |stream| stream.count));
    Ok(())
}

/// XDEL key id [id ...]
pub(super) fn xdel(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let key = args.get(1);
    let Some(mut stream) = find(&ctx.keys, key)? else {
        out.int(0);
        return Ok(());
    };
    let ids: Vec<StreamId> = args.from(2).iter().map(|text| id::parse(text, 0)).collect::<Result<_, _>>()?;
    let (mut deleted, mut is_first_gone) = (0, false);
    for id in ids {
        if ctx.keys.entry(key, stream.generation, id)?.is_some() {
            ctx.keys.delete_entry(key, stream.generation, id);
            deleted += 1;
            is_first_gone |= id == stream.first_id;
        }
    }
    if deleted > 0 {
        stream.count = stream.count.saturating_sub(deleted);
        if is_first_gone {
            stream.first_id = first_entry(&ctx.keys, key, &stream)?;
        }
        ctx.keys.put_collection(key, &stream)?;
    }
    out.count(deleted);
    Ok(())
}

/// Returns the id of the first entry; the last id given out if there is no entry.
fn first_entry(keys: &Keyspace<'_>, key: &[u8], stream: &Collection) -> Result<StreamId, Fail> {
    let mut scan = keys.entries(key, stream.generation, stream.first_id..StreamId::MAX, Direction::Forward)?;
    Ok(match scan.next()? {
        Some((stored, _)) => entry_id(stored)?,
        None => stream.last_id,
    })
}

#[cfg(test)]
mod tests;
