//! Stage 1, clients: from bytes on a socket to requests.

pub mod frame;
mod inline;
