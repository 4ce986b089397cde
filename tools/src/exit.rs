//! Exit codes, on which scripts can act.

use std::io::Write;
use std::process::ExitCode;
use walferry::error::{Error, Kind};

/// The table that `--help` shows.
pub(crate) const HELP: &str = "Exit codes: 0 ok, 1 internal, 2 usage, 3 target not reachable, 4 integrity failure, 5 fenced, \
6 store unreachable, 7 directory not empty, 8 this identity may not delete, 9 the node is stopping, 10 try again later, \
11 conflict with another process, node, epoch or mark, 12 not configured, 13 no space, 14 restart the node, 15 over a \
limit, 128 + N stopped by signal N";

/// Reason why a subcommand failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An error of the library.
    Walferry(Error),
    /// A check found a defect, which the report already shows.
    Integrity(String),
    /// The request needs an identity that may delete.
    Denied(String),
    /// A node refused a request, with this error of the node.
    Node(Kind, String),
    /// A signal with this number stopped the process.
    Stopped(i32),
    /// Any other error.
    Other(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Walferry(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Other(error.to_string())
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Other(message)
    }
}

/// Result of a subcommand.
pub(crate) type Done = Result<(), Failure>;

/// Prints a failure on stderr and returns the exit code of the process.
pub(crate) fn report(done: Done) -> ExitCode {
    let (message, code) = match done {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Walferry(error)) => (error.to_string(), code(error.kind())),
        Err(Failure::Integrity(message)) => (message, 4),
        Err(Failure::Denied(message)) => (message, 8),
        Err(Failure::Node(kind, message)) => (message, code(kind)),
        Err(Failure::Stopped(signal)) => (format!("stopped by signal {signal}"), 128 + signal as u8),
        Err(Failure::Other(message)) => (message, 1),
    };
    // If stderr cannot be written, the exit code must not become that of a panic.
    let _ = writeln!(std::io::stderr(), "walferry: {message}");
    ExitCode::from(code)
}

fn code(kind: Kind) -> u8 {
    match kind {
        Kind::Internal => 1,
        Kind::Usage => 2,
        Kind::Unreachable => 3,
        Kind::Integrity => 4,
        Kind::Fenced => 5,
        Kind::Store => 6,
        Kind::NotEmpty => 7,
        // 8 is a prune's whose identity may not delete.
        Kind::Stopping => 9,
        Kind::TryAgain => 10,
        Kind::Conflict => 11,
        Kind::NotConfigured => 12,
        Kind::NoSpace => 13,
        Kind::Broken => 14,
        Kind::Unsupported => 15,
    }
}
