//! Checks of a single object of an archive against what a manifest states.

use super::progress::Meter;
use crate::archive::layout::ObjectName;
use crate::archive::listing::Listing;
use crate::archive::store::Archive;
use crate::csn::Epoch;
use crate::error::{Error, Result};
use crate::history::fetch::{check_hash, pieces};
use crate::history::line::full_name;
use futures::stream::StreamExt;

/// Reads an object and compares its length and hash with the expected ones.
pub(super) async fn check_file(
    archive: &Archive,
    listing: &Listing,
    object: &ObjectName,
    bytes: u64,
    blake3: blake3::Hash,
    meter: &Meter,
) -> Result<()> {
    check_listed(archive, listing, object, bytes)?;
    let mut hasher = blake3::Hasher::new();
    let mut pieces = std::pin::pin!(pieces(archive, object, bytes));
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        meter.add(piece.len() as u64);
        hasher.update(&piece);
    }
    check_hash(&full_name(archive, object), hasher.finalize(), blake3)
}

/// Checks that an object is listed with the length that the manifest states.
pub(super) fn check_listed(archive: &Archive, listing: &Listing, object: &ObjectName, bytes: u64) -> Result<()> {
    let detail = match listing.stored(object) {
        None => "the object is missing".to_owned(),
        Some(stored) if stored.size != bytes => {
            format!("the object has {} bytes, but the manifest states {bytes}", stored.size)
        }
        Some(_) => return Ok(()),
    };
    Err(Error::corrupt(full_name(archive, object), "the object", detail))
}

/// Returns the error for an object whose name has an epoch without a record.
pub(super) fn unknown_epoch(what: &str, epoch: Epoch) -> Error {
    Error::corrupt(what, "name", format!("there is no record of epoch {epoch}"))
}
