//! A whole installation under load while everything that can go wrong does, as planned from a seed.
//!
//! ```text
//! plan       what will happen: rounds of load, disturbances and a finale; pure
//! line       what each writer writes at which position, and the state after it; pure
//! chronicle  what the newest line of history must hold at any csn; pure
//! cluster    all machines: what can be done to them                     machine  one server, its disk, its network
//! store      the archive, with a proxy for each node                    network  the TCP proxy between two nodes
//! writer     threads that write, and what each was promised             watch    threads that look at one server
//! run        a plan's execution, round by round                         checks   what must hold when all is well again
//! ```
//!
//! Guarantees: the plan depends on the seed only. How threads and processes interleave does not, so a replay meets the
//! same disturbances under the same load, not the same schedule.

mod checks;
mod chronicle;
mod cluster;
pub mod line;
mod machine;
mod network;
pub mod plan;
pub mod run;
mod store;
mod watch;
mod writer;
