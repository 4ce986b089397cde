//! Stage 2, meaning: what a request does and how its reply is written.

pub mod args;
pub mod errors;
pub mod number;
pub mod reply;
