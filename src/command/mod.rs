//! Stage 2, meaning: what a request does and how its reply is written.
//!
//! `definition` says what a command is, and `table` lists every command. Each family of commands has one file.
//! `session` runs requests in turn, takes the writer lock when a request needs it, and makes one commit of each command
//! or EXEC.
//!
//! A command reads and checks first and makes its effects afterwards, so that a command that fails has made none.

pub mod ahead;
pub mod all_keys;
pub mod args;
pub mod client;
pub mod client_card;
pub mod definition;
pub mod errors;
pub mod host;
pub mod number;
pub mod reply;
pub mod session;
pub mod table;

mod admin;
mod collection;
mod cursor;
mod decimal;
mod demand;
mod expire;
mod glob;
mod hash;
mod index;
mod key;
mod list;
mod rename;
mod scan;
pub mod server_info;
mod set;
mod stream;
mod string;
mod txn;
mod walferry;
mod zset;

#[cfg(test)]
mod tests;
