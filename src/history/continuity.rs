//! Checks whether the objects of an archive tell one history on each line.
//!
//! Chunks, bases, runs and epoch records each state the history hash after certain commits. Guarantees: if two objects
//! of one line state different hashes of one commit, whichever two objects they are, the contradiction is found. Memory
//! is bounded by the number of objects, because hashes are compared only at commits where an object begins or ends.
//! Pure.

use crate::archive::layout::ObjectName;
use crate::archive::lineage::Lineage;
use crate::archive::listing::Listing;
use crate::csn::{Csn, Epoch, HistoryHash};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The history hashes that objects state, by commit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Continuity {
    /// Commits at which an object begins or ends.
    pub boundaries: BTreeSet<Csn>,
    told: BTreeMap<Csn, Vec<Told>>,
}

/// The history hash that one object states.
#[derive(Clone, Debug)]
struct Told {
    epoch: Epoch,
    hash: HistoryHash,
    object: ObjectName,
}

impl Continuity {
    /// Collects the boundaries of a listing's objects and the hashes of its epoch records.
    pub(crate) fn of(listing: &Listing) -> Self {
        let chunks = listing.chunks.keys().flat_map(|chunk| [chunk.first.prev(), chunk.last]);
        let bases = listing.base_starts().flat_map(|start| [start.after, start.base.csn]);
        let runs = listing.whole_runs().flat_map(|run| [run.first.prev(), run.last]);
        let forks = listing.epochs.records().map(|record| record.fork);
        let mut own = Self { boundaries: chunks.chain(bases).chain(runs).chain(forks).collect(), ..Self::default() };
        for record in listing.epochs.records().filter(|record| record.parent.is_some()) {
            // The commit at the fork belongs to the parent's epoch.
            let parent = record.parent.expect("only those with a parent");
            own.note(record.fork, parent, record.fork_hash, &ObjectName::Epoch(record.epoch));
        }
        own
    }

    /// Records that `object`, which lies on the line of `epoch`, states `hash` as the history hash after commit `csn`.
    pub(crate) fn note(&mut self, csn: Csn, epoch: Epoch, hash: HistoryHash, object: &ObjectName) {
        self.told.entry(csn).or_default().push(Told { epoch, hash, object: object.clone() });
    }

    /// Returns the objects that contradict another object of their line, or that state a history hash other than zero
    /// before csn 1, each once and with a description.
    pub(crate) fn faults(&self, listing: &Listing) -> Vec<(ObjectName, String)> {
        let mut lines: HashMap<Epoch, Option<Lineage>> = HashMap::new();
        let mut faults = Vec::new();
        let mut named: BTreeSet<String> = BTreeSet::new();
        for (csn, told) in &self.told {
            for (nth, one) in told.iter().enumerate() {
                if *csn == Csn::ZERO && one.hash != HistoryHash::ZERO && named.insert(one.object.to_string()) {
                    let what = format!("belongs to another history: its history hash before csn 1 is {}", one.hash);
                    faults.push((one.object.clone(), what));
                }
                for other in &told[..nth] {
                    let (older, newer) = if one.epoch < other.epoch { (one, other) } else { (other, one) };
                    let line =
                        lines.entry(newer.epoch).or_insert_with(|| Lineage::of(&listing.epochs, newer.epoch)).as_ref();
                    let share = |line: &Lineage| line.until(older.epoch).is_some_and(|until| *csn <= until);
                    let is_known = named.contains(&other.object.to_string());
                    if one.hash != other.hash
                        && line.is_some_and(share)
                        && !is_known
                        && named.insert(one.object.to_string())
                    {
                        let what = format!(
                            "belongs to another history than {}: its history hash after csn {csn} is {}, that of the \
                             other is {}",
                            other.object, one.hash, other.hash
                        );
                        faults.push((one.object.clone(), what));
                    }
                }
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::epochs::{EpochRecord, EpochTree};
    use crate::archive::layout::ChunkName;
    use crate::csn::CommitTime;
    use crate::directory::EpochStart;

    fn chunk(epoch: u32, first: u64, last: u64) -> ObjectName {
        ObjectName::Chunk(ChunkName { epoch: Epoch(epoch), first: Csn(first), last: Csn(last) })
    }

    fn listing() -> Listing {
        let fork =
            |epoch, csn, hash| EpochStart { hash: HistoryHash(hash), ..EpochStart::unhashed(Epoch(epoch), Csn(csn)) };
        let record = |start, parent: Option<u32>| EpochRecord::new(start, parent.map(Epoch), "n".into(), CommitTime(1));
        let records = [record(fork(1, 0, 0), None), record(fork(2, 10, 100), Some(1))];
        Listing { epochs: EpochTree::from_records(records, "x").unwrap(), ..Listing::default() }
    }

    #[test]
    fn objects_of_one_line_agree_or_are_named() {
        let listing = listing();
        let faults = |told: &[(u64, u32, u64, ObjectName)]| -> Vec<String> {
            let mut continuity = Continuity::of(&listing);
            for (csn, epoch, hash, object) in told {
                continuity.note(Csn(*csn), Epoch(*epoch), HistoryHash(*hash), object);
            }
            continuity.faults(&listing).into_iter().map(|(object, _)| object.to_string()).collect()
        };
        let (a, b) = (chunk(1, 1, 12), chunk(2, 11, 12));
        assert!(faults(&[(10, 1, 100, a.clone()), (12, 1, 7, a.clone()), (12, 2, 8, b.clone())]).is_empty());
        assert_eq!(faults(&[(10, 1, 99, a.clone())]), [a.to_string()]);
        assert_eq!(faults(&[(10, 2, 99, b.clone())]), [b.to_string()]);
        assert_eq!(faults(&[(12, 1, 7, a.clone()), (12, 1, 8, chunk(1, 11, 12))]), [chunk(1, 11, 12).to_string()]);
        assert_eq!(faults(&[(0, 1, 5, a.clone())]), [a.to_string()]);
    }
}
