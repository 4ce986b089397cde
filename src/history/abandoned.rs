//! Abandoned commits: archived commits that do not lie on the newest line. Every report about an archive names them.
//!
//! A promotion forks from its predecessor's history. The commits that the predecessor archived beyond the fork are
//! abandoned. Pure.

use crate::archive::epochs::EpochRecord;
use crate::archive::lineage::Lineage;
use crate::archive::listing::Listing;
use crate::csn::{CommitTime, Csn, Epoch};
use crate::directory::EpochStart;
use serde::Serialize;
use std::fmt;

/// Abandoned commits of one epoch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Abandoned {
    /// The epoch that made the commits.
    pub epoch: Epoch,
    /// The first abandoned commit.
    pub from: Csn,
    /// The last abandoned commit that the archive holds.
    pub until: Csn,
    /// The name of the node that made the commits.
    pub node: String,
    /// When the archive received the last of the epoch's objects, by the object store's clock.
    pub received: CommitTime,
}

impl Abandoned {
    /// Returns, per epoch, the commits of an archive that do not lie on its newest line.
    #[must_use]
    pub fn all(listing: &Listing) -> Vec<Self> {
        let Some(line) = Lineage::newest(&listing.epochs) else { return Vec::new() };
        let records = listing.epochs.records();
        let begin = |record: &EpochRecord| line.until(record.epoch).unwrap_or_default().max(record.fork);
        records.filter_map(|record| Self::of_epoch(listing, record, begin(record), Csn(u64::MAX))).collect()
    }

    /// Returns, per epoch, the commits of `line` that a node with the history `own` does not have.
    #[must_use]
    pub fn of_line(listing: &Listing, line: &Lineage, own: &[EpochStart]) -> Vec<Self> {
        let theirs = line.starts();
        let common = own.iter().zip(&theirs).take_while(|(own, theirs)| own == theirs).count();
        let fork = |starts: &[EpochStart]| starts.get(common).map_or(Csn(u64::MAX), |start| start.fork);
        let shared = if common == 0 { Csn::ZERO } else { fork(own).min(fork(&theirs)) };
        let records = theirs.iter().filter_map(|start| listing.epochs.get(start.epoch));
        let until = |record: &EpochRecord| line.until(record.epoch).unwrap_or_default();
        let of = |record: &EpochRecord| Self::of_epoch(listing, record, shared.max(record.fork), until(record));
        records.filter_map(of).collect()
    }

    /// Returns the epoch's archived commits after `after` up to `limit`; `None` if the archive holds none of them.
    fn of_epoch(listing: &Listing, record: &EpochRecord, after: Csn, limit: Csn) -> Option<Self> {
        let chunks = listing.chunks.iter().filter(|(chunk, _)| chunk.epoch == record.epoch);
        let chunks = chunks.map(|(chunk, stored)| (chunk.last, stored.time()));
        let bases = listing.bases.iter().filter(|(base, _)| base.epoch == record.epoch);
        let bases = bases.filter_map(|(base, own)| Some((base.csn, own.manifest.as_ref()?.time())));
        let runs = listing.runs.iter().filter(|(run, _)| run.epoch == record.epoch);
        let runs = runs.filter_map(|(run, own)| Some((run.last, own.manifest.as_ref()?.time())));
        let (last, received) = chunks.chain(bases).chain(runs).max()?;
        let until = last.min(limit);
        let node = record.node.clone();
        (until > after).then(|| Self { epoch: record.epoch, from: after.next(), until, node, received })
    }

    /// Returns the number of commits.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.until.since(self.from) + 1
    }
}

impl fmt::Display for Abandoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, from, until, node, received } = self;
        write!(
            f,
            "{} commits of epoch {epoch} (csn {from} to {until}, by node {node}, archived until {received}; reachable with \
             --epoch {epoch})",
            self.commits()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::epochs::EpochTree;
    use crate::archive::layout::ChunkName;
    use crate::archive::listing::Stored;

    fn start(epoch: u32, fork: u64) -> EpochStart {
        EpochStart::unhashed(Epoch(epoch), Csn(fork))
    }

    fn listing(chunks: &[(u32, u64, u64)]) -> Listing {
        let record = |nth: u32, parent: Option<u32>, fork| {
            EpochRecord::new(start(nth, fork), parent.map(Epoch), format!("n{nth}"), CommitTime(1))
        };
        let records = [record(1, None, 0), record(2, Some(1), 10), record(3, Some(1), 15)];
        let stored = Stored { size: 1, modified: Default::default() };
        let name = |&(epoch, first, last)| ChunkName { epoch: Epoch(epoch), first: Csn(first), last: Csn(last) };
        Listing {
            epochs: EpochTree::from_records(records, "x").unwrap(),
            chunks: chunks.iter().map(|chunk| (name(chunk), stored)).collect(),
            ..Listing::default()
        }
    }

    #[test]
    fn what_lies_beyond_a_fork_or_on_another_branch_is_abandoned() {
        let listing = listing(&[(1, 1, 10), (1, 11, 18), (2, 11, 14), (3, 16, 20)]);
        let told: Vec<_> = Abandoned::all(&listing).iter().map(|a| (a.epoch.0, a.from.0, a.until.0)).collect();
        assert_eq!(told, [(1, 16, 18), (2, 11, 14)]);
        assert!(Abandoned::all(&listing)[0].to_string().contains("3 commits of epoch 1 (csn 16 to 18, by node n1"));
    }

    #[test]
    fn a_node_is_told_what_it_lacks_of_a_line() {
        let listing = listing(&[(1, 1, 10), (1, 11, 18), (2, 11, 14), (3, 16, 20)]);
        let line = Lineage::newest(&listing.epochs).unwrap();
        let told = |own: &[EpochStart]| -> Vec<_> {
            Abandoned::of_line(&listing, &line, own).iter().map(|a| (a.epoch.0, a.from.0, a.until.0)).collect()
        };
        assert_eq!(told(&[start(1, 0), start(2, 10)]), [(1, 11, 15), (3, 16, 20)]);
        assert_eq!(told(&[start(1, 0)]), [(3, 16, 20)]);
        assert_eq!(told(&[start(1, 0), start(3, 15)]), []);
    }
}
