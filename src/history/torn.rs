//! Torn chunks: a chunk whose writer died during the upload may be listed with only a part of its bytes.
//!
//! A writer relies on an upload only after the store confirmed it. The writer that takes over (the same node after a
//! restart, or another node) sees only names and lengths, so it examines the few chunks that may never have been
//! confirmed: an uploader starts a chunk only after the chunk [`UNCONFIRMED_MAX`] before it was confirmed. Readers do
//! not drop torn chunks: for a reader a torn chunk is damage to report.

use super::line::full_name;
use crate::archive::layout::{ChunkName, ObjectName};
use crate::archive::lineage::Lineage;
use crate::archive::listing::Listing;
use crate::archive::store::Archive;
use crate::chunk::ChunkHeader;
use crate::error::{Error, Result};
use bytes::Bytes;

/// Number of the newest chunks of an epoch that may be unconfirmed: an upper bound on the uploads that an uploader has
/// in flight.
const UNCONFIRMED_MAX: usize = 8;
/// Number of the newest epochs of a line that are examined: the last writer and its predecessor may have died during an
/// upload.
const EPOCHS_LOOKED_AT: usize = 2;

/// Removes from a listing the chunks that are not as long as their headers state.
pub async fn drop_torn(archive: &Archive, listing: &mut Listing, lineage: &Lineage) -> Result<()> {
    for branch in lineage.branches().iter().rev().take(EPOCHS_LOOKED_AT) {
        let of_epoch = listing.chunks.iter().rev().filter(|(chunk, _)| chunk.epoch == branch.epoch);
        let newest: Vec<_> = of_epoch.take(UNCONFIRMED_MAX).map(|(chunk, stored)| (*chunk, stored.size)).collect();
        for (chunk, size) in newest {
            if !is_whole(archive, chunk, size).await? {
                tracing::warn!(%chunk, size, "an incomplete chunk, whose upload its writer never confirmed, is \
                                              ignored");
                listing.chunks.remove(&chunk);
            }
        }
    }
    Ok(())
}

async fn is_whole(archive: &Archive, chunk: ChunkName, size: u64) -> Result<bool> {
    const HEADER: u64 = ChunkHeader::ENCODED_LEN as u64;
    if size < HEADER {
        return Ok(false);
    }
    let name = ObjectName::Chunk(chunk);
    let is_header = |bytes: &Bytes| ChunkHeader::decode(bytes, "").is_ok();
    let Some(bytes) = archive.get_range_sensible(&name, 0..HEADER, is_header).await? else { return Ok(false) };
    match ChunkHeader::decode(&bytes, &full_name(archive, &name)) {
        Ok(header) => Ok(header.total_len() == size),
        Err(Error::Corrupt { .. }) => Ok(false),
        // This version cannot judge the length of a chunk of a later version.
        Err(Error::Version { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}
