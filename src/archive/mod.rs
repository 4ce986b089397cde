//! The object store side: the layout of the archive, who may write to it, and what it contains.
//!
//! Guarantees: an object counts as stored only when its length and e_tag were confirmed; a failed request is never
//! taken for "not there"; [`layout`] alone formats and parses names; a writer that lost its epoch notices it. If keys
//! are given, every object is encrypted before it is uploaded ([`crypt`]).
//! Non-goals: interpreting the content of bases and, except to compare two chunks of one name ([`chunk_put`]), of chunks
//! (opaque bytes here); deciding what to merge, to prune or to restore.

mod aws;
pub mod bandwidth;
mod body;
pub mod chunk_put;
pub mod config;
pub mod crypt;
pub mod digested;
pub mod epochs;
pub mod identity;
pub mod layout;
pub mod lineage;
pub mod listing;
pub mod marks;
pub mod opening;
mod part;
pub mod pins;
pub mod put;
pub mod retry_policy;
pub mod starts;
pub mod store;
#[cfg(test)]
pub(crate) mod testing;
pub mod thinned;
pub mod traffic;
pub mod uploader;
