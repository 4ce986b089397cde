//! Commands against a database in a temporary directory, through sessions as connections run them.
//!
//! What is compared with a real redis-server is in the end-to-end suite; here is what needs the inside: commits counted,
//! effects within one EXEC, expiry by a clock that need not pass.

mod bounds;
mod collections;
mod commits;
mod keys;
mod rig;
mod scans;
mod strings;

pub use rig::Node;

const WRONG_TYPE: &str = "-WRONGTYPE Operation against a key holding the wrong kind of value|";
