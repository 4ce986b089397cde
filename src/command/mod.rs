//! Stage 2, meaning: what a request does and how its reply is written.
//!
//! `table` names every command. Each family of commands has one file. `session` runs requests in turn, takes the writer
//! lock when a request needs it, and makes one commit of each command or EXEC.
//!
//! A command reads and checks first and makes its effects afterwards, so that a command that fails has made none.

pub mod ahead;
pub mod all_keys;
pub mod args;
pub mod client;
pub mod errors;
pub mod host;
pub mod number;
pub mod reply;
pub mod session;
pub mod table;

mod admin;
mod collection;
mod cursor;
mod decimal;
mod demand;
mod expire;
mod glob;
mod hash;
mod index;
mod key;
mod list;
mod rename;
mod scan;
pub mod server_info;
mod set;
mod stream;
mod string;
mod txn;
mod walferry;
mod zset;

use crate::engine::keyspace::{AccessError, Keyspace};
use crate::error::Error;
use args::Args;
use client::Client;
use host::Host;
use reply::Out;
use std::borrow::Cow;

/// Why a command failed.
#[derive(Debug)]
pub enum Fail {
    /// The error reply: code, blank, message.
    Reply(Cow<'static, str>),
    /// The command must run a second time under the writer lock.
    NeedsLock,
    /// The effects would exceed `max-commit-bytes`.
    TooLarge,
    /// The database failed.
    Failed(Error),
}

impl From<AccessError> for Fail {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::NeedsLock => Self::NeedsLock,
            AccessError::TooLarge => Self::TooLarge,
            AccessError::Failed(error) => Self::Failed(error),
        }
    }
}

impl From<Error> for Fail {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<&'static str> for Fail {
    fn from(message: &'static str) -> Self {
        Self::Reply(Cow::Borrowed(message))
    }
}

impl From<String> for Fail {
    fn from(message: String) -> Self {
        Self::Reply(Cow::Owned(message))
    }
}

/// Result of a command. The reply is in the [`Out`].
pub type Done = Result<(), Fail>;

/// The surroundings of a command.
pub struct Ctx<'a> {
    /// The keys of all engines.
    pub keys: Keyspace<'a>,
    /// The client that sent the command.
    pub client: &'a mut Client,
    /// The node that runs the command.
    pub host: &'a dyn Host,
}

/// A command's function. Argument 0 is the command's name; the caller has checked the arity.
pub type Run = fn(&mut Ctx<'_>, Args<'_>, &mut Out) -> Done;

#[cfg(test)]
mod tests;
