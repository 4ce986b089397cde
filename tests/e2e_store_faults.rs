//! A faulty store between the real binary and a real S3 server: errors, outages, lost replies, torn uploads, stale
//! listings, success reported for objects that were not stored, wrong bytes. No gap is ever hidden, and the archived
//! watermark never exceeds what a reader without the faults can read.
//!
//! ```text
//! writer    one test for each fault of an upload, of a base, and of an outage
//! reader    one test for each fault of restore, verify, snapshots and a replica's bootstrap
//! takeover  promotion with a faulty store
//! schedule  random faults under load; `WALFERRY_ROUNDS` sets the number of rounds, `WALFERRY_SEED` replays a run
//! ```

mod store_faults;
mod support;
