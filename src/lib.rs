//! walferry.

pub mod clock;
pub mod csn;
pub mod error;
pub mod io;
pub mod record;
