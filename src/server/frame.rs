//! Parses the requests in a connection's read buffer: arrays of bulk strings, and inline commands as people type them.
//!
//! Guarantees: the requests and errors do not depend on how the input is split into reads. No byte of an incomplete
//! request is read twice, so that a large value costs linear time. An argument costs no allocation. Memory is never
//! reserved for a length that was only announced. Arbitrary bytes give a request, an error or a wait, never a panic.
//! Errors have Redis' wording; the caller closes the connection after any of them.
//!
//! This module does not touch sockets. As in Redis, the two bytes after a bulk string are skipped unread, and so is the
//! byte after the CR of a length line. Unlike in Redis, a NUL byte in an inline command is a byte like any other.

use crate::command::args::{Args, Span};
use crate::command::number::parse_i64;
use crate::server::inline::split_words;

/// Bytes of one argument: Redis' `proto-max-bulk-len`, 512 MiB.
const BULK_BYTES_MAX: usize = 512 << 20;
/// Arguments of one request, the name included. Redis 6 has this limit, Redis 7 has none.
const ARGS_MAX: usize = 1 << 20;
/// Bytes of an inline command or a length line: Redis' `PROTO_INLINE_MAX_SIZE`, 64 KiB.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// Bytes of one request: Redis' `client-query-buffer-limit`, 1 GiB.
const QUERY_BUFFER_BYTES_MAX: usize = 1 << 30;
/// Arguments of one request before the client has authenticated, as in Redis.
const UNAUTHENTICATED_ARGS_MAX: usize = 10;
/// Bytes of one argument before the client has authenticated, as in Redis: 16 KiB.
const UNAUTHENTICATED_BULK_BYTES_MAX: usize = 16 << 10;
/// Largest hint for a reservation, in bytes: 1 MiB.
const RESERVE_BYTES_MAX: usize = 1 << 20;

/// Spans that a request keeps allocated after a request with more arguments.
const SPANS_KEPT_MAX: usize = 1024;

/// Limits of one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of one argument.
    pub bulk_bytes_max: usize,
    /// Arguments of one request, the name included.
    pub args_max: usize,
    /// Bytes of an inline command, or of a line that announces a length.
    pub inline_bytes_max: usize,
    /// Bytes of one request as the client sends it.
    pub query_buffer_bytes_max: usize,
    /// Upper bound of the hint in [`Parsed::Incomplete`].
    pub reserve_bytes_max: usize,
    /// Whether the client has authenticated or need not. Before authentication a client may make the server hold only
    /// little memory.
    pub is_authenticated: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bulk_bytes_max: BULK_BYTES_MAX,
            args_max: ARGS_MAX,
            inline_bytes_max: INLINE_BYTES_MAX,
            query_buffer_bytes_max: QUERY_BUFFER_BYTES_MAX,
            reserve_bytes_max: RESERVE_BYTES_MAX,
            is_authenticated: true,
        }
    }
}

/// The kind of content at the start of the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// A part of a request, or nothing.
    Incomplete {
        /// The number of missing bytes is at least this. It is never 0 and never more than
        /// [`Limits::reserve_bytes_max`], so that the caller can reserve that many bytes.
        needed: usize,
    },
    /// An empty line or an empty array, which the caller drops without a reply.
    Ignored {
        /// Bytes of the empty line or array.
        consumed: usize,
    },
    /// A request with at least its name. [`Request::args`] returns its arguments until the next call of [`parse`].
    Complete {
        /// Bytes of the request.
        consumed: usize,
    },
}

/// Why the rest of a connection's input cannot be parsed. The text is the error reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The number of arguments is not a number, or is above [`Limits::args_max`].
    #[error("ERR Protocol error: invalid multibulk length")]
    MultibulkLength,
    /// The length of an argument is not a number, is negative, or is above [`Limits::bulk_bytes_max`].
    #[error("ERR Protocol error: invalid bulk length")]
    BulkLength,
    /// The request has more than [`UNAUTHENTICATED_ARGS_MAX`] arguments and the client has not authenticated.
    #[error("ERR Protocol error: unauthenticated multibulk length")]
    UnauthenticatedMultibulkLength,
    /// An argument has more than [`UNAUTHENTICATED_BULK_BYTES_MAX`] bytes and the client has not authenticated.
    #[error("ERR Protocol error: unauthenticated bulk length")]
    UnauthenticatedBulkLength,
    /// An element of the request is not a bulk string.
    #[error("ERR Protocol error: expected '$', got '{}'", char::from(*found))]
    NotABulk {
        /// First byte of the element.
        found: u8,
    },
    /// An inline command has no end of line within [`Limits::inline_bytes_max`].
    #[error("ERR Protocol error: too big inline request")]
    InlineTooBig,
    /// The line with the number of arguments has no end within [`Limits::inline_bytes_max`].
    #[error("ERR Protocol error: too big mbulk count string")]
    MultibulkCountTooBig,
    /// The line with an argument's length has no end within [`Limits::inline_bytes_max`].
    #[error("ERR Protocol error: too big bulk count string")]
    BulkCountTooBig,
    /// An inline command has a quote that is not closed, or that is closed within a word.
    #[error("ERR Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// The request is longer than [`Limits::query_buffer_bytes_max`]. In this case Redis closes the connection without
    /// a message.
    #[error("ERR Protocol error: request exceeds client-query-buffer-limit")]
    RequestTooBig,
}

/// How much of a request was parsed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    /// The first line is not complete.
    #[default]
    First,
    /// `missing` bulk strings are not parsed; the length line of the next one comes first.
    BulkLength { missing: usize },
    /// `missing` bulk strings are not parsed; the length of the next one is known.
    Bulk { missing: usize, len: usize },
    /// The request is complete or was given up. The next call of [`parse`] begins a new one.
    Done,
}

/// The state of one request: where its arguments lie, and how much of an incomplete request was parsed. One value is
/// reused for request after request.
#[derive(Debug, Default)]
pub struct Request {
    spans: Vec<Span>,
    /// Arguments of an inline command after their escapes were resolved. Empty for other requests.
    unquoted: Vec<u8>,
    inline: bool,
    stage: Stage,
    /// Offset of the first byte that was not parsed.
    at: usize,
    /// The bytes from `at` to this offset hold no end of line.
    scanned: usize,
}

/// Parses one request from the start of `buffer`.
///
/// After `Incomplete`, the next call must pass a buffer that starts with the same bytes; more bytes may follow them.
/// After `Ignored` and `Complete`, the next call must pass the bytes behind the consumed ones.
pub fn parse(buffer: &[u8], limits: &Limits, request: &mut Request) -> Result<Parsed, ProtocolError> {
    if request.stage == Stage::Done {
        request.restart();
    }
    assert!(request.at.max(request.scanned) <= buffer.len(), "the buffer lost bytes of an incomplete request");
    let parsed = request.advance(buffer, limits);
    if !matches!(parsed, Ok(Parsed::Incomplete { .. })) {
        request.stage = Stage::Done;
    }
    parsed
}

impl Request {
    /// Returns the arguments of a complete request. `buffer` must be the one that the request was parsed from.
    #[must_use]
    pub fn args<'a>(&'a self, buffer: &'a [u8]) -> Args<'a> {
        assert!(self.stage == Stage::Done, "the request is not complete");
        Args::new(if self.inline { &self.unquoted } else { buffer }, &self.spans)
    }

    /// Frees the memory that a large request took. The caller does so after the request has run.
    pub fn release(&mut self) {
        if self.spans.capacity() > SPANS_KEPT_MAX {
            self.restart();
        }
    }

    fn restart(&mut self) {
        self.spans.clear();
        self.spans.shrink_to(SPANS_KEPT_MAX);
        self.unquoted.clear();
        (self.inline, self.stage, self.at, self.scanned) = (false, Stage::First, 0, 0);
    }

    fn advance(&mut self, buffer: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
        loop {
            match self.stage {
                Stage::First => match buffer.first() {
                    None => return Ok(Parsed::Incomplete { needed: 1 }),
                    Some(b'*') => {
                        let Some(missing) = self.args_count(buffer, limits)? else {
                            return Ok(Parsed::Incomplete { needed: 1 });
                        };
                        if missing == 0 {
                            return Ok(Parsed::Ignored { consumed: self.at });
                        }
                        self.stage = Stage::BulkLength { missing };
                    }
                    Some(_) => return self.inline(buffer, limits),
                },
                Stage::BulkLength { missing: 0 } => return Ok(Parsed::Complete { consumed: self.at }),
                Stage::BulkLength { missing } => {
                    let Some(len) = self.bulk_len(buffer, limits)? else {
                        return Ok(Parsed::Incomplete { needed: 1 });
                    };
                    self.stage = Stage::Bulk { missing, len };
                }
                Stage::Bulk { missing, len } => {
                    let end = self.at + len;
                    let next = end + b"\r\n".len();
                    if next > buffer.len() {
                        let needed = (next - buffer.len()).min(limits.reserve_bytes_max).max(1);
                        return Ok(Parsed::Incomplete { needed });
                    }
                    self.spans.push(Span { start: self.at, end });
                    self.at = next;
                    self.stage = Stage::BulkLength { missing: missing - 1 };
                }
                Stage::Done => unreachable!("a request is restarted before it is read on"),
            }
        }
    }

    /// Parses the line `*<count>`. A count below 1 means an empty request.
    fn args_count(&mut self, buffer: &[u8], limits: &Limits) -> Result<Option<usize>, ProtocolError> {
        let Some(line) = self.length_line(buffer, limits, ProtocolError::MultibulkCountTooBig)? else {
            return Ok(None);
        };
        let count = parse_i64(&line[1..]).ok_or(ProtocolError::MultibulkLength)?;
        let count = usize::try_from(count.max(0)).map_err(|_| ProtocolError::MultibulkLength)?;
        if count > limits.args_max {
            return Err(ProtocolError::MultibulkLength);
        }
        if count > UNAUTHENTICATED_ARGS_MAX && !limits.is_authenticated {
            return Err(ProtocolError::UnauthenticatedMultibulkLength);
        }
        Ok(Some(count))
    }

    /// Parses the line `$<bytes>`.
    fn bulk_len(&mut self, buffer: &[u8], limits: &Limits) -> Result<Option<usize>, ProtocolError> {
        let Some(line) = self.length_line(buffer, limits, ProtocolError::BulkCountTooBig)? else {
            return Ok(None);
        };
        let digits = match line {
            [b'$', digits @ ..] => digits,
            // An empty line is reported by its CR.
            other => return Err(ProtocolError::NotABulk { found: other.first().copied().unwrap_or(b'\r') }),
        };
        let len = parse_i64(digits).and_then(|len| usize::try_from(len).ok()).ok_or(ProtocolError::BulkLength)?;
        if len > limits.bulk_bytes_max {
            return Err(ProtocolError::BulkLength);
        }
        if len > UNAUTHENTICATED_BULK_BYTES_MAX && !limits.is_authenticated {
            return Err(ProtocolError::UnauthenticatedBulkLength);
        }
        if self.at.saturating_add(len).saturating_add(b"\r\n".len()) > limits.query_buffer_bytes_max {
            return Err(ProtocolError::RequestTooBig);
        }
        Ok(Some(len))
    }

    /// Takes the line that starts at `at` and returns the line without its end. Returns `None` while the line is not
    /// complete.
    fn length_line<'b>(
        &mut self,
        buffer: &'b [u8],
        limits: &Limits,
        too_big: ProtocolError,
    ) -> Result<Option<&'b [u8]>, ProtocolError> {
        let start = self.at;
        let from = self.scanned.max(start);
        let found = buffer[from..].iter().position(|byte| *byte == b'\r');
        self.scanned = found.map_or(buffer.len(), |offset| from + offset);
        if self.scanned - start > limits.inline_bytes_max {
            return Err(too_big);
        }
        let next = self.scanned + b"\r\n".len();
        if found.is_none() || next > buffer.len() {
            return Ok(None);
        }
        self.at = next;
        Ok(Some(&buffer[start..self.scanned]))
    }

    fn inline(&mut self, buffer: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
        let found = buffer[self.scanned..].iter().position(|byte| *byte == b'\n');
        self.scanned = found.map_or(buffer.len(), |offset| self.scanned + offset);
        if self.scanned > limits.inline_bytes_max {
            return Err(ProtocolError::InlineTooBig);
        }
        if found.is_none() {
            return Ok(Parsed::Incomplete { needed: 1 });
        }
        self.inline = true;
        let line = &buffer[..self.scanned];
        split_words(line.strip_suffix(b"\r").unwrap_or(line), &mut self.unquoted, &mut self.spans)
            .ok_or(ProtocolError::UnbalancedQuotes)?;
        let consumed = self.scanned + 1;
        Ok(if self.spans.is_empty() { Parsed::Ignored { consumed } } else { Parsed::Complete { consumed } })
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
