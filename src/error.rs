//! The library's one error type. Each variant says what was expected, what was found and what to do; [`Kind`] is what
//! a caller acts on and what the command line turns into an exit code.

use crate::csn::{CommitTime, Csn, Epoch, HistoryHash};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Result of every fallible function of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A defect or an environment failure nothing more specific describes.
    Internal,
    /// The request, the configuration or the directory named is wrong.
    Usage,
    /// The restore target does not lie on the history that is there.
    Unreachable,
    /// Stored bytes are not what was written: corruption or a gap.
    Integrity,
    /// A newer epoch exists: this writer must not write any more.
    Fenced,
    /// The object store cannot be reached or does not do what it must.
    Store,
    /// A target directory holds something already.
    NotEmpty,
}

/// Everything that can fail in the library.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A socket operation failed.
    #[error("cannot {action} {peer}: {source}")]
    Net {
        /// What was tried, as a verb.
        action: &'static str,
        /// Address of the other side.
        peer: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// RocksDB refused an operation.
    #[error("RocksDB could not {action}: {source}")]
    RocksDb {
        /// What was tried, as a verb.
        action: &'static str,
        /// RocksDB's error.
        source: rocksdb::Error,
    },
    /// Bytes are not what was written.
    #[error("{what} is corrupt at {position}: {detail}")]
    Corrupt {
        /// The object: a file path, an object name, a log record.
        what: String,
        /// Where in it.
        position: String,
        /// What was expected and what was found.
        detail: String,
        /// Whether it ends too early, as an upload does that was cut off.
        is_cut_off: bool,
    },
    /// Commits are missing.
    #[error("{what} has a gap: expected csn {expected}, found {found}")]
    Gap {
        /// The log or the archive range.
        what: String,
        /// The csn that had to come next.
        expected: Csn,
        /// What came instead, or "the end".
        found: String,
    },
    /// An object that was listed is gone: a plan made from that listing is out of date.
    #[error(
        "{what} was listed and then not there. If a prune is under way, try again; else it was removed by somebody else"
    )]
    Vanished {
        /// The object.
        what: String,
    },
    /// A commit does not continue the history that it was found in.
    #[error(
        "{what} belongs to another history: by its predecessors csn {csn} must have the history hash {expected}, it says {found}. Nothing of it was applied"
    )]
    OtherHistory {
        /// Where the commit comes from: a chunk, a log, a peer.
        what: String,
        /// The commit.
        csn: Csn,
        /// The hash that the commit has if it follows what is here.
        expected: HistoryHash,
        /// The hash that it was found with.
        found: HistoryHash,
    },
    /// Format or protocol version this build does not know.
    #[error("{what} has version {found}; this build reads version {known} only. Use the walferry that wrote it")]
    Version {
        /// The object.
        what: String,
        /// Version found.
        found: u32,
        /// The version that this build reads.
        known: u32,
    },
    /// A restore target that cannot be reached.
    #[error("target {target} is not restorable: {reason}. Nearest reachable: {nearest}")]
    Unreachable {
        /// What was asked for.
        target: String,
        /// Why it cannot be had.
        reason: String,
        /// The points around it that can be had.
        nearest: String,
    },
    /// Another writer took over.
    #[error(
        "fenced: epoch {newer} was claimed by node {node}; this writer has epoch {own} and must not write any more. Start it as a replica of the new primary, from an empty directory"
    )]
    Fenced {
        /// Epoch of this writer.
        own: Epoch,
        /// The newer epoch.
        newer: Epoch,
        /// Who claimed it.
        node: String,
    },
    /// The object store failed.
    #[error("object store could not {action} {path}: {source}")]
    Store {
        /// What was tried, as a verb.
        action: &'static str,
        /// Object or prefix.
        path: String,
        /// The store's error.
        source: object_store::Error,
    },
    /// The object store answers, but not as it must.
    #[error("object store at {url} {detail}")]
    StoreContract {
        /// The archive's URL.
        url: String,
        /// What it did and what to do.
        detail: String,
    },
    /// A directory that must be empty is not.
    #[error("directory {} is not empty: {detail}", dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
        /// What was found and what to do.
        detail: String,
    },
    /// A data directory or archive prefix is not what this process may use.
    #[error("{what}: {detail}")]
    Identity {
        /// The directory or the archive.
        what: String,
        /// Expected, found, what to do.
        detail: String,
    },
    /// A configuration value is wrong.
    #[error("configuration: {key}: {detail}")]
    Config {
        /// The key.
        key: String,
        /// What is wrong and what is accepted.
        detail: String,
    },
    /// The peer broke the replication protocol.
    #[error("replication peer {peer}: {detail}")]
    Protocol {
        /// Address of the peer.
        peer: String,
        /// What was expected and what came.
        detail: String,
    },
    /// Commits cannot follow those of the future.
    #[error(
        "the last commit was made at {last}, {} s after the time that this machine's clock shows, {now}: one of the two is wrong. Nothing was changed. Set the clock if it is wrong. If it is right, start once with --set accept-clock-step=yes (before a promotion: CONFIG SET accept-clock-step yes): a new epoch begins, whose commits have the present time",
        last.0.saturating_sub(now.0) / 1_000_000
    )]
    FutureCommits {
        /// Time of the last commit.
        last: CommitTime,
        /// This machine's time.
        now: CommitTime,
    },
    /// The engines of a base were cut further apart than allowed; there is no base then.
    #[error(
        "the engines were cut {} ms of commit time apart, {} ms are allowed: there is no base. Try again when less is written, allow more, or ask for a strict base, which is exact under any load",
        found.as_secs_f64() * 1e3, allowed.as_millis()
    )]
    InconsistentTiming {
        /// Commit time between the cuts.
        found: Duration,
        /// The most that was allowed.
        allowed: Duration,
    },
    /// Writes are refused until an operator acts.
    #[error("{reason}")]
    Refused {
        /// Why, and what to do.
        reason: String,
    },
}

impl Error {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Io { .. }
            | Self::Net { .. }
            | Self::RocksDb { .. }
            | Self::Protocol { .. }
            | Self::InconsistentTiming { .. }
            | Self::Refused { .. } => Kind::Internal,
            Self::Corrupt { .. }
            | Self::Gap { .. }
            | Self::OtherHistory { .. }
            | Self::Vanished { .. }
            | Self::Version { .. } => Kind::Integrity,
            Self::Unreachable { .. } => Kind::Unreachable,
            Self::Fenced { .. } => Kind::Fenced,
            Self::Store { .. } | Self::StoreContract { .. } => Kind::Store,
            Self::NotEmpty { .. } => Kind::NotEmpty,
            Self::Identity { .. } | Self::Config { .. } | Self::FutureCommits { .. } => Kind::Usage,
        }
    }

    /// Whether it will pass when there is space on the disk again. RocksDB tells it by its text only.
    #[must_use]
    pub fn is_want_of_space(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
            Self::RocksDb { source, .. } => source.as_ref().contains("No space left on device"),
            _ => false,
        }
    }

    /// Whether an object store may have caused it by answering something else than what was stored. To ask again can help.
    #[must_use]
    pub fn may_be_a_wrong_answer(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Version { .. } | Self::Identity { .. })
    }

    /// For `map_err`: a failed file operation.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// For `map_err`: a failed RocksDB call.
    pub fn rocks(action: &'static str) -> impl FnOnce(rocksdb::Error) -> Self {
        move |source| Self::RocksDb { action, source }
    }

    /// For `map_err`: this error as one of the object store's interface. The archive gives it back as it was and does
    /// not try the request again.
    #[must_use]
    pub fn through_store(self) -> object_store::Error {
        object_store::Error::Generic { store: "archive", source: self.into() }
    }

    /// Corrupt bytes in `what` at `position`.
    pub fn corrupt(what: impl Into<String>, position: impl ToString, detail: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into(), position: position.to_string(), detail: detail.into(), is_cut_off: false }
    }

    /// Bytes of `what` that end too early.
    pub fn cut_off(what: impl Into<String>, position: impl ToString, detail: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into(), position: position.to_string(), detail: detail.into(), is_cut_off: true }
    }

    /// Whether bytes end too early, as those of an upload do that was cut off.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        matches!(self, Self::Corrupt { is_cut_off: true, .. })
    }
}
