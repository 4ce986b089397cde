//! The traits by which a node knows its role: the link of a replica, and the work of a primary.
//!
//! Both roles are built on top of this module, by the crate `walferry-replica` and by [`crate::primary`]; a node knows
//! them only through the two traits here. A replica that was promoted has both.

use crate::archive::uploader::UploaderStatus;
use crate::clock::Moment;
use crate::command::host::TaskReply;
use crate::commit::marks::Mark;
use crate::compact::merge::Round;
use crate::config::Config;
use crate::csn::Csn;
use crate::error::Result;
use crate::plain_name::PlainName;
use crate::ship::cutter::CutterStatus;
use crate::ship::feed::FeedStatus;
use crate::ship::spool::SpoolStatus;
use crate::snapshot::base::LocalBase;
use crate::snapshot::publish::Published;
use futures::future::BoxFuture;

/// The state of a replica's link.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LinkStatus {
    /// The primary's host.
    pub host: String,
    /// The primary's replication port.
    pub port: u16,
    /// The state in Redis' words: connect, connecting, sync, connected.
    pub state: &'static str,
    /// The primary's last commit, according to its last heartbeat.
    pub primary_csn: Csn,
    /// When the last message from the primary arrived; `None` if none arrived since the start.
    pub heard: Option<Moment>,
    /// Milliseconds since the oldest commit was made that may not be applied; never less than the true lag. 0 when all
    /// commits are known to be applied.
    pub lag_ms: u64,
    /// The current source of commits: stream, archive or base.
    pub source: &'static str,
    /// Why the link is down; empty if it is up.
    pub last_error: String,
}

/// A replica's link, as seen by the node.
pub trait ReplicaLink: Send + Sync {
    /// Returns the state of the link.
    fn status(&self) -> LinkStatus;

    /// Stops the link; everything received is applied when the future completes.
    fn stop(&self) -> BoxFuture<'_, ()>;

    /// Starts the link again after [`ReplicaLink::stop`].
    fn resume(&self) -> BoxFuture<'_, ()>;
}

/// The results of merging since the start.
#[derive(Clone, Debug, Default)]
pub struct MergeStatus {
    /// The sum of all rounds.
    pub sum: Round,
    /// Why the last round failed; `None` if it succeeded.
    pub last_error: Option<String>,
}

/// The state of the second archive.
#[derive(Clone, Debug, Default)]
pub struct SecondStatus {
    /// One of: connecting; base (the archive must receive a base first); streaming; stopped (until the next start).
    pub state: &'static str,
    /// The archive holds every commit up to this csn since its last base; 0 until the archive was read.
    pub archived: Csn,
    /// Bytes of sealed chunks that wait for this archive.
    pub spool_bytes: u64,
    /// Number of failures in a row.
    pub failures_in_row: u32,
    /// The last failure.
    pub last_error: Option<String>,
    /// How often the backlog was dropped since the start.
    pub drops: u64,
    /// The last base that the archive received since the start.
    pub last_base: Option<Published>,
    /// Why the last base could not be published; `None` if it was published.
    pub last_base_error: Option<String>,
}

/// The state of a primary's way to its archive.
#[derive(Clone, Debug)]
pub struct ArchivingStatus {
    /// How much was cut.
    pub cutter: CutterStatus,
    /// Why cutting fails; `None` if it does not.
    pub cutter_error: Option<String>,
    /// The chunks that wait for the archive.
    pub spool: SpoolStatus,
    /// The state of the uploader.
    pub uploader: UploaderStatus,
    /// The results of merging.
    pub merging: MergeStatus,
    /// The state of the second archive; `None` if none is configured.
    pub second: Option<SecondStatus>,
    /// Whether the logs did not reach back to the archive's end, so that restorable history begins with the next base.
    pub began_with_hole: bool,
}

/// The work of a primary, as seen by the node.
pub trait PrimaryRole: Send + Sync {
    /// Returns the connected replicas.
    fn feeds(&self) -> Vec<FeedStatus>;

    /// Asks one replica, by its node number, for a base that is not below a csn. All other requests end; `None` ends
    /// all.
    fn ask_for_base(&self, asked: Option<(String, Csn)>);

    /// Returns the state of the way to the archive; `None` without an archive.
    fn archiving(&self) -> Option<ArchivingStatus>;

    /// Applies changed settings.
    fn reconfigure(&self, config: &Config);

    /// Waits until the archive holds a commit. Returns an error without an archive or if uploading has ended.
    fn archived(&self, csn: Csn) -> BoxFuture<'_, Result<()>>;

    /// Cuts and uploads everything up to `csn` without waiting for the interval.
    fn flush(&self, csn: Csn) -> BoxFuture<'_, Result<()>>;

    /// Publishes a base that the archive has received to the second archive, too, if one is configured.
    fn publish_to_second<'a>(&'a self, base: &'a LocalBase) -> BoxFuture<'a, ()>;

    /// `WALFERRY MARK`: commits a mark of this name, which names the state after its own commit.
    fn mark(&self, name: PlainName) -> BoxFuture<'_, Result<TaskReply>>;

    /// `WALFERRY UNMARK`: removes a mark.
    fn unmark(&self, name: PlainName) -> BoxFuture<'_, Result<TaskReply>>;

    /// Returns, as text, whether a restore can find a mark by its name; `None` without an archive.
    fn mark_state(&self, mark: &Mark) -> Option<String>;

    /// Cuts the remaining commits, waits a limited time for the archive to receive the chunks, and stops.
    fn stop(&self) -> BoxFuture<'_, ()>;
}
