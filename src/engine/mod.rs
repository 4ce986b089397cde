//! State: what keys hold.

pub mod memory;
