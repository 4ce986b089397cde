//! walferry.

pub mod archive;
pub mod chunk;
pub mod clock;
pub mod cluster;
pub mod command;
pub mod commit;
pub mod config;
pub mod csn;
pub mod directory;
pub mod engine;
pub mod error;
pub mod io;
pub mod log;
pub mod record;
pub mod restore;
pub mod server;
pub mod ship;
pub mod snapshot;
pub mod watermark;
