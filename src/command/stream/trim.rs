//! Trimming: XTRIM and the options that XTRIM shares with XADD.
//!
//! Approximate trimming (`~`) never deletes more than exact trimming would. By MAXLEN, it waits until [`SLACK_ENTRIES`]
//! are in excess, so that a stream that each XADD trims is searched only once in so many. It stops after
//! [`LIMIT_ENTRIES`], unless LIMIT says otherwise.

use super::super::args::Args;
use super::super::definition::{Ctx, Done, Fail};
use super::super::errors;
use super::super::number::integer;
use super::super::reply::Out;
use super::{find, id};
use crate::engine::elements::entry_id;
use crate::engine::key::StreamId;
use crate::engine::keyspace::Keyspace;
use crate::engine::meta::Collection;
use crate::engine::scan::Direction;

/// Entries in excess of MAXLEN at which approximate trimming begins (Redis' `stream-node-max-entries`).
const SLACK_ENTRIES: u64 = 100;
/// Largest number of entries that approximate trimming deletes without LIMIT (in Redis: 100 nodes).
const LIMIT_ENTRIES: u64 = 100 * SLACK_ENTRIES;

const TWO_STRATEGIES: &str = "ERR syntax error, MAXLEN and MINID options at the same time are not compatible";
const NEGATIVE_LEN: &str = "ERR The MAXLEN argument must be >= 0.";
const NEGATIVE_LIMIT: &str = "ERR The LIMIT argument must be >= 0.";
const LIMIT_OF_NOTHING: &str = "ERR syntax error, LIMIT cannot be used without specifying a trimming strategy";
const LIMIT_OF_EXACT: &str = "ERR syntax error, LIMIT cannot be used without the special ~ option";
const NO_STRATEGY: &str = "ERR syntax error, XTRIM must be called with a trimming strategy";

/// Which entries stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Keep {
    /// MAXLEN: the last ones, this many.
    Last(u64),
    /// MINID: those with this id or a higher one.
    From(StreamId),
}

/// The entries to trim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Trim {
    keep: Keep,
    is_approximate: bool,
    /// Largest number of entries to delete.
    limit: u64,
}

/// The options of XADD and XTRIM as the client wrote them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Options {
    keep: Option<Keep>,
    is_approximate: bool,
    limit: Option<u64>,
    /// Whether XADD creates a stream that does not exist.
    pub makes_stream: bool,
}

/// XTRIM key MAXLEN|MINID [=|~] threshold [LIMIT count]
pub(crate) fn xtrim(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let key = args.get(1);
    let (options, end) = Options::parse(args, false)?;
    if end < args.len() {
        return Err(errors::SYNTAX.into());
    }
    let trim = options.trim()?.ok_or(NO_STRATEGY)?;
    let deleted = match find(&ctx.keys, key)? {
        Some(mut stream) => {
            let deleted = trim.apply(&mut ctx.keys, key, &mut stream)?;
            if deleted > 0 {
                ctx.keys.put_collection(key, &stream)?;
            }
            deleted
        }
        None => 0,
    };
    out.count(deleted);
    Ok(())
}

impl Options {
    /// Reads the options from argument 2 on. Returns them and the position of the first argument that is not an option.
    pub(super) fn parse(args: Args<'_>, takes_nomkstream: bool) -> Result<(Self, usize), Fail> {
        let mut options = Self { keep: None, is_approximate: false, limit: None, makes_stream: true };
        let mut at = 2;
        while let Some(option) = args.try_get(at) {
            let is = |name: &[u8]| option.eq_ignore_ascii_case(name);
            let has_value = at + 1 < args.len();
            if has_value && (is(b"maxlen") || is(b"minid")) {
                at = options.parse_strategy(args, at)?;
            } else if has_value && is(b"limit") {
                let limit = integer(&args[at + 1])?;
                options.limit = Some(u64::try_from(limit).map_err(|_| NEGATIVE_LIMIT)?);
                at += 2;
            } else if takes_nomkstream && is(b"nomkstream") {
                options.makes_stream = false;
                at += 1;
            } else {
                break;
            }
        }
        Ok((options, at))
    }

    /// Reads MAXLEN or MINID at `at`. Returns the position behind it.
    fn parse_strategy(&mut self, args: Args<'_>, at: usize) -> Result<usize, Fail> {
        if self.keep.is_some() {
            return Err(TWO_STRATEGIES.into());
        }
        let has_mark = at + 2 < args.len() && matches!(&args[at + 1], b"~" | b"=");
        self.is_approximate = has_mark && &args[at + 1] == b"~";
        let value_at = at + 1 + usize::from(has_mark);
        let value = &args[value_at];
        self.keep = Some(if args[at].eq_ignore_ascii_case(b"maxlen") {
            Keep::Last(u64::try_from(integer(value)?).map_err(|_| NEGATIVE_LEN)?)
        } else {
            Keep::From(id::parse(value, 0)?)
        });
        Ok(value_at + 1)
    }

    /// Checks the options and returns what to trim; `None` if they do not ask for trimming.
    pub(super) fn trim(&self) -> Result<Option<Trim>, Fail> {
        if self.keep.is_none() && self.limit.is_some_and(|limit| limit > 0) {
            return Err(LIMIT_OF_NOTHING.into());
        }
        if !self.is_approximate && self.limit.is_some() {
            return Err(LIMIT_OF_EXACT.into());
        }
        let limit = match self.limit {
            None if self.is_approximate => LIMIT_ENTRIES,
            None | Some(0) => u64::MAX,
            Some(limit) => limit,
        };
        Ok(self.keep.map(|keep| Trim { keep, is_approximate: self.is_approximate, limit }))
    }
}

impl Trim {
    /// Returns how many entries of a stream may be deleted, and the id below which they must lie.
    fn bounds(&self, stream: &Collection) -> (u64, StreamId) {
        match self.keep {
            Keep::Last(len) => {
                let excess = stream.count.saturating_sub(len);
                let waits = self.is_approximate && excess < SLACK_ENTRIES;
                (if waits { 0 } else { excess.min(self.limit) }, StreamId::MAX)
            }
            Keep::From(id) if id <= stream.first_id => (0, id),
            Keep::From(id) => (stream.count.min(self.limit), id),
        }
    }

    /// Deletes entries and returns their number. `stream` is updated but not stored.
    pub(super) fn apply(&self, keys: &mut Keyspace<'_>, key: &[u8], stream: &mut Collection) -> Result<u64, Fail> {
        let (count_max, below) = self.bounds(stream);
        if count_max == 0 {
            return Ok(0);
        }
        let mut doomed = Vec::new();
        let mut first_left = stream.last_id;
        let mut scan = keys.entries(key, stream.generation, stream.first_id..StreamId::MAX, Direction::Forward)?;
        while let Some((stored, _)) = scan.next()? {
            let id = entry_id(stored)?;
            if doomed.len() as u64 == count_max || id >= below {
                first_left = id;
                break;
            }
            doomed.push(id);
            keys.require_room(doomed.len() * (key.len() + size_of::<StreamId>()))?;
        }
        drop(scan);
        for &id in &doomed {
            keys.delete_entry(key, stream.generation, id);
        }
        let deleted = doomed.len() as u64;
        stream.count = stream.count.saturating_sub(deleted);
        stream.first_id = first_left;
        Ok(deleted)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::args::OwnedArgs;
    use super::*;
    use crate::engine::key::Generation;
    use crate::engine::meta::DiskType;

    fn parse(request: &str) -> Result<(Option<Trim>, usize), String> {
        let args: OwnedArgs = request.split(' ').collect();
        let takes_nomkstream = request.starts_with("xadd");
        let parsed =
            Options::parse(args.as_args(), takes_nomkstream).and_then(|(options, at)| Ok((options.trim()?, at)));
        parsed.map_err(|fail| match fail {
            Fail::Reply(message) => message.into_owned(),
            other => panic!("{request}: {other:?}"),
        })
    }

    fn exact(keep: Keep) -> Option<Trim> {
        Some(Trim { keep, is_approximate: false, limit: u64::MAX })
    }

    fn approximate(keep: Keep, limit: u64) -> Option<Trim> {
        Some(Trim { keep, is_approximate: true, limit })
    }

    #[test]
    fn options_are_read_as_redis_does() {
        let minid = Keep::From(StreamId { ms: 5, seq: 0 });
        assert_eq!(parse("xadd s * a b"), Ok((None, 2)));
        assert_eq!(parse("xadd s NoMkStream MaxLen 3 * a b"), Ok((exact(Keep::Last(3)), 5)));
        assert_eq!(parse("xtrim s maxlen = 3"), Ok((exact(Keep::Last(3)), 5)));
        assert_eq!(parse("xtrim s minid 5"), Ok((exact(minid), 4)));
        assert_eq!(parse("xtrim s minid ~ 5"), Ok((approximate(minid, LIMIT_ENTRIES), 5)));
        assert_eq!(parse("xtrim s maxlen ~ 3 limit 7"), Ok((approximate(Keep::Last(3), 7), 7)));
        assert_eq!(parse("xtrim s limit 0 maxlen ~ 3"), Ok((approximate(Keep::Last(3), u64::MAX), 7)));
        assert_eq!(parse("xtrim s nomkstream maxlen 3"), Ok((None, 2)));
        assert_eq!(parse("xadd s maxlen"), Ok((None, 2)));
    }

    #[test]
    fn options_that_do_not_go_together_are_refused() {
        for (request, error) in [
            ("xadd s maxlen 1 minid 1 *", TWO_STRATEGIES),
            ("xadd s maxlen 1 maxlen 1 *", TWO_STRATEGIES),
            ("xadd s maxlen -1 *", NEGATIVE_LEN),
            ("xadd s maxlen x *", errors::NOT_AN_INTEGER),
            ("xadd s maxlen ~ *", errors::NOT_AN_INTEGER),
            ("xadd s minid - *", errors::INVALID_STREAM_ID),
            ("xadd s maxlen ~ 1 limit -1 *", NEGATIVE_LIMIT),
            ("xadd s limit 3 *", LIMIT_OF_NOTHING),
            ("xadd s limit 0 *", LIMIT_OF_EXACT),
            ("xadd s maxlen 1 limit 3 *", LIMIT_OF_EXACT),
            ("xadd s maxlen = 1 limit 3 *", LIMIT_OF_EXACT),
        ] {
            assert_eq!(parse(request).unwrap_err(), error, "{request}");
        }
    }

    #[test]
    fn no_more_goes_than_was_asked_for() {
        let id = |ms| StreamId { ms, seq: 0 };
        let stream = Collection {
            count: 250,
            last_id: id(300),
            first_id: id(10),
            ..Collection::new(DiskType::Stream, Generation(1))
        };
        let count = |request: &str| parse(request).unwrap().0.unwrap().bounds(&stream).0;
        assert_eq!(count("xtrim s maxlen 249"), 1);
        assert_eq!(count("xtrim s maxlen 250"), 0);
        assert_eq!(count("xtrim s maxlen 0"), 250);
        assert_eq!(count("xtrim s maxlen ~ 151"), 0);
        assert_eq!(count("xtrim s maxlen ~ 150"), 100);
        assert_eq!(count("xtrim s maxlen ~ 0 limit 30"), 30);
        assert_eq!(count("xtrim s minid 10"), 0);
        assert_eq!(parse("xtrim s minid 11").unwrap().0.unwrap().bounds(&stream), (250, id(11)));
        assert_eq!(count("xtrim s minid ~ 11 limit 30"), 30);
    }
}
