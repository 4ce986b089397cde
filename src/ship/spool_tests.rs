//! Each step of the spool fails in each way.

use super::*;
use crate::chunk::{ChunkLink, Encoder, Profile};
use crate::cluster::ClusterId;
use crate::directory::{EpochStart, LastRole};
use crate::io::StdIo;
use crate::io::testing::{Case, FAULTS, each_step, scratch};
use crate::log::testing::{chained, hash_before, on_list};
use crate::record::CommitRecord;

/// Commits of a run. One more commit exists each time a chunk is cut.
const COMMITS: u64 = 8;
/// Number of commits after which chunks are archived, each time.
const ARCHIVED_EACH: u64 = 3;

fn open(io: Arc<dyn Io>, dir: &Path, archived: Csn) -> Result<(Spool, Option<ChunkHeader>)> {
    let watermarks = Arc::new(Watermarks::starting_at(Csn(COMMITS)));
    watermarks.archived.raise(archived);
    let identity = Identity::new(ClusterId([7; 16]), LastRole::Primary).unwrap();
    Spool::open(io, dir, 1 << 20, &identity, Arc::new(Gate::default()), watermarks, &|_, _| Ok(true))
}

/// Returns a chunk of the commits above `after`, up to `last`.
fn cut(after: Csn, last: u64) -> Chunk {
    let commits = &chained((1..=last).map(on_list))[after.0 as usize..];
    let link = ChunkLink { epoch: Epoch(1), hash_before: hash_before(&commits[0]), ..ChunkLink::default() };
    Encoder::new(Profile::default()).encode(commits.iter(), link)
}

/// The chunks that a test sealed and archived.
#[derive(Default)]
struct Told {
    sealed: Csn,
    archived: Csn,
}

/// Seals and archives as the cutter and the uploader do: commits that could not be sealed are cut again, together with
/// later ones.
fn run(case: &Case, dir: &Path) -> Told {
    let mut told = Told::default();
    let Ok((spool, _)) = open(case.io(), dir, Csn::ZERO) else { return told };
    for csn in 1..=COMMITS {
        if spool.seal(&cut(told.sealed, csn)).is_ok() {
            told.sealed = Csn(csn);
        }
        if csn % ARCHIVED_EACH == 0 {
            while let Some(chunk) = spool.next_sealed(told.archived) {
                let commits = Chunk::open(spool.read(&chunk).unwrap(), "chunk").unwrap().commits().count() as u64;
                assert_eq!(chunk.name.last.since(chunk.name.first) + 1, commits);
                told.archived = chunk.name.last;
                spool.archived(told.archived);
            }
            assert_eq!(told.archived, told.sealed, "what is sealed can be uploaded at once");
        }
    }
    if told.sealed < Csn(COMMITS) && !case.is_over() {
        spool.seal(&cut(told.sealed, COMMITS)).expect("sealing goes on as soon as nothing fails any more");
        told.sealed = Csn(COMMITS);
    }
    told
}

/// Goal: whichever step fails, the next start finds every sealed chunk that the archive does not have, whole and
/// without a gap, and the spool can continue.
#[test]
fn sealed_chunks_survive_every_failing_step() {
    each_step(&FAULTS, |case| {
        let dir = scratch();
        let told = run(case, dir.path());
        let (spool, newest) = open(Arc::new(StdIo), dir.path(), told.archived).unwrap();
        let reachable = spool.reachable(told.archived);
        assert!((told.sealed..=Csn(COMMITS)).contains(&reachable), "{} sealed, {reachable} there", told.sealed);
        assert!(told.sealed == Csn::ZERO || newest.is_some_and(|newest| newest.last >= told.sealed));
        let mut archived = told.archived;
        while let Some(chunk) = spool.next_sealed(archived) {
            assert!(chunk.name.first <= archived.next(), "no gap");
            let bytes = spool.read(&chunk).unwrap();
            let found: Vec<_> = Chunk::open(bytes, "chunk").unwrap().commits().map(Result::unwrap).collect();
            let all = chained((1..=chunk.name.last.0).map(on_list));
            assert_eq!(found, all[chunk.name.first.0 as usize - 1..]);
            archived = chunk.name.last;
        }
        assert_eq!(archived, reachable.max(told.archived));
        spool.seal(&cut(archived, COMMITS + 1)).unwrap();
        spool.archived(Csn(COMMITS + 1));
        let names = StdIo.list_all(dir.path()).unwrap();
        assert_eq!(names.len(), 1, "what is archived is removed, but for the newest: {names:?}");
    });
}

fn open_of(dir: &Path, identity: &Identity, committed: u64) -> (Spool, Option<ChunkHeader>) {
    let watermarks = Arc::new(Watermarks::starting_at(Csn(committed)));
    Spool::open(Arc::new(StdIo), dir, u64::MAX, identity, Arc::default(), watermarks, &|_, _| Ok(true)).unwrap()
}

fn seal_commits(spool: &Spool, epoch: u32, csns: std::ops::RangeInclusive<u64>) {
    let commit = |csn| CommitRecord { csn: Csn(csn), epoch: Epoch(epoch), ..CommitRecord::default() };
    let commits = &chained((1..=*csns.end()).map(commit))[*csns.start() as usize - 1..];
    let link = ChunkLink { epoch: Epoch(epoch), hash_before: hash_before(&commits[0]), ..ChunkLink::default() };
    spool.seal(&Encoder::new(Profile::default()).encode(commits.iter(), link)).unwrap();
}

/// Goal: commits that the logs lost are never uploaded. Otherwise the archived watermark would pass new commits with
/// the same csns.
#[test]
fn chunks_beyond_the_logs_or_beyond_a_fork_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut identity = Identity::new(ClusterId([7; 16]), LastRole::Primary).unwrap();
    let (spool, _) = open_of(dir.path(), &identity, 0);
    [1..=10, 11..=20, 21..=30].into_iter().for_each(|csns| seal_commits(&spool, 1, csns));
    let (spool, newest) = open_of(dir.path(), &identity, 30);
    assert_eq!((spool.reachable(Csn::ZERO), newest.unwrap().last), (Csn(30), Csn(30)));
    let (spool, newest) = open_of(dir.path(), &identity, 29);
    assert_eq!((spool.reachable(Csn::ZERO), newest.unwrap().last), (Csn(20), Csn(20)));
    identity.begin_epoch(EpochStart::unhashed(Epoch(2), Csn(15)));
    let (spool, newest) = open_of(dir.path(), &identity, 29);
    assert_eq!((spool.reachable(Csn::ZERO), newest.unwrap().last), (Csn(10), Csn(10)));
    seal_commits(&spool, 2, 11..=29);
    assert_eq!(open_of(dir.path(), &identity, 29).0.reachable(Csn::ZERO), Csn(29));
}

/// Goal: a damaged chunk, found at a start or at its upload, is set aside, and cutting continues before it. Chunks
/// after the hole are never taken as complete history.
#[test]
fn a_damaged_chunk_and_what_is_behind_it_are_cut_anew() {
    let identity = Identity::new(ClusterId([7; 16]), LastRole::Primary).unwrap();
    for (at_start, byte) in [(true, 10), (false, ChunkHeader::ENCODED_LEN)] {
        let dir = tempfile::tempdir().unwrap();
        let (spool, _) = open_of(dir.path(), &identity, 0);
        [1..=10, 11..=20, 21..=30].into_iter().for_each(|csns| seal_commits(&spool, 1, csns));
        let damaged = spool.next_sealed(Csn(10)).unwrap();
        let path = spool.path(damaged.name);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[byte] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        if !at_start {
            let (spool, newest) = open_of(dir.path(), &identity, 30);
            assert_eq!(newest.unwrap().last, Csn(30), "a start reads headers only");
            let error = spool.read(&damaged).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        }
        let (spool, newest) = open_of(dir.path(), &identity, 30);
        assert_eq!((newest.unwrap().last, spool.reachable(Csn::ZERO)), (Csn(10), Csn(10)));
        assert!(path.with_extension(DAMAGED).exists(), "it can be looked at");
        seal_commits(&spool, 1, 11..=30);
        assert_eq!(spool.next_sealed(Csn(10)).unwrap().name.last, Csn(30));
    }
}
