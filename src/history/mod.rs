//! Stage 10: reading history: what an archive holds, and the way to any commit of it.
//!
//! ```text
//! target     what is asked for                    line       one line of history in an archive's listing
//! reach      which commits can be restored; pure  times      the commit times of a line, read when asked for
//! plan       base, chunks and runs to a commit;   route      the cheapest way over chunks and runs; pure
//!            pure                                 resolve    target -> csn -> plan
//! fetch      objects, many at a time and in order unpack     chunks -> commits, checked against each other
//! catch_up   commits for a replica                torn       chunks whose upload was interrupted
//! report     what an archive can restore          archive_figures  the same in few figures, for metrics
//! abandoned  commits on no line that is followed  continuity whether objects tell one history
//! reader_pin what a reader holds against removal
//! ```
//!
//! Guarantees: commits come out in csn order, without a gap and from one line; what cannot be had is an error that names
//! it. Used by restore, copy, compact, retention and replicas. Does not change an archive, but for a reader's pin.

pub mod abandoned;
pub mod archive_figures;
pub mod catch_up;
pub mod continuity;
pub mod fetch;
pub mod line;
pub mod plan;
pub mod reach;
pub mod reader_pin;
pub mod report;
pub mod resolve;
pub mod route;
pub mod target;
pub mod times;
pub mod torn;
pub mod unpack;
