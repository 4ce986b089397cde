//! The archive as the source of commits that the recovery of a data directory misses.

use crate::archive::lineage::Lineage;
use crate::archive::listing::Listing;
use crate::archive::store::Archive;
use crate::csn::{Csn, Epoch};
use crate::error::Result;
use crate::history::catch_up::CatchUp;
use crate::log::recovery::MissingCommits;
use crate::record::CommitRecord;
use std::ops::RangeInclusive;

/// Looks for commits in the archive that the recovery misses.
pub struct ArchiveCommits {
    /// The archive to read.
    pub archive: Archive,
    /// The epoch whose line of history contains the commits.
    pub epoch: Epoch,
    /// Runs the requests, because the recovery blocks.
    pub runtime: tokio::runtime::Handle,
}

impl MissingCommits for ArchiveCommits {
    fn fetch(&self, range: RangeInclusive<Csn>) -> Result<Vec<CommitRecord>> {
        self.runtime.block_on(async {
            let listing = Listing::read(&self.archive).await?;
            let Some(lineage) = Lineage::of(&listing.epochs, self.epoch) else { return Ok(Vec::new()) };
            let mut found = Vec::new();
            let mut commits = CatchUp::contiguous(&self.archive, &listing, &lineage, range.start().prev());
            while let Some(next) = commits.next().await? {
                let is_beyond = next.last().is_some_and(|commit| commit.csn >= *range.end());
                found.extend(next.iter().filter(|commit| range.contains(&commit.csn)).cloned());
                if is_beyond {
                    break;
                }
            }
            Ok(found)
        })
    }
}
