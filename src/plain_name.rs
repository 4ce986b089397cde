//! Names that users give to marks and that become part of object names.

use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// Length of the longest [`PlainName`], in bytes.
pub const PLAIN_NAME_BYTES_MAX: usize = 128;

/// A user's name that is safe as part of an object name: 1 to 128 letters, digits, `.`, `_` and `-`, not beginning with
/// a dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PlainName(String);

impl PlainName {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PlainName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if text.is_empty() || text.len() > PLAIN_NAME_BYTES_MAX || text.starts_with('.') || !text.bytes().all(plain) {
            return Err(Error::Config {
                key: "name".to_owned(),
                detail: format!(
                    "{text:?} is not a valid name: a name consists of 1 to {PLAIN_NAME_BYTES_MAX} letters, digits, \
                     '.', '_', '-', and does not begin with a dot"
                ),
            });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for PlainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
