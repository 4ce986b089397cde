//! Stage 9: bases. One consistent state of all engines, cut without stopping writes, and the node's own memory images.
//! Every byte of an image: `FORMAT.md`.

pub mod base;
pub mod image;
pub mod local;
pub mod manifest;
pub mod publish;
