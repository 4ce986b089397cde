//! A whole installation under load with every kind of fault, as planned from a seed.
//!
//! ```text
//! plan       the planned events: rounds of load, disturbances and a finale; pure
//! line       the step of each writer at each position, and the state after it; pure
//! chronicle  the content that the newest line of history must have at any csn; pure
//! cluster    all machines, and the actions on them
//! machine    one server, its disk, its network
//! store      the archive, with a proxy for each node
//! network    the TCP proxy between two nodes
//! writer     threads that write, and the acknowledgements of each
//! watch      threads that read from one server all the time
//! run        executes a plan, round by round
//! checks     the checks after all faults are healed
//! ```
//!
//! Guarantees: the plan depends on the seed only. The interleaving of threads and processes does not follow from the
//! seed, so a replay has the same disturbances under the same load, but not the same schedule.

mod checks;
mod chronicle;
mod cluster;
pub(crate) mod line;
mod machine;
mod network;
pub(crate) mod plan;
pub(crate) mod run;
mod store;
mod watch;
mod writer;
