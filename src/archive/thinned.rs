//! How far pruning has thinned history: `thinned/<number>.json`.
//!
//! For each line of history, the record gives a csn. Above it every commit must be restorable, and a missing chunk is
//! a loss. Up to it only the states that the policy kept are there, and a gap is intended.
//!
//! Guarantees: a record is written before anything whose absence it explains is removed; for each epoch the csn only
//! grows, also when two prunes write at once; an upload that was cut off leaves the record before it valid.

use super::digested;
use super::identity::ARCHIVE_FORMAT;
use super::layout::{ObjectName, Section};
use super::lineage::Lineage;
use super::listing::Listing;
use super::store::{Archive, Creation};
use crate::csn::{Csn, Epoch};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How often the records are listed again because a listed record was removed in favour of a later one.
const LISTED_AGAIN_MAX: usize = 2;

/// Content of `thinned/<number>.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Thinned {
    /// Number of the object that the record was read from; 0 if the record was not read from an object.
    #[serde(skip)]
    pub number: u32,
    /// Version of the record.
    pub format: u32,
    /// The retention policy that was applied last.
    pub keep: String,
    /// For each epoch, the last of its commits up to which history is thinned.
    pub until: BTreeMap<Epoch, Csn>,
    /// For each epoch, the commit above which history is thinned, if a branch was thinned and the history that it
    /// shares with other branches was not. A missing entry stands for 0.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub after: BTreeMap<Epoch, Csn>,
}

impl Default for Thinned {
    fn default() -> Self {
        Self { number: 0, format: ARCHIVE_FORMAT, keep: String::new(), until: BTreeMap::new(), after: BTreeMap::new() }
    }
}

impl Thinned {
    /// Reads the newest of the listed records. An archive that was never pruned has none; the result then thins
    /// nothing.
    pub async fn listed(archive: &Archive, listing: &Listing) -> Result<Self> {
        Self::newest(archive, listing.thinned.keys().copied().collect()).await
    }

    /// Reads the record with the highest number that can be read. A record that cannot be read was never confirmed, so
    /// nothing was removed because of it, and the record before it counts.
    async fn newest(archive: &Archive, mut numbers: BTreeSet<u32>) -> Result<Self> {
        for listed in 0.. {
            let mut is_gone = false;
            for &number in numbers.iter().rev() {
                match Self::read(archive, number).await {
                    Ok(Some(record)) => return Ok(record),
                    Ok(None) if listed < LISTED_AGAIN_MAX => {
                        is_gone = true;
                        break;
                    }
                    Ok(None) => {}
                    Err(error @ Error::Corrupt { .. }) => {
                        tracing::warn!(%error, "a record of pruned commits cannot be used; the record before it is \
                                                used");
                    }
                    Err(error) => return Err(error),
                }
            }
            if !is_gone {
                break;
            }
            numbers = Self::list(archive).await?;
        }
        Ok(Self::default())
    }

    async fn read(archive: &Archive, number: u32) -> Result<Option<Self>> {
        let found: Option<Self> = digested::read(archive, &ObjectName::Thinned(number), ARCHIVE_FORMAT).await?;
        Ok(found.map(|record| Self { number, ..record }))
    }

    async fn list(archive: &Archive) -> Result<BTreeSet<u32>> {
        let found = archive.list(Section::Thinned).await?.objects.into_iter();
        Ok(found
            .filter_map(|object| if let ObjectName::Thinned(number) = object.name { Some(number) } else { None })
            .collect())
    }

    /// Writes this record, joined with the records that other prunes wrote in the meantime, unless the newest record
    /// already covers it.
    pub async fn write(&self, archive: &Archive) -> Result<()> {
        let numbers = Self::list(archive).await?;
        let mut number = numbers.last().copied().unwrap_or_default();
        let mut newest = Self::newest(archive, numbers).await?;
        loop {
            let joined = newest.joined(self);
            if joined == newest {
                return Ok(());
            }
            number += 1;
            let name = ObjectName::Thinned(number);
            if archive.put_new(&name, digested::encode(&joined).into()).await? == Creation::Created {
                return Ok(());
            }
            match Self::read(archive, number).await {
                Ok(Some(others)) => newest = others.joined(&newest),
                Ok(None) | Err(Error::Corrupt { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns a record that thins what either record thins, under the policy of `other`.
    fn joined(&self, other: &Self) -> Self {
        let mut joined = Self { keep: other.keep.clone(), ..self.clone() };
        for (&epoch, &until) in &other.until {
            joined.extend(epoch, other.after_of(epoch), until);
        }
        joined
    }

    /// Returns the csn up to which a line of history is thinned; 0 if it is not thinned. A line that leaves an epoch
    /// before the end of the thinned part is thinned up to the point where it leaves.
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

    /// Thins a line above `after` up to `csn`, unless the line is already thinned up to there.
    pub fn raise(&mut self, lineage: &Lineage, after: Csn, csn: Csn) {
        if csn <= self.until(lineage) {
            return;
        }
        self.extend(lineage.epoch_at(csn), after, csn);
    }

    fn extend(&mut self, epoch: Epoch, after: Csn, csn: Csn) {
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
    use super::super::testing::faults::{Fault, FaultStore};
    use super::*;
    use crate::csn::{CommitTime, HistoryHash};

    #[test]
    fn a_line_is_thinned_by_what_lies_on_it() {
        let record = |epoch, parent: u32, fork| match parent {
            0 => EpochRecord::first(Epoch(epoch), "n".into(), CommitTime(1)),
            _ => EpochRecord::forked(
                Epoch(epoch),
                Epoch(parent),
                (Csn(fork), HistoryHash::ZERO),
                "n".into(),
                CommitTime(1),
            ),
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
        assert_eq!(digested::decode::<Thinned>(&digested::encode(&branch), "x", ARCHIVE_FORMAT).unwrap(), branch);
        thinned.raise(&old, Csn(100), Csn(130));
        assert_eq!((thinned.until(&old), thinned.until(&new)), (Csn(130), Csn(150)));
        assert_eq!(digested::decode::<Thinned>(&digested::encode(&thinned), "x", ARCHIVE_FORMAT).unwrap(), thinned);
    }

    fn until(epoch: u32, csn: u64) -> Thinned {
        Thinned { until: [(Epoch(epoch), Csn(csn))].into(), keep: format!("{csn}"), ..Thinned::default() }
    }

    async fn read(archive: &Archive) -> Thinned {
        Thinned::listed(archive, &Listing::read(archive).await.unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn prunes_that_write_at_once_take_nothing_from_each_other() {
        let archive = FaultStore::default().archive();
        until(1, 90).write(&archive).await.unwrap();
        until(2, 120).write(&archive).await.unwrap();
        until(1, 80).write(&archive).await.unwrap();
        let found = read(&archive).await;
        assert_eq!((found.until[&Epoch(1)], found.until[&Epoch(2)]), (Csn(90), Csn(120)));
        assert_eq!((found.number, &*found.keep), (3, "80"));
        found.write(&archive).await.unwrap();
        assert_eq!(read(&archive).await.number, 3, "it says so already");
        let writes = (1..=8_u64).map(|nth| {
            let archive = archive.clone();
            async move { until(nth as u32, 200 + nth).write(&archive).await.unwrap() }
        });
        futures::future::join_all(writes).await;
        let found = read(&archive).await;
        assert_eq!((found.number, found.until.len()), (11, 8));
        assert!(found.until.iter().all(|(epoch, csn)| csn.0 == 200 + u64::from(epoch.0)), "{found:?}");
    }

    /// Goal: an upload that was cut off leaves the record before it valid, and the next upload succeeds.
    #[tokio::test]
    async fn a_torn_record_is_passed_over() {
        let store = FaultStore::default();
        let archive = store.archive();
        for csn in [90, 100] {
            until(1, csn).write(&archive).await.unwrap();
            for fault in [Fault::Truncate, Fault::Tear, Fault::Vanish, Fault::LoseReply] {
                store.script_puts([fault]);
                let written = until(1, csn + 5).write(&archive).await;
                store.heal();
                let found = read(&archive).await.until[&Epoch(1)];
                assert!(found == Csn(csn + 5) || (found == Csn(csn) && written.is_err()), "{fault:?}: {found}");
            }
        }
    }

    #[tokio::test]
    async fn a_record_that_made_way_is_looked_for_again() {
        let archive = FaultStore::default().archive();
        until(1, 90).write(&archive).await.unwrap();
        let listing = Listing::read(&archive).await.unwrap();
        until(1, 100).write(&archive).await.unwrap();
        archive.delete(&ObjectName::Thinned(1)).await.unwrap();
        assert_eq!(Thinned::listed(&archive, &listing).await.unwrap().until[&Epoch(1)], Csn(100));
    }
}
