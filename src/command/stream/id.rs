//! Stream ids as clients write and read them.

use super::super::definition::Fail;
use super::super::errors;
use super::super::reply::Out;
use crate::engine::key::StreamId;

/// The id that XADD is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NewId {
    /// `*`: the id comes from the clock.
    Auto,
    /// `ms-*`: the next id in this millisecond.
    NextIn(u64),
    /// Exactly this id.
    Exactly(StreamId),
}

impl NewId {
    /// Reads an id. Without a sequence part the sequence is 0.
    pub(super) fn parse(text: &[u8]) -> Result<Self, Fail> {
        if text == b"*" {
            return Ok(Self::Auto);
        }
        match text.strip_suffix(b"-*") {
            Some(ms) => Ok(Self::NextIn(parse_part(ms).ok_or(errors::INVALID_STREAM_ID)?)),
            None => Ok(Self::Exactly(parse(text, 0)?)),
        }
    }

    /// Returns the id to give out after `last`.
    pub(super) fn after(self, last: StreamId, now_ms: u64) -> Result<StreamId, Fail> {
        const EXHAUSTED: &str = "ERR The stream has exhausted the last possible ID, unable to add more items";
        let next = last.next().ok_or(EXHAUSTED)?;
        let id = match self {
            Self::Auto => next.max(StreamId { ms: now_ms, seq: 0 }),
            // After the last sequence of a millisecond, the next id lies in another one.
            Self::NextIn(ms) if ms == last.ms && next.ms == ms => next,
            Self::NextIn(ms) => StreamId { ms, seq: 0 },
            Self::Exactly(id) => id,
        };
        if id <= last {
            return Err(errors::STREAM_ID_TOO_SMALL.into());
        }
        Ok(id)
    }
}

/// Reads `ms-seq`, or `ms`, which gets the sequence `missing_seq`.
pub(super) fn parse(text: &[u8], missing_seq: u64) -> Result<StreamId, Fail> {
    let parts = match text.iter().position(|&byte| byte == b'-') {
        Some(dash) => parse_part(&text[..dash]).zip(parse_part(&text[dash + 1..])),
        None => parse_part(text).map(|ms| (ms, missing_seq)),
    };
    let (ms, seq) = parts.ok_or(errors::INVALID_STREAM_ID)?;
    Ok(StreamId { ms, seq })
}

fn parse_part(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Reads the lower bound of a range: `-`, `+`, an id, or `(` and an id, which is then outside the range.
pub(super) fn parse_start(text: &[u8]) -> Result<StreamId, Fail> {
    match text {
        [b'(', id @ ..] => Ok(parse(id, 0)?.next().ok_or("ERR invalid start ID for the interval")?),
        _ => parse_bound(text, 0),
    }
}

/// Reads the upper bound of a range. An id without a sequence part means the whole millisecond.
pub(super) fn parse_end(text: &[u8]) -> Result<StreamId, Fail> {
    match text {
        [b'(', id @ ..] => Ok(parse(id, u64::MAX)?.prev().ok_or("ERR invalid end ID for the interval")?),
        _ => parse_bound(text, u64::MAX),
    }
}

fn parse_bound(text: &[u8], missing_seq: u64) -> Result<StreamId, Fail> {
    match text {
        b"-" => Ok(StreamId::MIN),
        b"+" => Ok(StreamId::MAX),
        _ => parse(text, missing_seq),
    }
}

/// Writes an id as a bulk string.
pub(super) fn write(out: &mut Out, id: StreamId) {
    /// Bytes of two numbers of 20 digits and a dash.
    const TEXT_BYTES_MAX: usize = 41;
    let mut text = [b'-'; TEXT_BYTES_MAX];
    let mut digits = itoa::Buffer::new();
    let ms = digits.format(id.ms).as_bytes();
    text[..ms.len()].copy_from_slice(ms);
    let seq_at = ms.len() + 1;
    let seq = digits.format(id.seq).as_bytes();
    text[seq_at..seq_at + seq.len()].copy_from_slice(seq);
    out.bulk(&text[..seq_at + seq.len()]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64, seq: u64) -> StreamId {
        StreamId { ms, seq }
    }

    fn message<T: std::fmt::Debug>(result: Result<T, Fail>) -> String {
        match result {
            Err(Fail::Reply(message)) => message.into_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ids_are_read_as_redis_does() {
        assert_eq!(parse(b"5-3", 9).unwrap(), id(5, 3));
        assert_eq!(parse(b"5", 9).unwrap(), id(5, 9));
        assert_eq!(parse(b"007-+5", 9).unwrap(), id(7, 5));
        assert_eq!(parse(b"18446744073709551615-18446744073709551615", 0).unwrap(), StreamId::MAX);
        for text in ["", "-", "+", "*", "a", "5-", "-5", "5--3", "5-3-1", "5-*", "18446744073709551616", "5 ", "\u{e9}"]
        {
            assert_eq!(message(parse(text.as_bytes(), 0)), errors::INVALID_STREAM_ID, "{text}");
        }
    }

    #[test]
    fn bounds_are_open_or_closed() {
        assert_eq!(parse_start(b"-").unwrap(), StreamId::MIN);
        assert_eq!(parse_end(b"+").unwrap(), StreamId::MAX);
        assert_eq!((parse_start(b"5").unwrap(), parse_end(b"5").unwrap()), (id(5, 0), id(5, u64::MAX)));
        assert_eq!((parse_start(b"(5").unwrap(), parse_end(b"(5").unwrap()), (id(5, 1), id(5, u64::MAX - 1)));
        assert_eq!((parse_start(b"(5-1").unwrap(), parse_end(b"(5-0").unwrap()), (id(5, 2), id(4, u64::MAX)));
        assert_eq!(
            message(parse_start(b"(18446744073709551615-18446744073709551615")),
            "ERR invalid start ID for the interval"
        );
        assert_eq!(message(parse_end(b"(0-0")), "ERR invalid end ID for the interval");
        for text in [&b"("[..], b"(-", b"(+", b"((1", b"[1"] {
            assert_eq!(message(parse_start(text)), errors::INVALID_STREAM_ID);
            assert_eq!(message(parse_end(text)), errors::INVALID_STREAM_ID);
        }
    }

    #[test]
    fn new_ids_are_above_the_last() {
        let after = |text: &str, last, now_ms| NewId::parse(text.as_bytes()).unwrap().after(last, now_ms);
        assert_eq!(after("*", id(5, 3), 9).unwrap(), id(9, 0));
        assert_eq!(after("*", id(5, 3), 5).unwrap(), id(5, 4));
        assert_eq!(after("*", id(5, 3), 2).unwrap(), id(5, 4));
        assert_eq!(after("*", id(5, u64::MAX), 2).unwrap(), id(6, 0));
        assert_eq!(after("5-*", id(5, 3), 0).unwrap(), id(5, 4));
        assert_eq!(after("6-*", id(5, 3), 0).unwrap(), id(6, 0));
        assert_eq!(after("0-*", id(0, 0), 0).unwrap(), id(0, 1));
        assert_eq!(after("6", id(5, 3), 0).unwrap(), id(6, 0));
        for (text, last) in [("5-3", id(5, 3)), ("5", id(5, 3)), ("4-*", id(5, 3)), ("5-*", id(5, u64::MAX))] {
            assert_eq!(message(after(text, last, 0)), errors::STREAM_ID_TOO_SMALL, "{text}");
        }
        assert!(message(after("*", StreamId::MAX, 0)).contains("exhausted"));
        assert_eq!(message(NewId::parse(b"-*")), errors::INVALID_STREAM_ID);
    }

    #[test]
    fn ids_are_written_in_decimal() {
        for (id, text) in [
            (StreamId::MIN, "$3\r\n0-0\r\n"),
            (id(1_700_000_000_000, 12), "$16\r\n1700000000000-12\r\n"),
            (StreamId::MAX, "$41\r\n18446744073709551615-18446744073709551615\r\n"),
        ] {
            let mut out = Out::default();
            write(&mut out, id);
            assert_eq!(out.as_bytes(), text.as_bytes());
        }
    }
}
