//! A store that goes wrong, between the real binary and a real S3 server: errors, outages, lost replies, torn uploads,
//! stale listings, success for what is not there, wrong bytes. No gap is ever hidden, and the archived watermark never
//! passes what somebody without the faults can read.
//!
//! ```text
//! writer    one directed test per fault of an upload, of a base, of an outage
//! reader    the same for restore, verify, snapshots and a replica's bootstrap
//! takeover  promotion while the store goes wrong
//! schedule  random faults under load; `WALFERRY_ROUNDS` sets how many rounds, `WALFERRY_SEED` replays one
//! ```

mod store_faults;
mod support;
