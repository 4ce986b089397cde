//! The archive's small records: JSON with a format number.
//!
//! Guarantees: a record of a newer format is an error that says so; bytes that are no record are corruption, never a
//! panic.

use super::identity::ARCHIVE_FORMAT;
use super::layout::ObjectName;
use super::store::Archive;
use crate::error::{Error, Result};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A record with a format number.
pub trait Record: Serialize + DeserializeOwned {
    /// The number it carries.
    fn format(&self) -> u32;

    /// The stored form.
    fn encode(&self) -> Bytes {
        let mut text = serde_json::to_vec_pretty(self).expect("a record is plain data");
        text.push(b'\n');
        text.into()
    }

    /// Reads the stored form; `what` names it in errors.
    fn decode(body: &[u8], what: &str) -> Result<Self> {
        let record: Self = serde_json::from_slice(body)
            .map_err(|error| Error::corrupt(what, format!("line {}", error.line()), error.to_string()))?;
        if record.format() > ARCHIVE_FORMAT {
            return Err(Error::Version { what: what.to_owned(), found: record.format(), known: ARCHIVE_FORMAT });
        }
        Ok(record)
    }
}

/// Reads a record; `None` if it is not there.
pub async fn read<R: Record>(archive: &Archive, name: &ObjectName) -> Result<Option<R>> {
    let body = archive.get(name).await?;
    body.map(|body| R::decode(&body, &archive.full_name(name))).transpose()
}
