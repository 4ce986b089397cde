//! Epoch records: who may write, and where the history of each epoch forks from its parent's.
//!
//! Guarantees: an epoch is claimed by one create-only object, so exactly one node has it; a claim also proves that the
//! store refuses a second one. If the store kept a record only in part, the claimer writes the record again. If the
//! claimer died before doing so, the torn record is an error for every node until an operator removes it, because
//! nothing tells whose record it is.
//!
//! A claimer that chose its fork from a listing lists the archive once more after the claim, because the old writer
//! may have had commits archived and acknowledged in between. If there are such commits, the claimer applies them and
//! claims once more. Nothing acknowledged can follow, because the old writer checks the fence (see [`super::starts`])
//! before it acknowledges. Then the claimer claims its first start: from this moment its line is the newest one.

use super::digested;
use super::identity::ARCHIVE_FORMAT;
use super::layout::{ObjectName, Section};
use super::store::{Archive, Creation, Found};
use crate::csn::{CommitTime, Csn, Epoch, HistoryHash, Incarnation};
use crate::directory::EpochStart;
use crate::error::{Error, Result};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Content of an epoch's record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Version of the record, [`ARCHIVE_FORMAT`].
    pub format: u32,
    /// The claimed epoch.
    pub epoch: Epoch,
    /// Random number that the epoch's writer drew: tells apart two nodes that took the same number.
    pub incarnation: Incarnation,
    /// The epoch that this epoch continues; `None` for the first of a cluster.
    pub parent: Option<Epoch>,
    /// Last csn shared with the parent; zero without a parent.
    pub fork: Csn,
    /// History hash after `fork`.
    pub fork_hash: HistoryHash,
    /// Name of the node that claimed the epoch.
    pub node: String,
    /// Time of the claim by that node's clock, in microseconds since the Unix epoch.
    pub time: CommitTime,
}

impl EpochRecord {
    /// Returns the record of an epoch that `node` claims at `time`. Without a parent, the epoch is the first of a
    /// cluster and the fork in `start` is ignored.
    #[must_use]
    pub fn new(start: EpochStart, parent: Option<Epoch>, node: String, time: CommitTime) -> Self {
        let EpochStart { epoch, incarnation, fork, hash } = start;
        let (fork, fork_hash) = if parent.is_some() { (fork, hash) } else { (Csn::ZERO, HistoryHash::ZERO) };
        Self { format: ARCHIVE_FORMAT, epoch, incarnation, parent, fork, fork_hash, node, time }
    }

    /// Returns the first epoch of an archive that no node writes to, such as a benchmark's.
    #[must_use]
    pub fn first(epoch: Epoch, node: String, time: CommitTime) -> Self {
        let start = EpochStart { epoch, incarnation: Incarnation(0), fork: Csn::ZERO, hash: HistoryHash::ZERO };
        Self::new(start, None, node, time)
    }

    /// Returns the record of an epoch that continues `parent` after `fork`, where the history has the hash `hash`.
    #[cfg(test)]
    #[must_use]
    pub fn forked(
        epoch: Epoch,
        parent: Epoch,
        (fork, hash): (Csn, HistoryHash),
        node: String,
        time: CommitTime,
    ) -> Self {
        Self::new(EpochStart { hash, ..EpochStart::unhashed(epoch, fork) }, Some(parent), node, time)
    }
}

/// Outcome of claiming an epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Claim {
    /// This call claimed the epoch.
    Claimed,
    /// This node claimed the epoch before: the same record is stored.
    AlreadyMine,
    /// Another node has the epoch.
    Taken(EpochRecord),
}

/// Tries to become the writer of `record.epoch`, and probes that the store refuses a second claim.
///
/// Returns [`Error::StoreContract`] if the store accepts a second claim: such a store cannot support failover.
pub async fn claim(archive: &Archive, record: &EpochRecord) -> Result<Claim> {
    let name = ObjectName::Epoch(record.epoch);
    if conditional(archive, digested::create(archive, &name, record).await)? == Creation::Created {
        // The probe puts the same bytes, so that a store that overwrites does no harm.
        return match conditional(archive, archive.put_new(&name, digested::encode(record).into()).await)? {
            Creation::Exists => Ok(Claim::Claimed),
            Creation::Created => {
                Err(no_fence(archive, "overwrote an object although asked to create it only (If-None-Match: *)"))
            }
        };
    }
    let found = read_record(archive, record.epoch).await?.ok_or_else(|| Error::StoreContract {
        url: archive.url().to_owned(),
        detail: format!("refused to create {name} as an existing object, but does not return the object. Try again"),
    })?;
    Ok(if found == *record { Claim::AlreadyMine } else { Claim::Taken(found) })
}

/// Claims the epochs of another archive's line of history, root first, so that an epoch means the same in both archives.
/// Stops at the first epoch that another node has claimed differently, and returns this node's record of it and the one
/// that is there.
pub async fn claim_line(archive: &Archive, line: &[EpochRecord]) -> Result<Option<(EpochRecord, EpochRecord)>> {
    for record in line {
        if let Claim::Taken(other) = claim(archive, record).await? {
            return Ok(Some((record.clone(), other)));
        }
    }
    Ok(None)
}

/// Turns the error of a store without create-only puts into the error that there is no fence.
fn conditional(archive: &Archive, outcome: Result<Creation>) -> Result<Creation> {
    match outcome {
        Err(Error::Store {
            source: object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. },
            ..
        }) => Err(no_fence(archive, "does not support create-only puts (If-None-Match: *)")),
        outcome => outcome,
    }
}

fn no_fence(archive: &Archive, what: &str) -> Error {
    Error::StoreContract {
        url: archive.url().to_owned(),
        detail: format!(
            "{what}. Two primaries could then write at once: use a store with conditional puts, or turn failover off"
        ),
    }
}

/// Returns the record of one epoch, or `None` if no node claimed it.
pub async fn read_record(archive: &Archive, epoch: Epoch) -> Result<Option<EpochRecord>> {
    let name = ObjectName::Epoch(epoch);
    let what = archive.full_name(&name);
    let decode = |body: Bytes| {
        let record: EpochRecord = digested::decode(&body, &what, ARCHIVE_FORMAT)?;
        let is_it = record.epoch == epoch;
        let other = || Error::corrupt(&what, "epoch", format!("expected {epoch}, found {}", record.epoch));
        if is_it { Ok(record) } else { Err(other()) }
    };
    archive.get_as(&name, decode).await.map_err(|error| match error.is_cut_off() {
        true => {
            let chunks = Section::Chunks(epoch).directory();
            let advice = format!(
                "the record is incomplete, because its upload was interrupted. If {chunks}/ is \
                                  empty, remove this object"
            );
            Error::cut_off(&what, "content", advice)
        }
        false => error,
    })
}

/// Returns the record of a listed epoch. Records are never removed, so the read is retried if the store says that the
/// record is not there.
async fn read_listed_record(archive: &Archive, epoch: Epoch) -> Result<EpochRecord> {
    let retry_policy = archive.retry_policy();
    let mut denied = 0;
    loop {
        if let Some(record) = read_record(archive, epoch).await? {
            return Ok(record);
        }
        denied += 1;
        if denied >= retry_policy.attempts {
            let what = archive.full_name(&ObjectName::Epoch(epoch));
            let detail = "the object is in the listing but is missing, and walferry never removes epoch records";
            return Err(Error::corrupt(what, "the object", detail));
        }
        tokio::time::sleep(retry_policy.pause_after_wrong_answer(denied)).await;
    }
}

/// Returns the records of the line of history that ends in `epoch`, root first; empty if there is no such epoch.
pub async fn line(archive: &Archive, epoch: Epoch) -> Result<Vec<EpochRecord>> {
    let tree = EpochTree::read(archive).await?;
    let line = tree.ancestry(epoch).unwrap_or_default();
    Ok(line.iter().filter_map(|branch| tree.get(branch.epoch).cloned()).collect())
}

/// All epoch records of an archive. They form a tree, because a restore can continue from any csn of any epoch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EpochTree {
    records: BTreeMap<Epoch, EpochRecord>,
    /// Number of the newest start of each epoch's writer. An epoch without a start was claimed, but nothing was
    /// written under it: its claimer had not yet checked which further commits its predecessor had archived.
    starts: BTreeMap<Epoch, u32>,
}

/// One epoch's part of a history: csns in (`from_exclusive`, `until_inclusive`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Branch {
    /// The epoch whose commits these are.
    pub epoch: Epoch,
    /// Random number of the epoch's writer.
    pub incarnation: Incarnation,
    /// History hash after `from_exclusive`.
    pub fork_hash: HistoryHash,
    /// Last csn taken from an older epoch. Chunks of this epoch may begin earlier: its writer archives commits again
    /// that its parent had committed but not archived.
    pub from_exclusive: Csn,
    /// Last csn taken from this epoch; `None` for the newest epoch on the path. Not above `from_exclusive` if a later
    /// fork lies before this epoch's own fork.
    pub until_inclusive: Option<Csn>,
}

impl EpochTree {
    /// Reads every epoch record.
    pub async fn read(archive: &Archive) -> Result<Self> {
        Self::read_with(archive, Section::Epochs).await.map(|(_, tree)| tree)
    }

    /// Lists a section that holds the epoch records, and reads these records.
    ///
    /// A stale listing looks like a fresh one. So the record after the newest listed epoch is read by its name: if it
    /// exists, a line of history chosen from this listing would be wrong. The listing is repeated before the store is
    /// blamed, because the epoch may have been claimed a moment ago.
    pub(super) async fn read_with(archive: &Archive, section: Section) -> Result<(Found, Self)> {
        let retry_policy = archive.retry_policy();
        let mut stale = 0;
        loop {
            let found = archive.list(section).await?;
            let mut tree = Self::read_listed(archive, &found).await?;
            for object in &found.objects {
                if let ObjectName::Start(epoch, number) = object.name {
                    let newest = tree.starts.entry(epoch).or_default();
                    *newest = number.max(*newest);
                }
            }
            let next = tree.newest().map_or(Some(1), |newest| newest.epoch.0.checked_add(1));
            let newer = match next {
                Some(next) => read_record(archive, Epoch(next)).await?,
                None => None,
            };
            let Some(newer) = newer else { return Ok((found, tree)) };
            stale += 1;
            if stale >= retry_policy.attempts {
                return Err(Error::StoreContract {
                    url: archive.url().to_owned(),
                    detail: format!(
                        "does not list {}, which exists: its listings are stale, so the history cannot be read. Try \
                         again later",
                        ObjectName::Epoch(newer.epoch)
                    ),
                });
            }
            tokio::time::sleep(retry_policy.pause_after(stale)).await;
        }
    }

    /// Reads the records that a listing names.
    async fn read_listed(archive: &Archive, found: &Found) -> Result<Self> {
        let mut records = Vec::new();
        for object in &found.objects {
            let ObjectName::Epoch(epoch) = object.name else { continue };
            records.push(read_listed_record(archive, epoch).await?);
        }
        Self::from_records(records, archive.url())
    }

    /// Builds a tree of these records; [`Error::Corrupt`] (naming `what`) if a parent is missing or not older, or if a
    /// fork leaves no csn for the epoch's own commits.
    pub fn from_records(records: impl IntoIterator<Item = EpochRecord>, what: &str) -> Result<Self> {
        let records: BTreeMap<Epoch, EpochRecord> = records.into_iter().map(|record| (record.epoch, record)).collect();
        for record in records.values() {
            if record.fork == Csn(u64::MAX) {
                let position = format!("epoch {}", record.epoch);
                return Err(Error::corrupt(what, position, "its fork leaves no csn for its own commits"));
            }
            if let Some(parent) = record.parent
                && (parent >= record.epoch || !records.contains_key(&parent))
            {
                return Err(Error::corrupt(
                    what,
                    format!("epoch {}", record.epoch),
                    format!("its parent {parent} is not among the older epoch records"),
                ));
            }
        }
        Ok(Self { records, starts: BTreeMap::new() })
    }

    /// Returns the tree without the epochs in `left_out` and their descendants.
    #[must_use]
    pub fn without(&self, left_out: &BTreeSet<Epoch>) -> Self {
        let mut tree = Self::default();
        for (epoch, record) in &self.records {
            let has_parent = record.parent.is_none_or(|parent| tree.records.contains_key(&parent));
            if !left_out.contains(epoch) && has_parent {
                tree.records.insert(*epoch, record.clone());
            }
        }
        tree.starts =
            self.starts.iter().filter(|(epoch, _)| tree.records.contains_key(*epoch)).map(|(&e, &n)| (e, n)).collect();
        tree
    }

    /// Returns all records, oldest epoch first.
    pub fn records(&self) -> impl Iterator<Item = &EpochRecord> {
        self.records.values()
    }

    /// Returns the record of one epoch.
    #[must_use]
    pub fn get(&self, epoch: Epoch) -> Option<&EpochRecord> {
        self.records.get(&epoch)
    }

    /// Returns the newest claimed epoch; `None` in an archive that no node wrote to.
    #[must_use]
    pub fn newest(&self) -> Option<&EpochRecord> {
        self.records.values().next_back()
    }

    /// Returns the newest epoch whose writer has started: its line is the newest one. An archive without any start is
    /// a copy or a second archive; for such an archive, returns the newest epoch.
    #[must_use]
    pub fn newest_started(&self) -> Option<&EpochRecord> {
        self.records.values().rfind(|record| self.starts.contains_key(&record.epoch)).or_else(|| self.newest())
    }

    /// Returns the path from the root to `epoch`, root first; `None` if there is no such epoch.
    #[must_use]
    pub fn ancestry(&self, epoch: Epoch) -> Option<Vec<Branch>> {
        let mut path = Vec::new();
        let mut until: Option<Csn> = None;
        let mut next = Some(self.records.get(&epoch)?);
        while let Some(record) = next {
            path.push(Branch {
                epoch: record.epoch,
                incarnation: record.incarnation,
                fork_hash: record.fork_hash,
                from_exclusive: record.fork,
                until_inclusive: until,
            });
            // A fork further down the path also bounds every epoch above it.
            until = Some(until.map_or(record.fork, |until| until.min(record.fork)));
            next = record.parent.and_then(|parent| self.records.get(&parent));
        }
        path.reverse();
        Some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(epoch: u32, parent: Option<u32>, fork: u64) -> EpochRecord {
        let start = EpochStart { hash: HistoryHash(fork), ..EpochStart::unhashed(Epoch(epoch), Csn(fork)) };
        EpochRecord::new(start, parent.map(Epoch), "n".into(), CommitTime(1))
    }

    fn branch(epoch: u32, from: u64, until: Option<u64>) -> Branch {
        Branch {
            epoch: Epoch(epoch),
            incarnation: Incarnation::default(),
            fork_hash: HistoryHash(from),
            from_exclusive: Csn(from),
            until_inclusive: until.map(Csn),
        }
    }

    #[test]
    fn the_ancestry_leads_from_the_root_and_is_cut_at_the_forks() {
        let records = [record(1, None, 0), record(2, Some(1), 100), record(3, Some(2), 50), record(4, Some(1), 120)];
        let tree = EpochTree::from_records(records, "x").expect("tree");
        assert_eq!(tree.newest().map(|newest| newest.epoch), Some(Epoch(4)));
        assert_eq!(tree.ancestry(Epoch(1)), Some(vec![branch(1, 0, None)]));
        assert_eq!(tree.ancestry(Epoch(2)), Some(vec![branch(1, 0, Some(100)), branch(2, 100, None)]));
        assert_eq!(
            tree.ancestry(Epoch(3)),
            Some(vec![branch(1, 0, Some(50)), branch(2, 100, Some(50)), branch(3, 50, None)])
        );
        assert_eq!(tree.ancestry(Epoch(4)), Some(vec![branch(1, 0, Some(120)), branch(4, 120, None)]));
        assert_eq!(tree.ancestry(Epoch(9)), None);
    }

    #[test]
    fn an_orphan_and_a_loop_are_corruption() {
        for parent in [3, 7, 8] {
            let error = EpochTree::from_records([record(1, None, 0), record(7, Some(parent), 5)], "x");
            assert!(matches!(error, Err(Error::Corrupt { .. })), "parent {parent}");
        }
    }
}
