//! walferry.

pub mod clock;
pub mod command;
pub mod csn;
pub mod error;
pub mod record;
pub mod server;
