//! The interface of the node that runs the commands. Primary and replica share one implementation.

use super::client_card::ClientCard;
use crate::config::{Config, Consistency};
use crate::csn::{Csn, Epoch};
use crate::engine::meta::Home;
use crate::error::Result;
use crate::plain_name::PlainName;
use crate::position::Position;
use arc_swap::Guard;
use bytes::BytesMut;
use futures::future::BoxFuture;
use std::sync::Arc;

/// A request that takes time. The connection awaits it after all earlier commits were written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Task {
    /// Replies with the number of keys of all engines.
    CountKeys,
    /// Replies with the names of all keys that match a pattern.
    ListKeys(Vec<u8>),
    /// Replies when everything committed before the request is in the archive.
    ArchiveFlush,
    /// Publishes a base and replies with its csn.
    Snapshot(Consistency),
    /// Names the present state by a commit of its own, and replies with the csn of that commit.
    Mark(PlainName),
    /// Removes a mark.
    Unmark(PlainName),
    /// Moves a key to a home, and replies whether it moved.
    Move(Vec<u8>, Home),
    /// Makes this replica a primary under a new epoch.
    Promote(Insistence),
    /// Stops the process in good order.
    Shutdown,
}

/// The losses that an operator explicitly accepts for a promotion.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Insistence {
    /// Epoch whose line may be abandoned. Commits of that line which this node does not have are on no line afterwards.
    pub abandon_epoch: Option<Epoch>,
    /// Whether a node without an archive may be promoted although its primary has one.
    pub without_archive: bool,
}

impl Task {
    /// Reports whether the task continues when its client has left. Other tasks can be dropped at any point.
    #[must_use]
    pub fn outlives_client(&self) -> bool {
        matches!(self, Self::Promote(_) | Self::Shutdown)
    }
}

/// Reply of a task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TaskReply {
    /// `OK`.
    Ok,
    /// A csn.
    Csn(Csn),
    /// A count, for example of keys.
    Count(u64),
    /// A whole reply that is the same in each protocol version.
    Encoded(BytesMut),
    /// An error with a code of its own.
    Refused(String),
    /// No reply: the connection is closed.
    Close,
}

/// Watermarks as `WALFERRY CSN` shows them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WatermarkReport {
    /// Generation of the writer.
    pub epoch: Epoch,
    /// Last commit that readers see.
    pub committed: Csn,
    /// Last commit that is synced in both logs.
    pub durable: Csn,
    /// Last commit that is confirmed in the archive.
    pub archived: Csn,
}

/// A mark as `WALFERRY MARKS` shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MarkCard {
    /// Name of the mark.
    pub name: PlainName,
    /// Position of the mark's commit.
    pub at: Position,
    /// Whether a restore finds the mark: `yes`, `not yet`, `no archive`, or the reason why it never will.
    pub archived: String,
}

/// A section of INFO: the title, and the fields in order.
pub type InfoSection = (&'static str, Vec<(String, String)>);

/// The node that runs the commands.
pub trait Host: Send + Sync {
    /// Returns the settings in force.
    fn config(&self) -> Guard<Arc<Config>>;

    /// CONFIG SET: changes all pairs, or none and returns an error.
    fn reconfigure(&self, pairs: &[(String, String)]) -> Result<()>;

    /// Returns the watermarks.
    fn watermarks(&self) -> WatermarkReport;

    /// Returns the sections of INFO, in Redis' order.
    fn info(&self) -> Vec<InfoSection>;

    /// Returns the marks of this node's history, ordered by name.
    fn marks(&self) -> Result<Vec<MarkCard>>;

    /// ROLE: returns the node's role in the replication.
    fn role(&self) -> Role;

    /// CLIENT LIST: returns the connected clients.
    fn clients(&self) -> Vec<ClientCard>;

    /// BGSAVE: starts a base in the background. Returns an error if one is under way or there is no place to put it.
    fn start_snapshot(&self) -> Result<()>;

    /// LASTSAVE: returns the Unix time in seconds of the last base or memory image.
    fn last_save(&self) -> u64;

    /// Returns the number of keys of the disk engines by the last count, or an approximation, without waiting.
    fn known_key_count(&self) -> u64;

    /// Reports whether writes that grow the keys in memory must be refused.
    fn is_memory_full(&self) -> bool;

    /// Counts one executed command.
    fn count_command(&self);

    /// Returns when the archive holds the commit at `csn` (`archive-ack`). Returns an error if there is no archive or
    /// uploading has ended.
    fn archive_acknowledged(&self, csn: Csn) -> BoxFuture<'_, Result<()>>;

    /// Runs a task.
    fn run(&self, task: Task) -> BoxFuture<'_, Result<TaskReply>>;
}

/// Role of this node in the replication.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Role {
    /// The node is a primary.
    Primary {
        /// Last commit.
        committed: Csn,
        /// Address, client port and acknowledged csn of each replica.
        replicas: Vec<(String, u16, Csn)>,
    },
    /// The node is a replica.
    Replica {
        /// Host of the primary.
        host: String,
        /// Replication port of the primary.
        port: u16,
        /// State of the link in Redis' words: connect, connecting, sync, connected.
        state: &'static str,
        /// Last commit that was applied.
        applied: Csn,
    },
}
