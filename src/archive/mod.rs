//! The object store side: what lies where, who may write, what is there.
//!
//! Guarantees: an object counts as stored only when its length and e_tag were confirmed; a failed request is never
//! taken for "not there"; names are formatted and parsed in [`layout`] alone; a writer that lost its epoch notices.
//! With keys, every object is encrypted on its way ([`crypt`]).
//! Non-goals: what is inside bases and, but for [`merge`], inside chunks (opaque bytes here), and deciding what to prune
//! or restore.

mod aws;
pub mod bandwidth;
mod body;
pub mod config;
pub mod crypt;
pub mod digested;
pub mod epochs;
#[cfg(test)]
pub(crate) mod faults;
pub mod identity;
pub mod layout;
pub mod lineage;
pub mod listing;
pub mod marks;
pub mod merge;
pub mod pins;
pub mod put;
pub mod retry_policy;
pub mod starts;
pub mod store;
#[cfg(test)]
mod suite;
pub mod thinned;
pub mod traffic;
pub mod uploader;
#[cfg(test)]
mod weed;
