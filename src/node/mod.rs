//! A running node of either role: an open data directory that serves clients.
//!
//! ```text
//! open             opens a data directory: locks, recovers, starts the committer
//! archive_commits  the archive as the source of commits that a recovery misses
//! rebuild          rebuilds a base from an archive in a directory that it opens for the purpose
//! places           rules for the locations of data and archives
//! roles            what a node sees of its role: the link of a replica, the work of a primary
//! core             the state that all parts share
//! every            runs a task at an interval
//! clock            how a primary reacts when the wall clock is set
//! key_count        the number of keys on disk
//! snapshots        memory images; cuts bases; purges the logs
//! repairs          repairs eventual bases
//! schedule, bases  which node publishes the due base; publishes bases
//! compacting       builds compacted runs on a schedule
//! pruning          prunes the archive on a schedule
//! reclaiming       frees disk space while the disk is low
//! chores           the background threads
//! running          the node: all of these parts together
//! safety           how old the commits are that a loss would take
//! figures          the figures of a node, for INFO and the metrics
//! info, metrics    INFO and the metrics
//! host             answers the requests of commands to the node
//! serve            serves clients until the node is asked to stop
//! ```
//!
//! Each part takes [`core::Core`] and the parts above it in this list; only those below `running` know the whole node.
//! The two roles are built on top: [`crate::primary`] and the crate `walferry-replica`, which the node sees through
//! [`roles`].

pub mod archive_commits;
pub mod bases;
mod chores;
pub mod clock;
pub mod compacting;
pub mod core;
pub mod every;
pub mod figures;
mod host;
mod info;
mod key_count;
mod metrics;
pub mod open;
pub mod places;
pub mod pruning;
pub mod rebuild;
mod reclaiming;
pub mod repairs;
pub mod roles;
pub mod running;
pub mod safety;
mod schedule;
pub mod serve;
pub mod snapshots;
