//! XREAD.

use super::super::args::{Args, OwnedArgs};
use super::super::client::Blocked;
use super::super::definition::{Ctx, Done, Fail};
use super::super::errors;
use super::super::number::{integer, parse_i64};
use super::super::reply::{Out, Protocol};
use super::range::{Request, write_entries};
use super::{find, id};
use crate::engine::key::StreamId;
use crate::engine::meta::Collection;
use crate::engine::scan::Direction;
use std::time::Duration;

const UNBALANCED: &str = "ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified.";
const GROUP: &str = "ERR The GROUP option is only supported by XREADGROUP. You called XREAD instead.";
const NO_ACK: &str = "ERR The NOACK option is only supported by XREADGROUP. You called XREAD instead.";
const NEW_TO_GROUP: &str =
    "ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> option.";
const TIMEOUT_NOT_AN_INTEGER: &str = "ERR timeout is not an integer or out of range";
const TIMEOUT_NEGATIVE: &str = "ERR timeout is negative";

/// XREAD [COUNT count] [BLOCK milliseconds] STREAMS key [key ...] id [id ...]
pub(crate) fn xread(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let Options { count, block, streams } = parse(args)?;
    let keys = streams.len() / 2;
    let mut sources: Vec<(&[u8], Collection, StreamId)> = Vec::with_capacity(keys);
    let mut resolved: Vec<StreamId> = Vec::with_capacity(keys);
    for at in 0..keys {
        let key = streams.get(at);
        let stream = find(&ctx.keys, key)?;
        let after = parse_after(&streams[keys + at], stream.as_ref())?;
        sources.extend(stream.map(|stream| (key, stream, after)));
        resolved.push(after);
    }

    let start = out.next_start();
    let list = out.begin_array();
    let mut listed = 0;
    for (key, stream, after) in &sources {
        listed += usize::from(write_stream(ctx, key, stream, *after, count, out)?);
    }
    match out.protocol() {
        _ if listed == 0 => {
            out.truncate(start);
            match block.filter(|_| !ctx.client.is_in_exec) {
                Some(timeout) => ctx.client.blocked = Some(Blocked { request: again(args, keys, &resolved), timeout }),
                None => out.null_array(),
            }
        }
        Protocol::Resp2 => out.end_array(list, listed),
        Protocol::Resp3 => out.end_map(list, listed),
    }
    Ok(())
}

/// Returns the request with each `$` replaced by the id that it stood for at the first run.
fn again(args: Args<'_>, keys: usize, resolved: &[StreamId]) -> OwnedArgs {
    let mut request: OwnedArgs = args.iter().take(args.len() - keys).collect();
    request.extend(resolved.iter().map(StreamId::to_string));
    request
}

/// Writes a stream's name and its entries after an id. Writes nothing and returns false if there are none.
fn write_stream(
    ctx: &Ctx<'_>,
    key: &[u8],
    stream: &Collection,
    after: StreamId,
    count: Option<u64>,
    out: &mut Out,
) -> Result<bool, Fail> {
    let Some(first) = after.next().filter(|_| stream.count > 0 && stream.last_id > after) else { return Ok(false) };
    let start = out.next_start();
    if out.protocol() == Protocol::Resp2 {
        out.array(2);
    }
    out.bulk(key);
    let entries = out.begin_array();
    let request = Request { ids: first..StreamId::MAX, direction: Direction::Forward, count };
    let written = write_entries(&ctx.keys, key, stream, request, out)?;
    if written == 0 {
        out.truncate(start);
        return Ok(false);
    }
    out.end_array(entries, written);
    Ok(true)
}

/// The options of XREAD.
struct Options<'a> {
    /// Largest number of entries of each stream.
    count: Option<u64>,
    /// Whether to wait if there are no entries, and for how long (inner `None`: without limit).
    block: Option<Option<Duration>>,
    /// The keys, then as many ids.
    streams: Args<'a>,
}

/// Reads the options.
fn parse(args: Args<'_>) -> Result<Options<'_>, Fail> {
    let (mut count, mut block) = (None, None);
    let mut at = 1;
    while let Some(option) = args.try_get(at) {
        let is = |name: &[u8]| option.eq_ignore_ascii_case(name);
        let value = args.try_get(at + 1);
        match value {
            Some(_) if is(b"streams") => {
                let streams = args.from(at + 1);
                if !streams.len().is_multiple_of(2) {
                    return Err(UNBALANCED.into());
                }
                return Ok(Options { count, block, streams });
            }
            Some(value) if is(b"block") => block = Some(parse_timeout(value)?),
            Some(value) if is(b"count") => {
                let value = integer(value)?;
                count = u64::try_from(value).ok().filter(|&count| count > 0);
            }
            Some(_) if is(b"group") && at + 2 < args.len() => return Err(GROUP.into()),
            _ if is(b"noack") => return Err(NO_ACK.into()),
            _ => return Err(errors::SYNTAX.into()),
        }
        at += 2;
    }
    Err(errors::SYNTAX.into())
}

/// Reads the milliseconds to wait; 0 means without limit.
fn parse_timeout(text: &[u8]) -> Result<Option<Duration>, Fail> {
    match parse_i64(text).ok_or(TIMEOUT_NOT_AN_INTEGER)? {
        0 => Ok(None),
        ms => u64::try_from(ms).map(|ms| Some(Duration::from_millis(ms))).map_err(|_| TIMEOUT_NEGATIVE.into()),
    }
}

/// Reads the id after which to read; `$` is the last id given out.
fn parse_after(text: &[u8], stream: Option<&Collection>) -> Result<StreamId, Fail> {
    match text {
        b"$" => Ok(stream.map_or(StreamId::MIN, |stream| stream.last_id)),
        b">" => Err(NEW_TO_GROUP.into()),
        _ => id::parse(text, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(request: &str) -> Result<(Option<u64>, usize), String> {
        let args: OwnedArgs = request.split(' ').collect();
        let parsed = parse(args.as_args()).map(|options| (options.count, options.streams.len()));
        parsed.map_err(|fail| match fail {
            Fail::Reply(message) => message.into_owned(),
            other => panic!("{request}: {other:?}"),
        })
    }

    #[test]
    fn options_are_read_as_redis_does() {
        assert_eq!(parsed("xread streams a b 0 0"), Ok((None, 4)));
        assert_eq!(parsed("xread Count 3 BLOCK 0 streams a 0"), Ok((Some(3), 2)));
        assert_eq!(parsed("xread count -3 streams a 0"), Ok((None, 2)));
        for (request, error) in [
            ("xread streams a b 0", UNBALANCED),
            ("xread count x streams a 0", errors::NOT_AN_INTEGER),
            ("xread block x streams a 0", TIMEOUT_NOT_AN_INTEGER),
            ("xread block -1 streams a 0", TIMEOUT_NEGATIVE),
            ("xread group g c streams a 0", GROUP),
            ("xread noack streams a 0", NO_ACK),
            ("xread count 1 block 0", errors::SYNTAX),
            ("xread foo streams a 0", errors::SYNTAX),
            ("xread count 1 streams", errors::SYNTAX),
        ] {
            assert_eq!(parsed(request).unwrap_err(), error, "{request}");
        }
    }

    #[test]
    fn a_place_to_read_from_is_an_id_or_the_end() {
        let last_id = StreamId { ms: 7, seq: 1 };
        let stream =
            Collection { last_id, ..Collection::new(crate::engine::meta::DiskType::Stream, Default::default()) };
        assert_eq!(parse_after(b"$", Some(&stream)).unwrap(), last_id);
        assert_eq!(parse_after(b"$", None).unwrap(), StreamId::MIN);
        assert_eq!(parse_after(b"5", Some(&stream)).unwrap(), StreamId { ms: 5, seq: 0 });
        assert!(parse_after(b">", None).is_err() && parse_after(b"+", None).is_err());
    }
}
