//! Stage 5: order and durability.
//!
//! - [`committer`] makes commits out of effects, one writer at a time; [`sync`] makes the commits durable.
//! - [`groups`] tells which replies may leave; [`gate`] tells whether writes are taken.
//! - [`room`] tells whether the disk can take writes; [`ages`] tells how long ago commits were made.
//! - [`turns`] applies commits that were made elsewhere.
//! - [`marks`] makes named commits; [`sweep`] deletes expired keys by commits; [`mover`] moves keys
//!   between homes.

pub mod ages;
pub mod committer;
pub mod gate;
pub mod groups;
pub mod guards;
mod log_queue;
mod log_thread;
mod logs;
pub mod marks;
pub mod mover;
pub mod room;
pub mod sweep;
pub mod sync;
pub mod turns;
pub mod writer;
