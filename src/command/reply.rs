//! Writes replies in RESP2 or RESP3 straight into the connection's write buffer.
//!
//! Guarantees: a value for which RESP2 has no type is written as redis-server writes it for a RESP2 client; a simple
//! string or an error stays on one line whatever bytes it holds; the partial reply of a command that fails is rolled
//! back with [`Out::mark`] and [`Out::truncate`]. The size of the buffer is not limited here, and the caller must write
//! as many replies behind an aggregate as it announced.

use crate::command::number::{DoubleText, format_double};
use bytes::BytesMut;
use std::fmt::{Display, Write};

/// Protocol version of a connection. HELLO changes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Protocol {
    /// The version that every connection starts with.
    #[default]
    Resp2,
    /// The version with types for null, doubles, booleans, maps, sets and pushes.
    Resp3,
}

/// Position in an [`Out`] to roll back to. Valid until bytes are taken from the front of the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyStart(usize);

/// An aggregate whose length is not known yet. Inner aggregates must be ended before outer ones.
#[derive(Debug)]
#[must_use = "the aggregate's header is written when it is ended"]
pub struct Deferred(usize);

/// The reply side of a connection: its protocol version and the bytes that were not sent.
#[derive(Debug, Default)]
pub struct Out {
    buffer: BytesMut,
    protocol: Protocol,
}

impl Out {
    /// Makes an empty buffer.
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        Self { buffer: BytesMut::new(), protocol }
    }

    /// Returns the protocol version of the next replies.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Changes the protocol version of the next replies.
    pub fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    /// Returns the number of bytes that were not sent.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Reports whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Returns the bytes that were not sent.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Returns the buffer itself, for the connection, which sends the bytes and removes them.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Returns the present end of the buffer as a position to roll back to.
    #[must_use]
    pub fn next_start(&self) -> ReplyStart {
        ReplyStart(self.buffer.len())
    }

    /// Drops everything written since `mark`.
    pub fn truncate(&mut self, start: ReplyStart) {
        assert!(start.0 <= self.buffer.len(), "the replies after this start were sent");
        self.buffer.truncate(start.0);
    }

    /// Writes `+OK`.
    pub fn ok(&mut self) {
        self.buffer.extend_from_slice(b"+OK\r\n");
    }

    /// Writes a short text without structure, such as `QUEUED` or the name of a type.
    pub fn simple(&mut self, text: &str) {
        self.line(b'+', text);
    }

    /// Writes an error: its code in capitals, a blank, the message.
    pub fn error(&mut self, message: &str) {
        self.line(b'-', message);
    }

    /// Writes an integer.
    pub fn int(&mut self, value: i64) {
        let mut digits = itoa::Buffer::new();
        self.header(b':', digits.format(value));
    }

    /// Writes a count: as an integer, or as a [`Self::big_number`] if 63 bits cannot hold it.
    pub fn count(&mut self, value: u64) {
        match i64::try_from(value) {
            Ok(value) => self.int(value),
            Err(_) => self.big_number(itoa::Buffer::new().format(value)),
        }
    }

    /// Writes an integer of any size, given in decimal; a bulk string in RESP2.
    pub fn big_number(&mut self, digits: &str) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(digits.as_bytes()),
            Protocol::Resp3 => self.line(b'(', digits),
        }
    }

    /// Writes a binary-safe string.
    pub fn bulk(&mut self, value: &[u8]) {
        self.length(b'$', value.len());
        self.buffer.extend_from_slice(value);
        self.buffer.extend_from_slice(b"\r\n");
    }

    /// Writes a binary-safe string, or null if there is none.
    pub fn bulk_or_null(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => self.bulk(value),
            None => self.null(),
        }
    }

    /// Writes the text of `value` as a bulk string, without an allocation for the text.
    pub fn bulk_fmt(&mut self, value: impl Display) {
        let start = self.buffer.len();
        write!(self.buffer, "{value}").expect("a BytesMut grows as needed");
        let text_bytes = self.buffer.len() - start;
        self.insert_length(start, b'$', text_bytes);
        self.buffer.extend_from_slice(b"\r\n");
    }

    /// Writes the absence of a single value, such as a string or a number.
    pub fn null(&mut self) {
        self.buffer.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"$-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// Writes the absence of an array.
    pub fn null_array(&mut self) {
        self.buffer.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"*-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// Begins an array: `items` replies follow.
    pub fn array(&mut self, items: usize) {
        self.length(b'*', items);
    }

    /// Begins a map: `pairs` keys follow, each with its value. In RESP2 it is a flat array of twice as many items.
    pub fn map(&mut self, pairs: usize) {
        match self.protocol {
            Protocol::Resp2 => self.length(b'*', pairs * 2),
            Protocol::Resp3 => self.length(b'%', pairs),
        }
    }

    /// Begins a set: `items` distinct replies follow in no particular order. In RESP2 it is an array.
    pub fn set(&mut self, items: usize) {
        self.length(if self.protocol == Protocol::Resp3 { b'~' } else { b'*' }, items);
    }

    /// Begins a push: `items` replies follow that answer no request (published messages). In RESP2 it is an array.
    pub fn push(&mut self, items: usize) {
        self.length(if self.protocol == Protocol::Resp3 { b'>' } else { b'*' }, items);
    }

    /// Writes a floating point number, see [`format_double`]; a bulk string in RESP2.
    pub fn double(&mut self, value: f64) {
        let mut text = DoubleText::default();
        let text = format_double(value, &mut text);
        match self.protocol {
            Protocol::Resp2 => self.bulk(text.as_bytes()),
            Protocol::Resp3 => self.header(b',', text),
        }
    }

    /// Writes a text for people (INFO and the like), marked as plain text; a bulk string in RESP2.
    pub fn verbatim(&mut self, text: &[u8]) {
        const FORMAT: &[u8] = b"txt:";
        if self.protocol == Protocol::Resp2 {
            return self.bulk(text);
        }
        self.length(b'=', FORMAT.len() + text.len());
        self.buffer.extend_from_slice(FORMAT);
        self.buffer.extend_from_slice(text);
        self.buffer.extend_from_slice(b"\r\n");
    }

    /// Begins an array or a map whose length is known only at its end.
    pub fn begin_array(&mut self) -> Deferred {
        Deferred(self.buffer.len())
    }

    /// Ends the array that [`Self::begin_array`] began, behind which `items` replies were written. Moves their bytes
    /// once.
    pub fn end_array(&mut self, begun: Deferred, items: usize) {
        self.insert_length(begun.0, b'*', items);
    }

    /// Ends the map that [`Self::begin_array`] began. The length is announced as [`Self::map`] does.
    pub fn end_map(&mut self, begun: Deferred, pairs: usize) {
        match self.protocol {
            Protocol::Resp2 => self.insert_length(begun.0, b'*', pairs * 2),
            Protocol::Resp3 => self.insert_length(begun.0, b'%', pairs),
        }
    }

    /// Writes `text` as one line: line ends around the text are dropped, those within it become blanks.
    fn line(&mut self, kind: u8, text: &str) {
        let text = text.trim_matches(['\r', '\n']).as_bytes();
        self.buffer.reserve(text.len() + 3);
        self.buffer.extend_from_slice(&[kind]);
        let start = self.buffer.len();
        self.buffer.extend_from_slice(text);
        for byte in &mut self.buffer[start..] {
            if matches!(byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
        self.buffer.extend_from_slice(b"\r\n");
    }

    fn length(&mut self, kind: u8, length: usize) {
        let mut digits = itoa::Buffer::new();
        self.header(kind, digits.format(length));
    }

    fn header(&mut self, kind: u8, text: &str) {
        self.buffer.reserve(text.len() + 3);
        self.buffer.extend_from_slice(&[kind]);
        self.buffer.extend_from_slice(text.as_bytes());
        self.buffer.extend_from_slice(b"\r\n");
    }

    /// Inserts a length header before the bytes that were written since `start`.
    fn insert_length(&mut self, start: usize, kind: u8, length: usize) {
        let end = self.buffer.len();
        assert!(start <= end, "a reply was begun in bytes that were taken");
        self.length(kind, length);
        self.buffer[start..].rotate_left(end - start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the bytes that `write` produces in RESP2 and in RESP3.
    fn both(write: impl Fn(&mut Out)) -> (String, String) {
        let text = |protocol| {
            let mut out = Out::new(protocol);
            write(&mut out);
            out.as_bytes().escape_ascii().to_string().replace("\\r\\n", "|").replace("\\'", "'")
        };
        (text(Protocol::Resp2), text(Protocol::Resp3))
    }

    fn check(write: impl Fn(&mut Out), resp2: &str, resp3: &str) {
        assert_eq!(both(write), (resp2.to_owned(), resp3.to_owned()));
    }

    /// Goal: each type has the form that redis-server 7.0.15 sends for DEBUG PROTOCOL.
    #[test]
    fn every_type_has_the_form_redis_sends() {
        check(|out| out.ok(), "+OK|", "+OK|");
        check(|out| out.bulk(b"Hello World"), "$11|Hello World|", "$11|Hello World|");
        check(|out| out.bulk(b""), "$0||", "$0||");
        check(|out| out.int(12345), ":12345|", ":12345|");
        check(|out| out.int(i64::MIN), ":-9223372036854775808|", ":-9223372036854775808|");
        check(|out| out.double(1.5), "$3|1.5|", ",1.5|");
        check(|out| out.double(f64::INFINITY), "$3|inf|", ",inf|");
        check(|out| out.double(f64::NEG_INFINITY), "$4|-inf|", ",-inf|");
        check(|out| out.double(f64::NAN), "$3|nan|", ",nan|");
        check(|out| out.null(), "$-1|", "_|");
        check(|out| out.null_array(), "*-1|", "_|");
        check(|out| out.array(3), "*3|", "*3|");
        check(|out| out.set(3), "*3|", "~3|");
        check(|out| out.map(3), "*6|", "%3|");
        check(|out| out.push(2), "*2|", ">2|");
        check(
            |out| out.verbatim(b"This is a verbatim\nstring"),
            "$25|This is a verbatim\\nstring|",
            "=29|txt:This is a verbatim\\nstring|",
        );
        check(
            |out| out.big_number("1234567999999999999999999999999999999"),
            "$37|1234567999999999999999999999999999999|",
            "(1234567999999999999999999999999999999|",
        );
    }

    #[test]
    fn counts_beyond_63_bits_are_big_numbers() {
        check(|out| out.count(i64::MAX as u64), ":9223372036854775807|", ":9223372036854775807|");
        check(|out| out.count(1 << 63), "$19|9223372036854775808|", "(9223372036854775808|");
    }

    #[test]
    fn errors_and_simple_strings_stay_on_one_line() {
        check(|out| out.error("ERR no such key"), "-ERR no such key|", "-ERR no such key|");
        check(|out| out.error("\nERR a\r\nb\n+OK\r\n"), "-ERR a  b +OK|", "-ERR a  b +OK|");
        check(|out| out.simple("a\nb"), "+a b|", "+a b|");
    }

    #[test]
    fn formatted_bulks_have_the_length_of_their_text() {
        check(
            |out| out.bulk_fmt(format_args!("{}-{}", 1_700_000_000_000_u64, 0)),
            "$15|1700000000000-0|",
            "$15|1700000000000-0|",
        );
        check(|out| out.bulk_fmt(""), "$0||", "$0||");
    }

    #[test]
    fn deferred_aggregates_nest() {
        let write = |out: &mut Out| {
            out.ok();
            let outer = out.begin_array();
            let inner = out.begin_array();
            (0..12).for_each(|i| out.int(i % 10));
            out.end_array(inner, 12);
            let map = out.begin_array();
            out.bulk(b"k");
            out.null();
            out.end_map(map, 1);
            let empty = out.begin_array();
            out.end_array(empty, 0);
            out.end_array(outer, 3);
        };
        let digits = ":0|:1|:2|:3|:4|:5|:6|:7|:8|:9|:0|:1|";
        check(write, &format!("+OK|*3|*12|{digits}*2|$1|k|$-1|*0|"), &format!("+OK|*3|*12|{digits}%1|$1|k|_|*0|"));
    }

    #[test]
    fn a_failed_command_leaves_only_its_error() {
        check(
            |out| {
                out.ok();
                let start = out.next_start();
                out.array(2);
                out.bulk(b"partial");
                out.truncate(start);
                out.error("ERR syntax error");
            },
            "+OK|-ERR syntax error|",
            "+OK|-ERR syntax error|",
        );
    }

    #[test]
    fn the_protocol_changes_between_two_replies() {
        let mut out = Out::default();
        out.null();
        out.set_protocol(Protocol::Resp3);
        out.null();
        assert_eq!(out.as_bytes(), b"$-1\r\n_\r\n");
        assert_eq!((out.protocol(), out.len(), out.is_empty()), (Protocol::Resp3, 8, false));
    }
}
