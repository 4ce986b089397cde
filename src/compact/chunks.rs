//! Merges the small chunks of an archive's listing.

use super::merge::{Merger, Round, Rules};
use crate::archive::identity;
use crate::archive::listing::Listing;
use crate::archive::store::Archive;
use crate::error::Result;
use std::time::Duration;

/// Merges all small chunks of all epochs, and removes the chunks that earlier merges replaced at least `grace` ago.
pub async fn merge(archive: &Archive, grace: Duration) -> Result<Round> {
    let rules = Rules { parts_min: 2, ..Rules::with_grace(grace) };
    merge_at(archive, rules, crate::clock::steady_millis()).await
}

/// Does the same as [`merge`] with other rules and with `now_ms` as the time, in milliseconds since the Unix epoch.
pub(crate) async fn merge_at(archive: &Archive, rules: Rules, now_ms: u64) -> Result<Round> {
    identity::require(archive).await?;
    let mut merger = Merger::new(archive.clone(), &Listing::read(archive).await?);
    let mut sum = Round::default();
    loop {
        // Without a grace period, the next round removes the chunks that this round replaced.
        let round = merger.round(rules, now_ms).await?;
        sum.add(round);
        if round.merged == 0 && round.deleted == 0 {
            return Ok(sum);
        }
    }
}
