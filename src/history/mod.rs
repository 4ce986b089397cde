//! Stage 10: reads the history in an archive, and plans how to restore any of its commits.
//!
//! ```text
//! target     the requested point of history        line       one line of history in an archive's listing
//! reach      which commits can be restored; pure    times      the commit times of a line
//! plan       base, chunks and runs to a csn; pure   route      the cheapest route over chunks and runs; pure
//! step       one step of a plan: base, chunk or run; a plan is one list of them
//! fetch      objects, in parallel and in order      resolve    target -> csn -> plan
//! unpack     chunks -> commits, checked             torn       chunks whose upload was interrupted
//! catch_up   commits for a replica                  continuity checks that objects tell one history
//! report     what an archive can restore            archive_figures  the archive's content in few figures, for metrics
//! abandoned  commits that left the newest line      reader_pin the pin of a reader
//! ```
//!
//! Guarantees: commits are delivered in csn order, without a gap and from one line. A commit or an object that cannot
//! be read causes an error that names it. Restore, copy, compact, retention and replicas use this stage. This stage
//! writes nothing to an archive except a reader pin.

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
pub mod step;
pub mod target;
pub mod times;
pub mod torn;
pub mod unpack;
