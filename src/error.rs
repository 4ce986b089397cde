//! The library's one error type. Each message says what was expected, what was found and what to do. [`Kind`] tells a
//! caller how to act; the command line turns it into an exit code.

use crate::csn::{CommitTime, Csn, Epoch, HistoryHash};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Result of each fallible function of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of an error, by which a caller decides how to act.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A defect, or a failure of the environment that no other kind describes.
    Internal,
    /// The request, the configuration, the named directory or the machine's clock is wrong.
    Usage,
    /// The restore target does not lie on the history that is available.
    Unreachable,
    /// Stored data is not what was written: it is corrupt, has a gap, has vanished, belongs to another history or has
    /// an unknown version.
    Integrity,
    /// A newer epoch exists: this writer must stop writing.
    Fenced,
    /// The object store cannot be reached or does not work as it must.
    Store,
    /// A target directory that must be empty is not.
    NotEmpty,
    /// The process is stopping: send the request to another node, or again after the restart.
    Stopping,
    /// Other work is in the way at this moment: the same request can succeed later.
    TryAgain,
    /// Another process, node, epoch or mark has what the request claims. A retry fails as long as it does.
    Conflict,
    /// The request needs a part of the configuration that this node or command does not have.
    NotConfigured,
    /// The disk or the spool has no room. Writes are taken when there is room.
    NoSpace,
    /// A log could not be written or synced, or uploading has ended: restart the process.
    Broken,
    /// The request exceeds a limit of this build.
    Unsupported,
}

impl Kind {
    /// Returns the error code, the first word of the reply, that a client of a node gets.
    #[must_use]
    pub fn reply_code(self) -> &'static str {
        match self {
            Self::Fenced => "FENCED",
            Self::Stopping => "STOPPING",
            Self::TryAgain => "TRYAGAIN",
            Self::Conflict => "CONFLICT",
            Self::NotConfigured => "NOTCONFIGURED",
            Self::NoSpace | Self::Broken => "MISCONF",
            Self::Internal
            | Self::Usage
            | Self::Unreachable
            | Self::Integrity
            | Self::Store
            | Self::NotEmpty
            | Self::Unsupported => "ERR",
        }
    }

    /// Returns the kind that a node states by the error code of its reply. Codes that more than one kind has, and the
    /// codes of Redis, are [`Kind::Internal`].
    #[must_use]
    pub fn of_reply_code(code: &str) -> Self {
        let stated = [Self::Fenced, Self::Stopping, Self::TryAgain, Self::Conflict, Self::NotConfigured];
        stated.into_iter().find(|kind| kind.reply_code() == code).unwrap_or(Self::Internal)
    }
}

/// All errors of the library.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The operation, as a verb.
        action: &'static str,
        /// The file of the operation.
        path: PathBuf,
        /// Error of the system.
        source: std::io::Error,
    },
    /// A socket operation failed.
    #[error("cannot {action} {peer}: {source}")]
    Net {
        /// The operation, as a verb.
        action: &'static str,
        /// Address of the other side.
        peer: String,
        /// Error of the system.
        source: std::io::Error,
    },
    /// RocksDB refused an operation.
    #[error("RocksDB could not {action}: {source}")]
    RocksDb {
        /// The operation, as a verb.
        action: &'static str,
        /// Error of RocksDB.
        source: rocksdb::Error,
    },
    /// Bytes differ from those that were written.
    #[error("{what} is corrupt at {position}: {detail}")]
    Corrupt {
        /// The object: a file path, an object name, a log record.
        what: String,
        /// Place in the object.
        position: String,
        /// The expectation and the finding.
        detail: String,
        /// Whether the object ends too early, as after an interrupted upload.
        is_cut_off: bool,
    },
    /// Commits are missing.
    #[error("{what} has a gap: expected csn {expected}, found {found}")]
    Gap {
        /// The log or the range of the archive.
        what: String,
        /// The csn that had to come next.
        expected: Csn,
        /// The csn found in its place, or "the end".
        found: String,
    },
    /// An object that was listed is gone: a plan made from that listing is out of date.
    #[error(
        "{what} is in the archive's listing, but the object is missing. If a prune is under way, try again. \
         Otherwise another process removed the object: check the archive with walferry verify"
    )]
    Vanished {
        /// The object.
        what: String,
    },
    /// A commit does not continue the history in which it was found.
    #[error(
        "{what} belongs to another history: csn {csn} has the history hash {found}, but {expected} is the hash that \
         follows from the commits before it. None of its commits were applied"
    )]
    OtherHistory {
        /// Source of the commit: a chunk, a log, a peer.
        what: String,
        /// The csn of the commit.
        csn: Csn,
        /// Hash that the commit must have to follow the local history.
        expected: HistoryHash,
        /// Hash that the commit was found with.
        found: HistoryHash,
    },
    /// A format or protocol has a version that this build does not know.
    #[error(
        "{what} has version {found}, and this build reads only version {known}. Use the walferry release that wrote it"
    )]
    Version {
        /// The object with the version.
        what: String,
        /// Version found.
        found: u32,
        /// Version that this build reads.
        known: u32,
    },
    /// A restore target cannot be reached.
    #[error("target {target} cannot be restored: {reason}. The nearest restore points are: {nearest}")]
    Unreachable {
        /// The requested target.
        target: String,
        /// Why the target cannot be reached.
        reason: String,
        /// The nearest restore points.
        nearest: String,
    },
    /// Another writer took over.
    #[error(
        "fenced: node {node} has claimed epoch {newer}, so this writer of epoch {own} must not write. Start this \
         node as a replica of the new primary, from an empty directory"
    )]
    Fenced {
        /// Epoch of this writer.
        own: Epoch,
        /// The newer epoch.
        newer: Epoch,
        /// Node that claimed the newer epoch.
        node: String,
    },
    /// The object store failed.
    #[error("the object store could not {action} {path}: {source}")]
    Store {
        /// The operation, as a verb.
        action: &'static str,
        /// Object or prefix of the operation.
        path: String,
        /// Error of the store.
        source: object_store::Error,
    },
    /// The object store answers, but not as it must.
    #[error("the object store at {url} {detail}")]
    StoreContract {
        /// URL of the archive.
        url: String,
        /// The behaviour of the store, as a predicate, and the remedy.
        detail: String,
    },
    /// A directory that must be empty is not.
    #[error("directory {} is not empty: {detail}", dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
        /// The content of the directory, and the remedy.
        detail: String,
    },
    /// This process may not use a data directory or an archive prefix.
    #[error("{what}: {detail}")]
    Identity {
        /// The directory or the archive.
        what: String,
        /// The expectation, the finding and the remedy.
        detail: String,
    },
    /// A configuration value is wrong.
    #[error("configuration: {key}: {detail}")]
    Config {
        /// The key.
        key: String,
        /// The fault of the value, and the accepted values.
        detail: String,
    },
    /// The peer broke the replication protocol.
    #[error("replication peer {peer}: {detail}")]
    Protocol {
        /// Address of the peer.
        peer: String,
        /// The expected message and the received one.
        detail: String,
    },
    /// The last commit lies in the future, so no commit of the present can follow it.
    #[error(
        "the last commit was made at {last}, which is {} s after {now}, the time of this machine's clock: one of \
         the two is wrong. Nothing was changed. If the clock is wrong, set it. If the clock is right, start once \
         with --set accept-clock-step=yes (before a promotion: CONFIG SET accept-clock-step yes): a new epoch then \
         begins, whose commits have the present time",
        last.0.saturating_sub(now.0) / 1_000_000
    )]
    FutureCommits {
        /// Time of the last commit.
        last: CommitTime,
        /// Time that this machine's clock shows.
        now: CommitTime,
    },
    /// The engines of a base were cut further apart than allowed. No base was made.
    #[error(
        "no base was made, because the engines were cut {} ms of commit time apart and only {} ms are allowed. Try \
         again under less load, allow more, or ask for a strict base, which is exact under any load",
        found.as_secs_f64() * 1e3, allowed.as_millis()
    )]
    InconsistentTiming {
        /// Commit time between the cuts.
        found: Duration,
        /// The longest time that was allowed.
        allowed: Duration,
    },
    /// This process is stopping and takes no more work.
    #[error("the node is stopping: send the request to another node, or again after the restart")]
    Stopping,
    /// Other work is in the way at this moment.
    #[error("{reason}")]
    NotNow {
        /// The other work, and when to try again.
        reason: String,
    },
    /// Another process, node, epoch or mark has what the request claims.
    #[error("{reason}")]
    Conflict {
        /// The claimed thing, its owner, and the remedy.
        reason: String,
    },
    /// The request names something that does not exist.
    #[error("{reason}")]
    Unknown {
        /// The thing that does not exist.
        reason: String,
    },
    /// A part of the configuration is missing.
    #[error("{reason}")]
    NotConfigured {
        /// The missing part, and the option or key that supplies it.
        reason: String,
    },
    /// The disk or the spool has no room.
    #[error("{reason}")]
    NoRoom {
        /// The full disk or spool, and the remedy.
        reason: String,
    },
    /// A log could not be written or synced, or uploading has ended. Nothing changes that before a restart.
    #[error("{reason}")]
    NeedsRestart {
        /// The failed operation, and its meaning for the data.
        reason: String,
    },
    /// An object would exceed a limit of this build.
    #[error("{what} has {found} bytes, more than the limit of {limit} bytes. {advice}")]
    OverLimit {
        /// The object.
        what: String,
        /// Its size.
        found: usize,
        /// The largest size allowed.
        limit: usize,
        /// The remedy.
        advice: &'static str,
    },
    /// A check of walferry's own work failed.
    #[error("{reason}. This is a defect in walferry: please report it")]
    Defect {
        /// The expectation and the finding.
        reason: String,
    },
    /// The clocks of this machine and of the object store disagree.
    #[error(
        "nothing was removed, because this machine's clock shows {own} and the object store's clock shows {store}. \
         Set this machine's clock, then start the prune again"
    )]
    ClockSkew {
        /// Time of this machine's clock.
        own: CommitTime,
        /// Time of the object store's clock.
        store: CommitTime,
    },
    /// The primary does not serve this replica.
    #[error("primary {primary} refuses this replica: {reason}")]
    RefusedByPrimary {
        /// Address of the primary.
        primary: String,
        /// The primary's text.
        reason: String,
        /// Whether no later attempt can succeed.
        is_final: bool,
    },
    /// The outcome of one operation, given to each caller that waited for it.
    #[error(transparent)]
    Shared(std::sync::Arc<Error>),
}

impl Error {
    /// Returns what a caller can do about the error.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Io { .. }
            | Self::Net { .. }
            | Self::RocksDb { .. }
            | Self::Protocol { .. }
            | Self::InconsistentTiming { .. }
            | Self::Defect { .. } => Kind::Internal,
            Self::Corrupt { .. }
            | Self::Gap { .. }
            | Self::OtherHistory { .. }
            | Self::Vanished { .. }
            | Self::Version { .. } => Kind::Integrity,
            Self::Unreachable { .. } => Kind::Unreachable,
            Self::Fenced { .. } => Kind::Fenced,
            Self::Store { .. } | Self::StoreContract { .. } => Kind::Store,
            Self::NotEmpty { .. } => Kind::NotEmpty,
            Self::Identity { .. }
            | Self::Config { .. }
            | Self::FutureCommits { .. }
            | Self::Unknown { .. }
            | Self::ClockSkew { .. } => Kind::Usage,
            Self::Stopping => Kind::Stopping,
            Self::NotNow { .. } | Self::RefusedByPrimary { is_final: false, .. } => Kind::TryAgain,
            Self::Conflict { .. } | Self::RefusedByPrimary { is_final: true, .. } => Kind::Conflict,
            Self::NotConfigured { .. } => Kind::NotConfigured,
            Self::NoRoom { .. } => Kind::NoSpace,
            Self::NeedsRestart { .. } => Kind::Broken,
            Self::OverLimit { .. } => Kind::Unsupported,
            Self::Shared(error) => error.kind(),
        }
    }

    /// Reports whether the operation can succeed after space was freed on the disk. RocksDB says so only in the text of
    /// its error.
    #[must_use]
    pub fn is_want_of_space(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
            Self::RocksDb { source, .. } => source.as_ref().contains("No space left on device"),
            Self::Shared(error) => error.is_want_of_space(),
            _ => false,
        }
    }

    /// Reports whether the object store may have caused the error by a wrong answer. If so, asking once more can help.
    #[must_use]
    pub fn may_be_a_wrong_answer(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Version { .. } | Self::Identity { .. })
    }

    /// Returns a function for `map_err` that reports a failed file operation.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// Returns a function for `map_err` that reports a failed RocksDB call.
    pub fn rocks(action: &'static str) -> impl FnOnce(rocksdb::Error) -> Self {
        move |source| Self::RocksDb { action, source }
    }

    /// Wraps this error as one of the object store's interface, for `map_err`. The archive unwraps it unchanged and
    /// does not retry the request.
    #[must_use]
    pub fn through_store(self) -> object_store::Error {
        object_store::Error::Generic { store: "archive", source: self.into() }
    }

    /// Makes the error for a task that ended without a result, for `map_err`.
    #[must_use]
    pub fn of_task(error: tokio::task::JoinError) -> Self {
        if error.is_panic() { Self::Defect { reason: format!("a task panicked: {error}") } } else { Self::Stopping }
    }

    /// Makes the error for corrupt bytes in `what` at `position`.
    pub fn corrupt(what: impl Into<String>, position: impl ToString, detail: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into(), position: position.to_string(), detail: detail.into(), is_cut_off: false }
    }

    /// Makes the error for bytes of `what` that end too early.
    pub fn cut_off(what: impl Into<String>, position: impl ToString, detail: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into(), position: position.to_string(), detail: detail.into(), is_cut_off: true }
    }

    /// Reports whether bytes end too early, as after an interrupted upload.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        matches!(self, Self::Corrupt { is_cut_off: true, .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_reads_the_kind_from_the_error_code() {
        for kind in [Kind::Fenced, Kind::Stopping, Kind::TryAgain, Kind::Conflict, Kind::NotConfigured] {
            assert_eq!(Kind::of_reply_code(kind.reply_code()), kind);
        }
        for code in ["ERR", "MISCONF", "WRONGTYPE"] {
            assert_eq!(Kind::of_reply_code(code), Kind::Internal, "{code}");
        }
    }

    #[test]
    fn a_shared_error_has_the_kind_and_the_text_of_its_cause() {
        let cause = Error::Conflict { reason: "mark m is taken".to_owned() };
        let shared = Error::Shared(std::sync::Arc::new(cause));
        assert_eq!((shared.kind(), shared.to_string()), (Kind::Conflict, "mark m is taken".to_owned()));
    }
}
