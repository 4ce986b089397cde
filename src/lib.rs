//! walferry.

pub mod clock;
pub mod csn;
pub mod engine;
pub mod error;
pub mod record;
