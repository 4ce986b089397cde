//! walferry.

pub mod clock;
pub mod commit;
pub mod csn;
pub mod engine;
pub mod error;
pub mod log;
pub mod record;
pub mod watermark;
