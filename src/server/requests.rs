//! The requests that are in a connection's read buffer, read some at a time: so that what they need can be looked up
//! together before they run in turn.

use super::frame::{self, Limits, Parsed, ProtocolError, Request};
use crate::command::ahead;
use crate::command::table::{Call, Command};

/// Why no more requests were read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// There may be more: these come first.
    Full,
    /// At least so many bytes are missing.
    Incomplete(usize),
    /// The client broke the protocol behind these.
    Broken(ProtocolError),
}

/// Requests that were read and have yet to run. Reused.
#[derive(Default)]
pub struct Requests {
    /// Of them `len` are in use.
    read: [Read; ahead::REQUESTS_MAX],
    len: usize,
    /// Bytes that were read of the buffer, incomplete requests left out.
    end: usize,
}

#[derive(Default)]
struct Read {
    request: Request,
    command: Option<&'static Command>,
    /// Where it lies in the buffer.
    start: usize,
    end: usize,
}

impl Requests {
    /// Reads the requests at the start of `buffer` in place of those that were read before. `incomplete` keeps what is
    /// known of the one behind them.
    pub fn read(&mut self, buffer: &[u8], limits: &Limits, incomplete: &mut Request) -> End {
        (self.len, self.end) = (0, 0);
        // What a client may send that has yet to authenticate is for the request before to decide.
        let most = if limits.is_authenticated { self.read.len() } else { 1 };
        while self.len < most {
            match frame::parse(&buffer[self.end..], limits, incomplete) {
                Ok(Parsed::Incomplete { needed }) => return End::Incomplete(needed),
                Ok(Parsed::Ignored { consumed }) => self.end += consumed,
                Ok(Parsed::Complete { consumed }) => {
                    let next = &mut self.read[self.len];
                    std::mem::swap(&mut next.request, incomplete);
                    (next.start, next.end) = (self.end, self.end + consumed);
                    next.command = Call::of(next.request.args(&buffer[next.start..])).command;
                    (self.len, self.end) = (self.len + 1, next.end);
                }
                Err(error) => return End::Broken(error),
            }
        }
        End::Full
    }

    /// The requests and where each ends in `buffer`, the one they were read from.
    pub fn iter<'r>(&'r self, buffer: &'r [u8]) -> impl ExactSizeIterator<Item = (Call<'r>, usize)> + Clone {
        self.read[..self.len].iter().map(|read| {
            let args = read.request.args(&buffer[read.start..]);
            (Call { command: read.command, args }, read.end)
        })
    }

    /// Bytes that were read, those of an incomplete request left out.
    #[must_use]
    pub fn end(&self) -> usize {
        self.end
    }

    /// Gives up the requests behind the one that ends at `until`: they will be read again.
    pub fn unread(&self, until: usize, incomplete: &mut Request) {
        if until != self.end {
            *incomplete = Request::default();
        }
    }

    /// Gives up the room of large requests.
    pub fn release(&mut self) {
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

    /// What `frame::parse` reads one by one, and the error it ends with.
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
