//! Chunks that a writer died over: their names are listed, and half of their bytes are there.
//!
//! A writer believes an upload only when it was confirmed. Who takes over from it (itself after a restart, or another
//! node) sees names and lengths, so it looks at the few that may never have been confirmed: an uploader begins no chunk
//! before the one [`UNCONFIRMED_MAX`] before it is confirmed. Readers do not: to them a torn chunk is damage to report.

use super::line::full_name;
use crate::archive::layout::{ChunkName, ObjectName};
use crate::archive::lineage::Lineage;
use crate::archive::listing::Listing;
use crate::archive::store::Archive;
use crate::chunk::ChunkHeader;
use crate::error::{Error, Result};
use bytes::Bytes;

/// The newest chunks of an epoch that may not have been confirmed: what an uploader has in flight, with room to spare.
const UNCONFIRMED_MAX: usize = 8;
/// Epochs of a line whose writers may have died over a chunk that counts: the newest, and the one it took over from.
const EPOCHS_LOOKED_AT: usize = 2;

/// Takes chunks out of a listing that are not as long as their headers say.
pub async fn drop_torn(archive: &Archive, listing: &mut Listing, lineage: &Lineage) -> Result<()> {
    for branch in lineage.branches().iter().rev().take(EPOCHS_LOOKED_AT) {
        let of_epoch = listing.chunks.iter().rev().filter(|(chunk, _)| chunk.epoch == branch.epoch);
        let newest: Vec<_> = of_epoch.take(UNCONFIRMED_MAX).map(|(chunk, stored)| (*chunk, stored.size)).collect();
        for (chunk, size) in newest {
            if !is_whole(archive, chunk, size).await? {
                tracing::warn!(%chunk, size, "a chunk that its writer never confirmed is torn: it does not count");
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
        // Of a later version: not to be judged here.
        Err(Error::Version { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}
