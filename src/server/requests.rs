//! Reads a few requests at a time from a connection's read buffer, so that the rows that they need can be fetched
//! together before the requests run in turn.

use super::frame::{self, Limits, Parsed, ProtocolError, Request};
use crate::command::ahead;
use crate::command::definition::{Call, Command};
use crate::command::table::TABLE;

/// Why reading stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// The array is full. The buffer may hold more requests; the requests that were read must run first.
    Full,
    /// The next request is incomplete: at least so many bytes are missing.
    Incomplete(usize),
    /// The client broke the protocol behind the requests that were read.
    Broken(ProtocolError),
}

/// Requests that were read and have not run. A lane reuses one value for all its connections.
#[derive(Default)]
pub(super) struct Requests {
    /// Only the first `len` entries are in use.
    read: [Read; ahead::REQUESTS_MAX],
    len: usize,
    /// Bytes of the buffer that were read, without those of an incomplete request.
    end: usize,
}

#[derive(Default)]
struct Read {
    request: Request,
    command: Option<&'static Command>,
    /// Offset of the request's first byte in the buffer.
    start: usize,
    end: usize,
}

impl Requests {
    /// Reads the requests at the start of `buffer` and drops the requests of the last call. `incomplete` keeps the
    /// parser's state of the incomplete request behind them.
    pub(super) fn read(&mut self, buffer: &[u8], limits: &Limits, incomplete: &mut Request) -> End {
        (self.len, self.end) = (0, 0);
        // Before authentication, only one request is read: that request may decide which limits apply to the next one.
        let most = if limits.is_authenticated { self.read.len() } else { 1 };
        while self.len < most {
            match frame::parse(&buffer[self.end..], limits, incomplete) {
                Ok(Parsed::Incomplete { needed }) => return End::Incomplete(needed),
                Ok(Parsed::Ignored { consumed }) => self.end += consumed,
                Ok(Parsed::Complete { consumed }) => {
                    let next = &mut self.read[self.len];
                    std::mem::swap(&mut next.request, incomplete);
                    (next.start, next.end) = (self.end, self.end + consumed);
                    next.command = TABLE.call(next.request.args(&buffer[next.start..])).command;
                    (self.len, self.end) = (self.len + 1, next.end);
                }
                Err(error) => return End::Broken(error),
            }
        }
        End::Full
    }

    /// Returns the requests, each with the offset of its end in `buffer`. `buffer` must be the one that was read.
    pub(super) fn iter<'r>(&'r self, buffer: &'r [u8]) -> impl ExactSizeIterator<Item = (Call<'r>, usize)> + Clone {
        self.read[..self.len].iter().map(|read| {
            let args = read.request.args(&buffer[read.start..]);
            (Call { command: read.command, args }, read.end)
        })
    }

    /// Returns the bytes that were read, without those of an incomplete request.
    #[must_use]
    pub(super) fn end(&self) -> usize {
        self.end
    }

    /// Drops the requests behind the one that ends at `until`. Those requests are read from the buffer a second time.
    pub(super) fn unread(&self, until: usize, incomplete: &mut Request) {
        if until != self.end {
            *incomplete = Request::default();
        }
    }

    /// Frees the memory that large requests took.
    pub(super) fn release(&mut self) {
        self.read[..self.len].iter_mut().for_each(|read| read.request.release());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::args::Args;
    use proptest::prelude::*;

    fn owned(args: Args<'_>) -> Vec<Vec<u8>> {
        args.iter().map(<[u8]>::to_vec).collect()
    }

    /// Reads all requests with `frame::parse` one by one; returns them and the error at the end, if any.
    fn one_by_one(bytes: &[u8], limits: &Limits) -> (Vec<Vec<Vec<u8>>>, Option<ProtocolError>) {
        let (mut found, mut request, mut at) = (Vec::new(), Request::default(), 0);
        loop {
            match frame::parse(&bytes[at..], limits, &mut request) {
                Ok(Parsed::Incomplete { .. }) => return (found, None),
                Ok(Parsed::Ignored { consumed }) => at += consumed,
                Ok(Parsed::Complete { consumed }) => {
                    found.push(owned(request.args(&bytes[at..])));
                    at += consumed;
                }
                Err(error) => return (found, Some(error)),
            }
        }
    }

    proptest! {
        #[test]
        fn requests_are_those_that_come_one_by_one(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "*2\r\n$3\r\nGET\r\n$1\r\na\r\n", "*1\r\n$4\r\nPING\r\n", "set b 'c d'\r\n", "\r\n", "*0\r\n", "*3\r\n$1\r\n",
                "*1\r\n$x",
            ]), 0..60),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            pauses in prop::collection::vec(any::<bool>(), 64),
            is_authenticated in any::<bool>(),
        ) {
            let bytes = pieces.concat().into_bytes();
            let limits = Limits { is_authenticated, ..Limits::default() };
            let mut arrivals: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            arrivals.push(bytes.len());
            arrivals.sort_unstable();
            let mut pauses = pauses.into_iter().cycle();
            let (mut found, mut error) = (Vec::new(), None);
            let (mut requests, mut incomplete, mut consumed) = (Requests::default(), Request::default(), 0);
            'arrivals: for arrived in arrivals {
                loop {
                    let buffer = &bytes[consumed..arrived];
                    let end = requests.read(buffer, &limits, &mut incomplete);
                    let most = if is_authenticated { ahead::REQUESTS_MAX } else { 1 };
                    prop_assert!(requests.iter(buffer).len() <= most);
                    let mut until = requests.end();
                    let mut is_paused = false;
                    for (call, end_of_request) in requests.iter(buffer) {
                        found.push(owned(call.args));
                        if pauses.next().unwrap() {
                            (until, is_paused) = (end_of_request, true);
                            break;
                        }
                    }
                    if is_paused {
                        requests.unread(until, &mut incomplete);
                    }
                    requests.release();
                    consumed += until;
                    match end {
                        _ if is_paused => {}
                        End::Full => {}
                        End::Incomplete(_) => break,
                        End::Broken(broken) => {
                            error = Some(broken);
                            break 'arrivals;
                        }
                    }
                }
            }
            prop_assert_eq!((found, error), one_by_one(&bytes, &limits));
        }
    }
}
