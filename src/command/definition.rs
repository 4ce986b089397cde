//! The definition of a command: its description, its function, and the surroundings that the function gets. The
//! commands themselves stand in `table`.

use super::args::Args;
use super::client::{Client, Queue};
use super::host::Host;
use super::reply::Out;
use crate::engine::keyspace::{AccessError, Keyspace};
use crate::error::Error;
use hashbrown::HashMap;
use std::borrow::Cow;
use std::sync::LazyLock;

/// A property of a command: a need or a permission.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Flag {
    /// The command changes keys.
    Write = 1,
    /// The command may grow the keys in memory. It is refused when they are full.
    DenyOom = 2,
    /// The command only reads keys.
    ReadOnly = 4,
    /// The command always needs the writer lock, as a read of the keys in memory does.
    Locks = 8,
    /// Inside MULTI the command runs at once instead of being queued.
    Immediate = 16,
    /// The command needs no password.
    NoAuth = 32,
    /// The command runs the queue of MULTI.
    Exec = 64,
    /// The command is for operators.
    Admin = 128,
    /// The command takes constant or logarithmic time.
    Fast = 256,
    /// The command usually writes without reading the old value.
    Blind = 512,
    /// The command makes the stored data smaller, at once or later. It is allowed when the disk has little room.
    Frees = 1024,
    /// The effects of the command contain the string that its key holds.
    Copies = 2048,
    /// The effects of the command can be as many or as large as the stored data, whatever the arguments are.
    Multiplies = 4096,
}

/// One command.
#[derive(Debug)]
pub struct Command {
    /// Name in lower case.
    pub name: &'static str,
    /// Number of arguments, including the name. A negative number means at least so many.
    pub arity: i8,
    /// Sum of [`Flag`]s.
    pub flags: u16,
    /// First key, last key (negative: counted from the end) and step, as COMMAND INFO shows them; all 0 without keys.
    pub keys: (i8, i8, i8),
    /// Redis' name of the command's family.
    pub group: &'static str,
    /// One line that says what the command does.
    pub summary: &'static str,
    /// The function of the command.
    pub run: CommandFn,
}

impl Command {
    /// Reports whether a flag is set.
    #[must_use]
    pub fn has(&self, flag: Flag) -> bool {
        self.flags & flag as u16 != 0
    }

    /// Reports whether the command takes `len` arguments, including its name.
    #[must_use]
    pub fn accepts_len(&self, len: usize) -> bool {
        let arity = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 { len >= arity } else { len == arity }
    }

    /// Returns the keys among the arguments.
    pub fn keys_in<'r>(&self, args: Args<'r>) -> impl Iterator<Item = &'r [u8]> {
        let (first, last, step) = self.keys;
        let end =
            if last < 0 { args.len().saturating_sub(usize::from(last.unsigned_abs()) - 1) } else { last as usize + 1 };
        let places = (first as usize..end).step_by(step.max(1) as usize);
        places.filter(move |_| first > 0).filter_map(move |at| args.try_get(at))
    }
}

/// The surroundings of a command.
pub struct Ctx<'a> {
    /// The keys of all engines.
    pub keys: Keyspace<'a>,
    /// The client that sent the command.
    pub client: &'a mut Client,
    /// The node that runs the command.
    pub host: &'a dyn Host,
    /// All commands, for the commands that describe or run others.
    pub table: &'static Table,
}

/// A command's function. Argument 0 is the command's name; the caller has checked the arity.
pub type CommandFn = fn(&mut Ctx<'_>, Args<'_>, &mut Out) -> Done;

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

/// A request, and the command that it names, if there is such a command.
#[derive(Clone, Copy)]
pub struct Call<'r> {
    /// The command.
    pub command: Option<&'static Command>,
    /// The request's arguments.
    pub args: Args<'r>,
}

impl<'r> Call<'r> {
    /// Returns the command and its first key; `None` if the command has no keys.
    #[must_use]
    pub fn first_key(self) -> Option<(&'static Command, &'r [u8])> {
        let command = self.command.filter(|command| command.keys.0 == 1)?;
        Some((command, self.args.try_get(1)?))
    }
}

/// The commands that a request can name.
pub struct Table {
    /// The commands, by family.
    pub commands: &'static [Command],
    /// The same commands by name in lower case. The map is made at the first use.
    pub by_name: LazyLock<HashMap<&'static [u8], &'static Command>>,
}

/// Bytes of the longest name that is looked up.
const NAME_MAX: usize = 32;

impl Table {
    /// Returns the command with this name, in any case.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<&'static Command> {
        let mut lower = [0; NAME_MAX];
        let lower = lower.get_mut(..name.len())?;
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        self.by_name.get(&*lower).copied()
    }

    /// Looks up the command of a request.
    #[must_use]
    pub fn call<'r>(&self, args: Args<'r>) -> Call<'r> {
        Call { command: self.find(&args[0]), args }
    }

    /// Returns the commands that MULTI has queued, in order, with their arguments.
    pub fn queued<'q>(&'q self, queue: &'q Queue) -> impl Iterator<Item = (&'static Command, Args<'q>)> {
        queue.requests.iter().map(|request| {
            let Call { command, args } = self.call(request.as_args());
            (command.expect("only known commands are queued"), args)
        })
    }
}
