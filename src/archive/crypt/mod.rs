//! Client-side authenticated encryption of every object of an archive. `../FORMAT.md` gives each byte.
//!
//! ```text
//! keys     the keys of an archive: the first encrypts, all decrypt
//! format   an encrypted object's header, and which stored bytes hold which plain bytes; pure
//! cipher   segments of 64 KiB, each with a tag
//! store    the object store that encrypts, over any other store;  upload: multipart uploads
//! ```
//!
//! Guarantees: without a key, an attacker who can read the bucket learns only names, lengths and times; an object that
//! was altered, truncated, extended or put under another name is an error. The plain lengths, the ranges and the
//! conditional puts of an archive behave as in the underlying store. Callers of [`super::store::Archive`] see only
//! plain objects; the keys are all that they provide.
//! Non-goals: names, lengths of objects and lengths of read ranges stay visible. An older version of a whole object,
//! put back under its own name, is not detected here (epochs, csns and digests inside the objects detect it). Local
//! files (spool, data directory) are not encrypted. Keys are not hidden from an attacker who can read the memory of
//! this process.

mod cipher;
mod format;
pub mod keys;
mod store;
#[cfg(test)]
mod tests;
mod upload;

pub use keys::KeyRing;
pub use store::CryptStore;

use super::layout::ObjectName;
use crate::error::{Error, Result};
use bytes::Bytes;
use format::ObjectHeader;

/// Reports whether these are the first bytes of an encrypted object.
#[must_use]
pub fn is_encrypted(begin: &[u8]) -> bool {
    begin.starts_with(&format::MAGIC)
}

/// Refuses an encrypted object that was read without keys. `begin` are the object's first bytes, `what` names the
/// object.
pub fn require_clear(begin: &[u8], what: &str) -> Result<()> {
    if !is_encrypted(begin) {
        return Ok(());
    }
    let key =
        ObjectHeader::decode(begin, what).map_or_else(|_| "a key".to_owned(), |header| format!("key `{}`", header.key));
    Err(Error::Identity {
        what: what.to_owned(),
        detail: format!(
            "is encrypted with {key}, and no key was given. Name the file with the key by --archive-key-file \
             (archive-key-file), or set {}",
            keys::ARCHIVE_KEY_VARIABLE
        ),
    })
}

/// Decrypts a whole object outside its archive, such as a file copied from the bucket; `name` is the object's name in
/// the archive.
pub fn decrypt(stored: &[u8], name: &ObjectName, keys: &KeyRing, what: &str) -> Result<Bytes> {
    cipher::open_whole(stored, &name.to_string(), keys, what)
}
