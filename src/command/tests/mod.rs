//! Commands against a database in a temporary directory, through sessions as connections run them.
//!
//! The end-to-end suite compares commands with a real redis-server. The tests here need access to the inside: they
//! count commits, look at effects within one EXEC, and let keys expire by a clock that they set.

mod bounds;
mod collections;
mod commits;
mod keys;
mod moves;
mod rig;
mod scans;
mod strings;

pub(super) use rig::Node;

const WRONG_TYPE: &str = "-WRONGTYPE Operation against a key holding the wrong kind of value|";
