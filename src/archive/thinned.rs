//! How far pruning has thinned history: `thinned.json`.
//!
//! Above it every commit must be restorable and a missing chunk is a loss; up to it only what the policy kept is there,
//! and a gap is intended. Guarantees: written before anything it explains is removed; for each epoch it only grows.

use super::digested;
use super::identity::ARCHIVE_FORMAT;
use super::layout::ObjectName;
use super::lineage::Lineage;
use super::listing::Listing;
use super::store::Archive;
use crate::csn::{Csn, Epoch};
use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Content of `thinned.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Thinned {
    /// Version of the record.
    pub format: u32,
    /// The policy that was applied last.
    pub keep: String,
    /// By epoch: the last of its commits up to which history is thinned.
    pub until: BTreeMap<Epoch, Csn>,
    /// By epoch: the commit above which it is, where a branch was thinned and not what it has in common with others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub after: BTreeMap<Epoch, Csn>,
}

impl Default for Thinned {
    fn default() -> Self {
        Self { format: ARCHIVE_FORMAT, keep: String::new(), until: BTreeMap::new(), after: BTreeMap::new() }
    }
}

impl Thinned {
    /// Reads it if it was listed; an archive that was never pruned has none, which thins nothing.
    pub async fn listed(archive: &Archive, listing: &Listing) -> Result<Self> {
        if listing.thinned.is_none() {
            return Ok(Self::default());
        }
        Ok(digested::read(archive, &ObjectName::Thinned, ARCHIVE_FORMAT).await?.unwrap_or_default())
    }

    /// Writes it.
    pub async fn write(&self, archive: &Archive) -> Result<()> {
        archive.put_verified(&ObjectName::Thinned, digested::encode(self).into()).await
    }

    /// Up to which csn a line of history is thinned; 0: not at all. A line that leaves an epoch before the end of what was
    /// thinned in it is thinned up to there.
    #[must_use]
    pub fn until(&self, lineage: &Lineage) -> Csn {
        let on_line = self.until.iter().filter_map(|(epoch, csn)| {
            let until = lineage.until(*epoch)?.min(*csn);
            (until > self.after_of(*epoch)).then_some(until)
        });
        on_line.max().unwrap_or_default()
    }

    fn after_of(&self, epoch: Epoch) -> Csn {
        self.after.get(&epoch).copied().unwrap_or_default()
    }

    /// Thins a line above `after` up to `csn`, if it was not already.
    pub fn raise(&mut self, lineage: &Lineage, after: Csn, csn: Csn) {
        if csn <= self.until(lineage) {
            return;
        }
        let epoch = lineage.epoch_at(csn);
        let after = if self.until.contains_key(&epoch) { after.min(self.after_of(epoch)) } else { after };
        if after > Csn::ZERO {
            self.after.insert(epoch, after);
        } else {
            self.after.remove(&epoch);
        }
        let until = self.until.entry(epoch).or_default();
        *until = csn.max(*until);
    }
}

#[cfg(test)]
mod tests {
    use super::super::epochs::{EpochRecord, EpochTree};
    use super::*;
    use crate::csn::CommitTime;

    #[test]
    fn a_line_is_thinned_by_what_lies_on_it() {
        let record = |epoch, parent: u32, fork| match parent {
            0 => EpochRecord::first(Epoch(epoch), "n".into(), CommitTime(1)),
            _ => EpochRecord::forked(Epoch(epoch), Epoch(parent), Csn(fork), "n".into(), CommitTime(1)),
        };
        let records = [record(1, 0, 0), record(2, 1, 100), record(3, 2, 140), record(4, 1, 120)];
        let tree = EpochTree::from_records(records, "x").unwrap();
        let line = |epoch| Lineage::of(&tree, Epoch(epoch)).unwrap();
        let (old, new) = (line(1), line(2));
        let mut thinned = Thinned::default();
        thinned.raise(&new, Csn::ZERO, Csn(60));
        thinned.raise(&new, Csn::ZERO, Csn(40));
        assert_eq!((thinned.until(&old), thinned.until(&new)), (Csn(60), Csn(60)), "shared history");
        thinned.raise(&new, Csn::ZERO, Csn(150));
        assert_eq!((thinned.until(&old), thinned.until(&new)), (Csn(60), Csn(150)));
        assert_eq!(thinned.until(&line(3)), Csn(140), "it leaves epoch 2 in the midst of what is thinned");
        let mut branch = Thinned::default();
        branch.raise(&old, Csn(100), Csn(130));
        assert_eq!((branch.until(&old), branch.until(&line(4))), (Csn(130), Csn(120)));
        assert_eq!(branch.until(&new), Csn::ZERO, "what it has in common with the branch is not thinned");
        assert_eq!(digested::decode::<Thinned>(&digested::encode(&branch), "x", 1).unwrap(), branch);
        thinned.raise(&old, Csn(100), Csn(130));
        assert_eq!((thinned.until(&old), thinned.until(&new)), (Csn(130), Csn(150)));
        assert_eq!(digested::decode::<Thinned>(&digested::encode(&thinned), "x", 1).unwrap(), thinned);
    }
}
