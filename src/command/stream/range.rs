//! XRANGE and XREVRANGE.

use super::super::args::Args;
use super::super::definition::{Ctx, Done, Fail};
use super::super::errors;
use super::super::number::integer;
use super::super::reply::Out;
use super::{entry, find, id};
use crate::engine::elements::entry_id;
use crate::engine::key::StreamId;
use crate::engine::keyspace::Keyspace;
use crate::engine::meta::Collection;
use crate::engine::scan::Direction;
use std::ops::Range;

/// XRANGE key start end [COUNT count]
pub(crate) fn xrange(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    list(ctx, args, Direction::Forward, out)
}

/// XREVRANGE key end start [COUNT count]
pub(crate) fn xrevrange(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    list(ctx, args, Direction::Backward, out)
}

fn list(ctx: &mut Ctx<'_>, args: Args<'_>, direction: Direction, out: &mut Out) -> Done {
    let key = args.get(1);
    let (start, end) = if direction == Direction::Forward { (2, 3) } else { (3, 2) };
    let ids = id::parse_start(&args[start])?..id::parse_end(&args[end])?;
    let count = parse_count(args.from(4))?;
    let Some(stream) = find(&ctx.keys, key)? else {
        out.array(0);
        return Ok(());
    };
    if count == Some(0) {
        out.null_array();
        return Ok(());
    }
    let list = out.begin_array();
    let listed = write_entries(&ctx.keys, key, &stream, Request { ids, direction, count }, out)?;
    out.end_array(list, listed);
    Ok(())
}

/// Reads COUNT; the last one counts if there are several. A negative COUNT is 0.
fn parse_count(options: Args<'_>) -> Result<Option<u64>, Fail> {
    let mut count = None;
    for option in (0..options.len()).step_by(2) {
        let value = options.try_get(option + 1).filter(|_| options[option].eq_ignore_ascii_case(b"count"));
        let value = integer(value.ok_or(errors::SYNTAX)?)?;
        count = Some(u64::try_from(value).unwrap_or(0));
    }
    Ok(count)
}

/// The entries to list.
pub(super) struct Request {
    /// First and last id, both inclusive.
    pub ids: Range<StreamId>,
    /// Direction of the listing.
    pub direction: Direction,
    /// Largest number of entries; `None` means all.
    pub count: Option<u64>,
}

/// Writes entries, each as an array of its id and its fields. Returns the number of entries.
pub(super) fn write_entries(
    keys: &Keyspace<'_>,
    key: &[u8],
    stream: &Collection,
    request: Request,
    out: &mut Out,
) -> Result<usize, Fail> {
    let ids = request.ids.start.max(stream.first_id)..request.ids.end;
    if ids.start > ids.end {
        return Ok(0);
    }
    let wanted = request.count.map_or(usize::MAX, |count| count as usize);
    let mut scan = keys.entries(key, stream.generation, ids, request.direction)?;
    let mut written = 0;
    while written < wanted
        && let Some((stored, fields)) = scan.next()?
    {
        out.array(2);
        id::write(out, entry_id(stored)?);
        entry::write(fields, out)?;
        written += 1;
    }
    Ok(written)
}
