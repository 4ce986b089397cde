//! Test support: an object store with faults, a real S3 server, and the suite that runs over every kind of store.

pub(crate) mod faults;
mod suite;
mod weed;
