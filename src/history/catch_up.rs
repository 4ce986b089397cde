//! Reads commits from the archive's chunks for a replica that the primary can no longer serve from its own logs.
//!
//! Guarantees: commits are delivered in csn order without a gap, from one line of history, and continue the history
//! after which the reader begins. The end of the stream means that the archive held no further commit when it was
//! listed.

use super::fetch::ChunkFetch;
use super::line::{History, full_name};
use super::plan::steps;
use super::reader_pin::ReaderPin;
use super::torn::drop_torn;
use super::unpack::{After, Unpacker};
use crate::archive::layout::ObjectName;
use crate::archive::lineage::Lineage;
use crate::archive::listing::Listing;
use crate::archive::pins::PinRange;
use crate::archive::store::Archive;
use crate::commit::committer::Committer;
use crate::commit::turns::apply_in_turns;
use crate::csn::Csn;
use crate::error::{Error, Result};
use crate::record::CommitRecord;
use crate::threads::blocking;
use std::sync::Arc;

/// A stream of commits that delivers the commits of one chunk at a time.
pub struct CatchUp {
    archive: Archive,
    fetch: ChunkFetch,
    unpacker: Option<Unpacker>,
    until: Csn,
    /// The reader pin; `None` if nothing is to be read, for a stream made by [`CatchUp::contiguous`], and after the
    /// end.
    pin: Option<ReaderPin>,
}

impl CatchUp {
    /// Lists the archive and begins a stream of the commits after `after` on `lineage`. Returns [`Error::Gap`] if the
    /// archive has later commits but not the next one: the replica then needs a bootstrap.
    pub async fn open(archive: &Archive, lineage: &Lineage, after: impl Into<After>) -> Result<Self> {
        let mut listing = Listing::read(archive).await?;
        drop_torn(archive, &mut listing, lineage).await?;
        Self::over(archive, &listing, lineage, after.into()).await
    }

    /// Does the same as [`CatchUp::open`] with a history that was already read.
    pub async fn of(history: &History, after: impl Into<After>) -> Result<Self> {
        Self::over(&history.archive, &history.listing, &history.lineage, after.into()).await
    }

    /// Begins a stream of the commits that follow `after` without a gap in a listing that was already read. The stream
    /// is empty if the next commit is missing, even if later commits exist. Takes no pin.
    #[must_use]
    pub fn contiguous(archive: &Archive, listing: &Listing, lineage: &Lineage, after: impl Into<After>) -> Self {
        let after = after.into();
        let coverage = lineage.cover(listing.chunks.keys().copied(), after.csn());
        let until = coverage.reachable(after.csn());
        Self {
            archive: archive.clone(),
            fetch: ChunkFetch::new(archive, steps(listing, &coverage, until)),
            unpacker: Some(Unpacker::new(lineage.clone(), after)),
            until,
            pin: None,
        }
    }

    async fn over(archive: &Archive, listing: &Listing, lineage: &Lineage, after: After) -> Result<Self> {
        let mut found = Self::contiguous(archive, listing, lineage, after);
        let after = after.csn();
        let coverage = lineage.cover(listing.chunks.keys().copied(), after);
        let on_line = listing.base_starts().filter(|start| lineage.contains(start.base));
        let newest_base = on_line.map(|start| start.base.csn).max();
        let known = coverage.uses.last().map(|part| part.use_until).max(newest_base).unwrap_or_default();
        if found.until == after && known > after {
            return Err(Error::Gap {
                what: format!("{} after csn {after}", archive.url()),
                expected: after.next(),
                found: format!("nothing until csn {known}"),
            });
        }
        if found.until > after {
            let range = PinRange { from: after, until: found.until, epoch: Some(lineage.leaf()) };
            found.pin = Some(ReaderPin::take(archive, "catch-up", range).await);
        }
        Ok(found)
    }

    /// Returns the last commit that the stream delivers; equal to the csn of `after` if the archive has nothing newer.
    #[must_use]
    pub fn until(&self) -> Csn {
        self.until
    }

    /// Returns the next commits, never an empty slice, or `None` at the end. Must not be called after an error.
    pub async fn next(&mut self) -> Result<Option<Arc<[CommitRecord]>>> {
        let Some((step, fetched)) = self.fetch.next().await else {
            if let Some(pin) = self.pin.take() {
                pin.release().await;
            }
            return Ok(None);
        };
        let bytes = fetched?;
        let what = full_name(&self.archive, &ObjectName::Chunk(step.chunk));
        let mut unpacker = self.unpacker.take().expect("not called after an error");
        let (unpacker, unpacked) =
            blocking(move || unpacker.unpack(step, bytes, &what).map(|unpacked| (unpacker, unpacked))).await?;
        self.unpacker = Some(unpacker);
        Ok(Some(Arc::unwrap_or_clone(unpacked.commits).into()))
    }

    /// Applies the remaining commits to a node, which must be at the commit after which the stream begins. Ends early
    /// when `is_stopping` returns true.
    pub async fn apply(mut self, committer: &Arc<Committer>, is_stopping: impl Fn() -> bool) -> Result<()> {
        while let Some(commits) = self.next().await? {
            let committer = Arc::clone(committer);
            blocking(move || apply_in_turns(&committer, commits.to_vec())).await?;
            if is_stopping() {
                break;
            }
        }
        Ok(())
    }
}
