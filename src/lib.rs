//! walferry.

pub mod archive;
pub mod clock;
pub mod csn;
pub mod error;
pub mod record;
