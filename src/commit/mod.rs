//! Stage 5: order and durability. The committer makes commits out of effects, one writer at a time; the syncer makes
//! them durable; the groups tell whose replies may leave; the gate says whether writes are taken at all, the room whether
//! the disk can take them; the ages tell how long ago commits were made. Marks are named commits; the sweep commits what
//! expires.

pub mod ages;
pub mod committer;
pub mod gate;
pub mod groups;
mod log_thread;
mod logs;
pub mod marks;
pub mod room;
pub mod sweep;
pub mod sync;
pub mod turn;
pub mod writer;
