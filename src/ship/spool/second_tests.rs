//! A spool with two archives, of which either may lag.

use super::super::{Spool, parse_name};
use super::SecondSource;
use crate::archive::uploader::ChunkSource;
use crate::chunk::{Chunk, ChunkLink, Encoder, Profile};
use crate::cluster::ClusterId;
use crate::commit::gate::{Gate, RefusalReason};
use crate::csn::{CommitTime, Csn, Epoch};
use crate::directory::{Identity, LastRole};
use crate::io::{Io, StdIo};
use crate::log::testing::{chained, hash_before};
use crate::record::CommitRecord;
use crate::watermark::Watermarks;
use std::path::Path;
use std::sync::Arc;

/// Commits in one chunk.
const COMMITS: u64 = 10;

/// Returns chunk number `nth`, from 0.
fn chunk(nth: u64) -> Chunk {
    let commit =
        |csn| CommitRecord { csn: Csn(csn), epoch: Epoch(1), time: CommitTime(csn), ..CommitRecord::default() };
    let commits = &chained((1..=(nth + 1) * COMMITS).map(commit))[(nth * COMMITS) as usize..];
    let link = ChunkLink { epoch: Epoch(1), hash_before: hash_before(&commits[0]), ..ChunkLink::default() };
    Encoder::new(Profile::default()).encode(commits.iter(), link)
}

struct Rig {
    spool: Arc<Spool>,
    second: SecondSource,
    gate: Arc<Gate>,
    dir: tempfile::TempDir,
}

/// Makes a spool that takes `limit` chunks.
fn rig(limit: u64) -> Rig {
    let dir = tempfile::tempdir().expect("tempdir");
    let gate = Arc::new(Gate::default());
    let spool = open(dir.path(), limit, &gate, Csn::ZERO);
    spool.keep_for_second(Csn::ZERO);
    Rig { second: SecondSource(Arc::clone(&spool)), spool, gate, dir }
}

fn open(dir: &Path, limit: u64, gate: &Arc<Gate>, archived: Csn) -> Arc<Spool> {
    let watermarks = Arc::new(Watermarks::starting_at(Csn(1000)));
    watermarks.archived.raise(archived);
    let bytes = chunk(0).bytes().len() as u64;
    // Half a chunk less, because chunks are not all equally long.
    let limit = limit * bytes - bytes / 2;
    let identity = Identity::new(ClusterId([7; 16]), LastRole::Primary).expect("an identity");
    let (spool, _) =
        Spool::open(Arc::new(StdIo), dir, limit, &identity, Arc::clone(gate), watermarks, &|_, _| Ok(true))
            .expect("open");
    Arc::new(spool)
}

impl Rig {
    fn seal(&self, chunks: std::ops::Range<u64>) {
        chunks.for_each(|nth| self.spool.seal(&chunk(nth)).expect("seal"));
    }

    /// Returns the first csns of the chunks on disk.
    fn files(&self) -> Vec<u64> {
        let names = StdIo.list(self.dir.path()).expect("list");
        let mut firsts: Vec<u64> = names.iter().filter_map(|name| Some(parse_name(name)?.first.0)).collect();
        firsts.sort_unstable();
        firsts
    }

    fn next_of_second(&self, after: u64) -> Option<u64> {
        self.second.next_sealed(Csn(after)).map(|chunk| chunk.name.first.0)
    }
}

#[test]
fn a_chunk_stays_until_both_have_it() {
    let rig = rig(100);
    rig.seal(0..4);
    rig.spool.archived(Csn(20));
    assert_eq!(rig.files(), [1, 11, 21, 31]);
    rig.second.archived(Csn(10));
    assert_eq!(rig.files(), [11, 21, 31]);
    rig.second.archived(Csn(30));
    assert_eq!(rig.files(), [21, 31]);
    rig.spool.archived(Csn(40));
    assert_eq!(rig.files(), [31]);
    assert_eq!((rig.spool.status().chunks, rig.spool.second_status().chunks), (0, 1));
}

#[test]
fn the_second_archive_never_closes_the_gate() {
    let rig = rig(3);
    for nth in 0..50 {
        rig.seal(nth..nth + 1);
        rig.spool.archived(Csn((nth + 1) * COMMITS));
        assert!(rig.gate.refusal().is_none(), "chunk {nth}");
        assert!(rig.files().len() <= 4, "chunk {nth}: {:?}", rig.files());
    }
    assert_eq!(*rig.spool.second_drops().borrow(), 1, "dropped once; then nothing is kept for it");
    assert_eq!(rig.files(), [491]);
    assert_eq!(rig.next_of_second(0), None, "nothing behind the hole is given out");
    rig.second.archived(Csn(500));
    assert_eq!(rig.next_of_second(0), None, "an upload that ends late brings nothing back");
}

#[test]
fn the_first_archive_closes_it_and_costs_the_second_nothing() {
    let rig = rig(3);
    rig.seal(0..5);
    assert!(rig.gate.stands(RefusalReason::SpoolFull));
    assert_eq!(*rig.spool.second_drops().borrow(), 0);
    rig.spool.archived(Csn(30));
    assert!(!rig.gate.stands(RefusalReason::SpoolFull));
    // The chunks that only the second archive lacks have reached the limit.
    assert_eq!(*rig.spool.second_drops().borrow(), 1);
    assert_eq!(rig.files(), [31, 41]);
}

#[test]
fn the_second_goes_on_only_where_nothing_is_missing() {
    let rig = rig(100);
    rig.seal(0..4);
    assert!(!rig.spool.resume_second(Csn(0), Csn(45)), "the cutter went on behind what is there");
    assert!(rig.spool.resume_second(Csn(15), Csn(40)), "in the middle of a chunk");
    assert_eq!(rig.next_of_second(15), Some(11));
    rig.spool.archived(Csn(40));
    assert_eq!(rig.files(), [11, 21, 31], "what it has goes");
    assert!(!rig.spool.resume_second(Csn(5), Csn(40)), "the chunk before is gone");
    assert!(rig.spool.resume_second(Csn(40), Csn(40)));
    assert!(rig.spool.resume_second(Csn(70), Csn(40)), "it may be ahead of the spool");
}

#[test]
fn the_second_begins_anew_behind_what_was_cut() {
    let rig = rig(2);
    rig.seal(0..4);
    rig.spool.archived(Csn(40));
    assert_eq!(*rig.spool.second_drops().borrow(), 1);
    assert!(!rig.spool.resume_second(Csn(0), Csn(40)));
    assert_eq!(rig.spool.restart_second(Csn(40)), Csn(40));
    rig.seal(4..5);
    rig.spool.archived(Csn(50));
    assert_eq!(rig.next_of_second(40), Some(41));
    rig.seal(5..6);
    assert_eq!(rig.files(), [41, 51], "kept for it again");
}

#[test]
fn a_restart_keeps_what_the_second_lacks() {
    let rig = rig(100);
    rig.seal(0..4);
    rig.second.archived(Csn(10));
    rig.spool.archived(Csn(40));
    let again = open(rig.dir.path(), 100, &rig.gate, Csn(40));
    again.keep_for_second(Csn(40));
    again.archived(Csn(40));
    assert_eq!(rig.files(), [11, 21, 31]);
    assert!(again.resume_second(Csn(10), Csn(40)));
    assert!(!again.resume_second(Csn(0), Csn(40)));
}
