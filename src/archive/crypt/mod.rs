//! Client-side authenticated encryption of every object of an archive. `../FORMAT.md` gives each byte.
//!
//! ```text
//! keys     the keys of an archive: the first encrypts, all decrypt
//! format   an encrypted object's header, and which stored bytes hold which plain ones; pure
//! cipher   segments of 64 KiB, each with a tag
//! store    the object store that does it, over any other;  upload: the same in parts
//! ```
//!
//! Guarantees: whoever has the bucket but no key reads nothing but names, lengths and times; what was altered, truncated,
//! extended, or put under another name is an error. The plain lengths, ranges and conditional puts of an archive are those
//! of the store below. Nothing outside this directory knows of it but [`super::store::Archive`].
//! Non-goals: names and lengths stay visible, and so do the lengths of ranges read; an older whole object put back under
//! its own name is not noticed here (epochs, csns and digests inside do that); local files (spool, data directory) are not
//! encrypted; keys are not hidden from whoever can read this process' memory.

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

/// Whether these are the first bytes of an encrypted object.
#[must_use]
pub fn is_encrypted(begin: &[u8]) -> bool {
    begin.starts_with(&format::MAGIC)
}

/// Refuses an encrypted object that was read without keys; `begin` are its first bytes, `what` names it.
pub fn require_clear(begin: &[u8], what: &str) -> Result<()> {
    if !is_encrypted(begin) {
        return Ok(());
    }
    let key =
        ObjectHeader::decode(begin, what).map_or_else(|_| "a key".to_owned(), |header| format!("key `{}`", header.key));
    Err(Error::Identity {
        what: what.to_owned(),
        detail: format!(
            "is encrypted with {key}, and no key was given. Name the file that holds it with --archive-key-file \
             (archive-key-file), or set {}",
            keys::ARCHIVE_KEY_VARIABLE
        ),
    })
}

/// Decrypts a whole object outside its archive, as a file copied from there; `name` is the name it had.
pub fn decrypt(stored: &[u8], name: &ObjectName, keys: &KeyRing, what: &str) -> Result<Bytes> {
    cipher::open_whole(stored, &name.to_string(), keys, what)
}
