//! Stage 1, clients: from bytes on a socket to requests, and from replies back to bytes.

pub mod address;
pub mod connection;
mod descriptors;
pub mod frame;
pub mod http;
mod inline;
pub mod lane;
pub mod listener;
pub mod registry;
mod requests;
