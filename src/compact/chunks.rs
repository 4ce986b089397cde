//! Merges the small chunks that a listing shows.

use crate::archive::identity;
use crate::archive::listing::Listing;
use crate::archive::merge::{Ledger, Merger, Round, Rules};
use crate::archive::store::Archive;
use crate::error::Result;
use std::sync::Arc;
use std::time::Duration;

/// Merges what can be merged, in all epochs, and deletes what merges before this one left behind for `grace`.
pub async fn merge(archive: &Archive, grace: Duration) -> Result<Round> {
    let rules = Rules { parts_min: 2, ..Rules::with_grace(grace) };
    merge_at(archive, rules, crate::clock::steady_millis()).await
}

/// The same by other rules, as if it were `now_ms`, milliseconds since the Unix epoch.
pub async fn merge_at(archive: &Archive, rules: Rules, now_ms: u64) -> Result<Round> {
    identity::require(archive).await?;
    let ledger = Arc::new(Ledger::of(&Listing::read(archive).await?));
    let mut merger = Merger::new(archive.clone(), ledger);
    let mut sum = Round::default();
    loop {
        // What was merged in one round may go in the next, if no grace period is wanted.
        let round = merger.round(rules, now_ms).await?;
        sum.add(round);
        if round.merged == 0 && round.deleted == 0 {
            return Ok(sum);
        }
    }
}
