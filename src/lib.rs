//! walferry: WAL-shipping replication for a hybrid, Redis-protocol store.
//!
//! Each key has one home, memory or RocksDB on disk; a move between them is a commit. Each commit has a number (csn)
//! that is dense over both homes. Logs, chunks, replicas and restore points all use this number.
//!
//! # The way of a write
//!
//! | stage | module | central type | invariant |
//! |---|---|---|---|
//! | 1 clients | [`server`] | `Lane`, `Connection` | replies in request order, once the durability mode allows |
//! | 2 meaning | [`command`] | `Session` | one command or EXEC is one commit or none; a failed command has no effect |
//! | 3 state | [`engine`] | `Keyspace` | a key has one type and lives in one home |
//! | 4 logs | [`log`] | `OpLog`, the WAL envelope | a cross-engine commit stands whole in both logs |
//! | 5 order | [`commit`] | `Committer` | csns are dense; op-log before WAL; one writer |
//! | 6 chunk | [`chunk`] | `Chunk` | whole commits in csn order; any flipped bit is found |
//! | 7 movement | [`ship`] | `Tail`, `Cutter`, `Spool`, `Feeds` | each consumer pulls from a position that it owns |
//! | 8 archive | [`archive`] | `Archive`, `Uploader` | data before what refers to it; an epoch has one writer |
//! | 9 base | [`snapshot`] | `LocalBase`, `Manifest` | engines at one csn, or each at a stated csn; writes go on |
//! | 9 compacted run | [`compacted_run`] | `RunManifest` | the state before a run, with the run applied, is the state after it |
//! | 10 reading history | [`history`] | `Plan` | commits in order, without a gap, of one line |
//! | 11 restore | [`restore`] | `Engines` | exactly the target, or an error that names reachable targets |
//! | 12 retention | [`retention`] | `PrunePlan` | nothing is removed that the policy promises to keep |
//!
//! The base modules lie below all of them: [`csn`], [`record`], [`position`], [`plain_name`], [`clock`], [`config`],
//! [`keep`], [`grain`], [`error`], [`watermark`], [`metrics`], [`directory`], [`cluster`], [`varint`], [`threads`],
//! [`background`], [`allocator`], and [`io`], the only code that touches log files. Above the stages lie [`compact`],
//! which makes an archive cheaper, [`node`], which wires the stages into a running node of either role, and
//! [`primary`], what only a primary does. What only a replica does is the crate `walferry-replica`.
//!
//! A module named `testing` supports tests, and a file named `*_tests.rs` holds tests; both are compiled for tests only.
//!
//! Imports go one way: base modules < io, chunk < engine < log, archive < commit < command, snapshot < compacted_run <
//! history < restore, retention < server, ship, compact < node < primary. The crates `walferry-replica` (on top of
//! [`node`], beside [`primary`]) and `walferry-cli` build on this one.

pub mod allocator;
pub mod archive;
pub mod background;
pub mod chunk;
pub mod clock;
pub mod cluster;
pub mod command;
pub mod commit;
pub mod compact;
pub mod compacted_run;
pub mod config;
pub mod csn;
pub mod directory;
pub mod engine;
pub mod error;
pub mod grain;
pub mod history;
pub mod io;
pub mod keep;
#[cfg(test)]
mod life_cycle_tests;
pub mod log;
pub mod metrics;
pub mod node;
pub mod plain_name;
pub mod position;
pub mod primary;
pub mod record;
pub mod restore;
pub mod retention;
pub mod server;
pub mod ship;
pub mod snapshot;
pub mod threads;
pub mod varint;
pub mod watermark;
