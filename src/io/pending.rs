//! A transfer that has begun: the result of [`Io::start_write`](super::Io::start_write) and
//! [`Io::start_read`](super::Io::start_read). Dropping it does not stop the transfer; the buffer lives until the
//! kernel has finished with it.

use super::file::LogFile;
use crate::error::Result;
use std::io;
use std::sync::mpsc::Receiver;

/// The outcome of a transfer that is done or under way.
#[must_use = "a transfer is complete only after a wait"]
#[derive(Debug)]
pub struct Pending<T>(State<T>);

#[derive(Debug)]
enum State<T> {
    Done(Result<T>),
    UnderWay { answer: Receiver<io::Result<T>>, action: &'static str, file: LogFile },
}

impl<T> Pending<T> {
    /// Makes the outcome of a transfer that is done, with success or an error.
    pub fn done(result: Result<T>) -> Self {
        Self(State::Done(result))
    }

    /// Makes the outcome of a transfer that will be sent through `answer`.
    pub(super) fn under_way(answer: Receiver<io::Result<T>>, action: &'static str, file: LogFile) -> Self {
        Self(State::UnderWay { answer, action, file })
    }

    /// Blocks until the transfer is done.
    pub fn wait(self) -> Result<T> {
        match self.0 {
            State::Done(result) => result,
            State::UnderWay { answer, action, file } => answer
                .recv()
                .unwrap_or_else(|_| Err(io::Error::other("the io_uring thread has ended; restart the process")))
                .map_err(|e| file.failed(action, e)),
        }
    }
}
