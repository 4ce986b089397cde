//! What commands ask of the node around them. Implemented by the primary's and the replica's wiring.

use super::client::ClientCard;
use crate::config::{Config, Consistency};
use crate::csn::{Csn, Epoch};
use crate::error::Result;
use crate::plain_name::PlainName;
use crate::position::Position;
use arc_swap::Guard;
use bytes::BytesMut;
use futures::future::BoxFuture;
use std::sync::Arc;

/// A request that takes time: the connection awaits it after the commits before it were written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Task {
    /// Answers with the number of keys of all engines.
    CountKeys,
    /// Answers with the names of all keys that match a pattern.
    ListKeys(Vec<u8>),
    /// Answers once everything committed so far is in the archive.
    ArchiveFlush,
    /// Publishes a base and answers with its csn.
    Snapshot(Consistency),
    /// Names the state of now, by a commit of its own, and answers with its csn.
    Mark(PlainName),
    /// Takes a mark away.
    Unmark(PlainName),
    /// Makes this replica a primary under a new epoch.
    Promote(Insistence),
    /// Stops the process in good order.
    Shutdown,
}

/// What an operator allows a promotion to leave behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Insistence {
    /// The line of this epoch may be abandoned: its commits that this node does not have are on no line afterwards.
    pub abandon_epoch: Option<Epoch>,
    /// The primary's archive need not be followed, although this node has none.
    pub without_archive: bool,
}

impl Task {
    /// Whether the task goes on although the client that asked for it has left. The others can be dropped at any point.
    #[must_use]
    pub fn outlives_client(&self) -> bool {
        matches!(self, Self::Promote(_) | Self::Shutdown)
    }
}

/// What a task answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TaskReply {
    /// `OK`.
    Ok,
    /// A csn.
    Csn(Csn),
    /// A number of things.
    Count(u64),
    /// A whole reply, the same in each protocol version.
    Encoded(BytesMut),
    /// An error with a code of its own.
    Refused(String),
    /// Nothing: the connection is closed.
    Close,
}

/// Watermarks as `WALFERRY CSN` tells them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WatermarkReport {
    /// Generation of the writer.
    pub epoch: Epoch,
    /// Last commit visible to readers.
    pub committed: Csn,
    /// Last commit synced in both logs.
    pub durable: Csn,
    /// Last commit confirmed in the archive.
    pub archived: Csn,
}

/// A mark as `WALFERRY MARKS` tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MarkCard {
    /// Its name.
    pub name: PlainName,
    /// Its commit.
    pub at: Position,
    /// Whether a restore finds it: `yes`, `not yet`, `no archive`, or why it never will.
    pub archived: String,
}

/// A section of INFO: its title and its fields in order.
pub type InfoSection = (&'static str, Vec<(String, String)>);

/// The node around the commands.
pub trait Host: Send + Sync {
    /// Settings in force.
    fn config(&self) -> Guard<Arc<Config>>;

    /// CONFIG SET: all pairs, or none and an error.
    fn reconfigure(&self, pairs: &[(String, String)]) -> Result<()>;

    /// How far commits have got.
    fn progress(&self) -> WatermarkReport;

    /// Sections of INFO, in Redis' order.
    fn info(&self) -> Vec<InfoSection>;

    /// Marks of this node's history, by name.
    fn marks(&self) -> Result<Vec<MarkCard>>;

    /// ROLE: on a primary the replicas as (address, port, acknowledged csn), on a replica its primary.
    fn role(&self) -> Role;

    /// CLIENT LIST.
    fn clients(&self) -> Vec<ClientCard>;

    /// BGSAVE: starts a base in the background; an error if one is under way or there is nowhere to put it.
    fn start_snapshot(&self) -> Result<()>;

    /// LASTSAVE: Unix time in seconds of the last base or memory image.
    fn last_save(&self) -> u64;

    /// Number of keys of the disk engines as it was counted last, or about; without waiting.
    fn known_key_count(&self) -> u64;

    /// Whether the memory engines hold as much as `maxmemory` allows.
    fn is_memory_full(&self) -> bool;

    /// Counts one executed command.
    fn count_command(&self);

    /// Returns once the archive holds a commit (`archive-ack`), or when it cannot be known any more.
    fn archive_acknowledged(&self, csn: Csn) -> BoxFuture<'_, Result<()>>;

    /// Does what takes time.
    fn run(&self, task: Task) -> BoxFuture<'_, Result<TaskReply>>;
}

/// What this node is in the replication.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Role {
    /// A primary and its replicas.
    Primary {
        /// Last commit.
        committed: Csn,
        /// Address, port for clients and acknowledged csn of each replica.
        replicas: Vec<(String, u16, Csn)>,
    },
    /// A replica.
    Replica {
        /// Its primary's host.
        host: String,
        /// Its primary's replication port.
        port: u16,
        /// Redis' word for the link's state: connect, connecting, sync, connected.
        state: &'static str,
        /// Last commit applied.
        applied: Csn,
    },
}
