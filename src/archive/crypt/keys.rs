//! The keys of an archive.
//!
//! Guarantees: the first key of a ring encrypts new objects, and every key decrypts the objects that it encrypted; a
//! key is never shown, and an error names a wrong line only by its number.

use crate::error::{Error, Result};
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// Environment variable with the archive's keys, used if no key file is named.
pub const ARCHIVE_KEY_VARIABLE: &str = "WALFERRY_ARCHIVE_KEY";
/// Environment variable with the keys of the second archive, used if no key file is named for it.
pub const ARCHIVE_2_KEY_VARIABLE: &str = "WALFERRY_ARCHIVE_2_KEY";
/// Environment variable with the keys of the archive that `walferry copy` writes, used if no key file is named for it.
pub const TO_ARCHIVE_KEY_VARIABLE: &str = "WALFERRY_TO_ARCHIVE_KEY";

/// Bytes of a key.
pub(super) const KEY_BYTES: usize = 32;
/// Longest [`KeyId`], in bytes.
pub(super) const KEY_ID_BYTES_MAX: usize = 32;
/// Bytes of a [`Key::fingerprint`].
pub(super) const FINGERPRINT_BYTES: usize = 8;

const FINGERPRINT_CONTEXT: &str = "walferry archive key fingerprint v1";
const LINE: &str = "a line is an ID of 1 to 32 letters, digits, '.', '_', '-', a space, and 64 hexadecimal digits; \
                    `walferry keygen` prints one";

/// Name of a key. The header of every object contains the name of its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyId(String);

impl FromStr for KeyId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if text.is_empty() || text.len() > KEY_ID_BYTES_MAX || !text.bytes().all(plain) {
            let detail = format!("the ID of a key consists of 1 to {KEY_ID_BYTES_MAX} letters, digits, '.', '_', '-'");
            return Err(Error::Config { key: "key ID".to_owned(), detail });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A secret with a name.
#[derive(Clone)]
pub struct Key {
    /// Name of the key.
    pub id: KeyId,
    secret: [u8; KEY_BYTES],
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, <hidden>)", self.id)
    }
}

impl Key {
    /// Generates a key from the system's random numbers. Without an ID, the key gets a random one.
    pub fn generate(id: Option<KeyId>) -> Result<Self> {
        let mut secret = [0; KEY_BYTES];
        random(&mut secret)?;
        let id = match id {
            Some(id) => id,
            None => {
                let mut suffix = [0; 4];
                random(&mut suffix)?;
                KeyId(format!("k-{:08x}", u32::from_be_bytes(suffix)))
            }
        };
        Ok(Self { id, secret })
    }

    /// Returns the key's line for a key file. No other function shows the secret.
    #[must_use]
    pub fn line(&self) -> String {
        let digits: String = self.secret.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{} {digits}", self.id)
    }

    /// Returns bytes that distinguish two keys of the same name and reveal neither.
    pub(super) fn fingerprint(&self) -> [u8; FINGERPRINT_BYTES] {
        let hash = blake3::derive_key(FINGERPRINT_CONTEXT, &self.secret);
        std::array::from_fn(|nth| hash[nth])
    }

    pub(super) fn secret(&self) -> &[u8; KEY_BYTES] {
        &self.secret
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (id, digits) = (words.next()?.parse().ok()?, words.next()?);
        if words.next().is_some() || digits.len() != 2 * KEY_BYTES || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut secret = [0; KEY_BYTES];
        for (nth, byte) in secret.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * nth..2 * nth + 2], 16).ok()?;
        }
        Some(Self { id, secret })
    }
}

/// Fills the buffer with the system's random numbers.
pub(super) fn random(buffer: &mut [u8]) -> Result<()> {
    let failed = || std::io::Error::other("the system gives no random numbers, so nothing can be encrypted");
    aws_lc_rs::rand::fill(buffer)
        .map_err(|_| Error::io("read random numbers from", Path::new("/dev/urandom"))(failed()))
}

/// The keys with which an archive is opened; clones share them. Never empty; no two keys have the same name.
#[derive(Clone, Debug)]
pub struct KeyRing {
    keys: Arc<[Key]>,
}

impl KeyRing {
    /// Parses the keys in the lines of `text`; `what` names the text in errors. Empty lines and lines that begin with
    /// `#` are skipped.
    pub fn parse(text: &str, what: &str) -> Result<Self> {
        let wrong = |detail: String| Error::Config { key: what.to_owned(), detail };
        let mut keys: Vec<Key> = Vec::new();
        for (nth, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = Key::parse(line).ok_or_else(|| wrong(format!("line {} is not a key: {LINE}", nth + 1)))?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(wrong(format!("key `{}` occurs twice. Give each key a name of its own", key.id)));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(wrong(format!("contains no key: {LINE}")));
        }
        Ok(Self { keys: keys.into() })
    }

    /// Returns the configured keys: those in `file`, or, if `file` is empty, those in the environment variable (one or
    /// more, separated by line feeds or commas); `None` if neither is set. A variable that is set but empty is an
    /// error, because it shows that encryption is wanted.
    pub fn configured(file: &str, variable: &str) -> Result<Option<Self>> {
        if !file.is_empty() {
            let path = Path::new(file);
            let text = std::fs::read_to_string(path).map_err(|error| Error::Config {
                key: format!("key file {file}"),
                detail: format!("cannot be read: {error}"),
            })?;
            return Self::parse(&text, &format!("key file {file}")).map(Some);
        }
        match std::env::var(variable) {
            Ok(text) if text.trim().is_empty() => {
                let detail = "is set and empty, so nothing would be encrypted. Set the variable to the key \
                              (`walferry keygen` prints one), or unset the variable if the archive is not to be \
                              encrypted";
                Err(Error::Config { key: variable.to_owned(), detail: detail.to_owned() })
            }
            Ok(text) => Self::parse(&text.replace(',', "\n"), variable).map(Some),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(Error::Config { key: variable.to_owned(), detail: format!("is not text: {LINE}") })
            }
        }
    }

    /// Returns the key that encrypts new objects.
    pub(super) fn first(&self) -> &Key {
        &self.keys[0]
    }

    pub(super) fn get(&self, id: &KeyId) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == *id)
    }

    /// Returns the names of the keys, for messages.
    #[must_use]
    pub fn names(&self) -> String {
        let names: Vec<String> = self.keys.iter().map(|key| format!("`{}`", key.id)).collect();
        names.join(", ")
    }
}
