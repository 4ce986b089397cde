//! walferry.

pub mod chunk;
pub mod clock;
pub mod csn;
pub mod error;
pub mod record;
