//! Bases: one consistent state of all engines, cut without stopping writes.

pub mod manifest;
