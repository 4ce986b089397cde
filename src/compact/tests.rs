//! Compares compaction with a model: whatever is merged, built and removed, every csn that can be restored yields the
//! state that its commits produce, and every other csn is refused.

use super::*;
use crate::archive::layout::{ChunkName, ObjectName, RunName};
use crate::archive::retry_policy::RetryPolicy;
use crate::archive::store::Archive;
use crate::archive::testing::faults::{Fault, FaultStore, QUICK};
use crate::compact::merge::Rules;
use crate::csn::{CommitTime, Csn, Epoch};
use crate::error::{Error, Kind, Result};
use crate::grain::Grain;
use crate::history::line::History;
use crate::history::route::RouteCosts;
use crate::history::target::Target;
use crate::io::StdIo;
use crate::log::testing::chained;
use crate::node::rebuild;
use crate::record::CommitRecord;
use crate::restore::progress::silent;
use crate::restore::tests::support::{Archived, State, base as base_name, read_state, wild};
use crate::restore::{Options, Report, restore, verify_archive};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::time::Duration;

/// A time later than that of every object in the stores of these tests.
const LATE_MS: u64 = 4_000_000_000_000;
const EAGER: Rules = Rules { parts_min: 2, settle: Duration::ZERO, grace: Duration::ZERO };

async fn build(archive: &Archive, grain: Grain, epoch: Option<Epoch>) -> Result<runs::Report> {
    let scratch = tempfile::tempdir().unwrap();
    let (until, io) = (Target::Latest, Arc::new(StdIo));
    let options = runs::Options { grain, until, epoch, scratch: scratch.path().to_owned(), io, progress: silent() };
    let report = runs::build(archive, options).await;
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "the scratch directory is empty again");
    report
}

async fn restored(archive: &Archive, target: Target, epoch: Option<Epoch>) -> Result<(Report, State)> {
    let dir = tempfile::tempdir().unwrap();
    let (io, progress) = (Arc::new(StdIo), silent());
    let report = restore(
        archive,
        Options { dir: dir.path().to_owned(), target, epoch, costs: RouteCosts::FREE_RUNS, io, progress },
    )
    .await?;
    Ok((report, read_state(dir.path()).0))
}

/// Restores to each of these csns, which must be reachable, and compares the states with the model.
async fn check(archive: &Archive, epoch: u32, commits: &[CommitRecord], csns: impl IntoIterator<Item = u64>) -> u64 {
    let mut runs = 0;
    for csn in csns {
        let (report, state) = restored(archive, Target::At(Csn(csn)), Some(Epoch(epoch))).await.unwrap();
        assert!(state == State::after(&commits[..csn as usize]), "epoch {epoch}, csn {csn}, plan {:?}", report.plan);
        assert!(report.remarks.is_empty(), "{:?}", report.remarks);
        runs += report.checks.runs_verified;
    }
    runs
}

async fn build_spans(archive: &Archive, grain: Grain, epoch: u32) -> Vec<(u64, u64)> {
    let report = build(archive, grain, Some(Epoch(epoch))).await.unwrap();
    report.runs.iter().map(|run| (run.run.first.0, run.run.last.0)).collect()
}

/// Goal: restored states are exact for random histories with a fork and a base, random chunks, random runs, merging,
/// and random removal of chunks.
#[tokio::test]
async fn whatever_can_be_restored_is_exact() {
    for seed in 0..3 {
        let mut random = StdRng::seed_from_u64(seed);
        let archived = Archived::new().await;
        let first = wild(&[], seed, 36, Epoch(1));
        let second = wild(&first[..24], seed + 100, 24, Epoch(2));
        archived.epoch(1, None).await;
        archived.epoch(2, Some((1, &first[23]))).await;
        archived.chunks(1, &first, &sizes(&mut random, 36)).await;
        archived.chunks(2, &second[24..], &sizes(&mut random, 24)).await;
        archived.base(&first, 1, 10, 12).await;
        let grain = random.random_range(1..9);
        for grain in [grain, grain + random.random_range(1..12)] {
            let spans = build_spans(&archived.archive, Grain::Commits(grain), 2).await;
            assert!(spans.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "{spans:?}");
            assert!(spans.iter().any(|(_, last)| *last == 12), "a run ends at the base");
            assert!(spans.iter().all(|(first, last)| last - first < grain));
        }
        check(&archived.archive, 2, &second, (1..=48).step_by(5)).await;
        let round = chunks::merge_at(&archived.archive, EAGER, LATE_MS).await.unwrap();
        assert!(round.deleted > 0 && round.damaged == 0, "{round:?}");
        check(&archived.archive, 2, &second, (2..=48).step_by(7)).await;
        check(&archived.archive, 1, &first, (3..=36).step_by(11)).await;
        assert!(verify_archive(&archived.archive, silent()).await.unwrap().is_whole());

        // The chunks of the second history are removed one after another; every csn that runs and bases reach stays
        // exact.
        let history = History::read(&archived.archive, None).await.unwrap();
        for chunk in history.listing.chunks.keys() {
            archived.archive.delete(&ObjectName::Chunk(*chunk)).await.unwrap();
            let reach = History::read(&archived.archive, None).await.unwrap().reach();
            let csns: Vec<u64> = (1..=48).filter(|csn| reach.contains(Csn(*csn))).collect();
            assert!(csns.contains(&12), "the base is reachable at any time");
            let sample = csns[random.random_range(0..csns.len())];
            check(&archived.archive, 2, &second, [sample]).await;
        }
        let reach = History::read(&archived.archive, None).await.unwrap().reach();
        let by_runs: Vec<u64> = (1..=48).filter(|csn| reach.contains(Csn(*csn))).collect();
        assert!(check(&archived.archive, 2, &second, by_runs.iter().copied()).await > 0);
        for csn in (1..=48).filter(|csn| !by_runs.contains(csn)) {
            let error = restored(&archived.archive, Target::At(Csn(csn)), None).await.unwrap_err();
            assert!(matches!(error, Error::Unreachable { .. }), "csn {csn}: {error}");
        }
    }
}

fn sizes(random: &mut StdRng, mut commits: usize) -> Vec<usize> {
    let mut sizes = Vec::new();
    while commits > 0 {
        let size = random.random_range(1..=commits.min(5));
        sizes.push(size);
        commits -= size;
    }
    sizes
}

/// Goal: with runs and chunks present, every csn is exact; a run is used where it is quicker, and chunks provide the
/// commits inside a run.
#[tokio::test]
async fn every_commit_stays_a_restore_point_beside_runs() {
    let archived = Archived::new().await;
    let commits = wild(&[], 7, 20, Epoch(1));
    archived.epoch(1, None).await;
    archived.chunks(1, &commits, &[3, 4, 6, 7]).await;
    assert_eq!(build_spans(&archived.archive, Grain::Commits(5), 1).await, [(1, 5), (6, 10), (11, 15), (16, 20)]);
    check(&archived.archive, 1, &commits, 1..=20).await;
    archived.remove_chunk(1, 1, 3).await;
    archived.remove_chunk(1, 14, 20).await;
    let reach = History::read(&archived.archive, None).await.unwrap().reach();
    let ranges: Vec<_> = reach.ranges.iter().map(|range| (range.from.0, range.until.0)).collect();
    assert_eq!(ranges, [(5, 13), (15, 15), (20, 20)]);
    assert_eq!(reach.gaps, []);
    assert!(check(&archived.archive, 1, &commits, (5..=13).chain([15, 20])).await > 9);
    let report = verify_archive(&archived.archive, silent()).await.unwrap();
    assert!(report.is_whole() && report.runs == 4 && report.coarse.len() == 2, "{report:?}");
    let error = restored(&archived.archive, Target::At(Csn(17)), None).await.unwrap_err().to_string();
    assert!(error.contains("csn 16 to 19 cannot be restored one by one") && error.contains("above: csn 20"), "{error}");
}

/// Goal: runs of hours cover complete hours only, continue when later commits exist, and are identical from two
/// builders.
#[tokio::test]
async fn hours_are_built_when_they_are_over() {
    let archived = Archived::new().await;
    let mut commits = wild(&[], 8, 30, Epoch(1));
    for (nth, commit) in commits.iter_mut().enumerate() {
        // Ten commits per hour.
        commit.time = CommitTime(1_790_000_000_000_000 / 3_600_000_000 * 3_600_000_000 + nth as u64 * 360_000_000);
    }
    let commits = chained(commits);
    archived.epoch(1, None).await;
    archived.chunks(1, &commits[..15], &[7, 8]).await;
    assert_eq!(build_spans(&archived.archive, Grain::Hour, 1).await, [(1, 10)]);
    assert_eq!(build_spans(&archived.archive, Grain::Hour, 1).await, []);
    archived.chunks(1, &commits[15..], &[15]).await;
    assert_eq!(build_spans(&archived.archive, Grain::Hour, 1).await, [(11, 20)], "the third hour may go on");
    assert_eq!(build_spans(&archived.archive, Grain::Day, 1).await, []);
    check(&archived.archive, 1, &commits, [10, 20, 25]).await;
    archived.remove_chunk(1, 1, 7).await;
    archived.remove_chunk(1, 8, 15).await;
    // Where only runs are left, a search by time finds the end of an hour, and a time inside an hour is refused.
    let history = History::read(&archived.archive, None).await.unwrap();
    let plan = async |time: CommitTime| history.plan(&Target::Before(time)).await.map(|planned| planned.plan.target.0);
    assert_eq!(plan(commits[9].time).await.unwrap(), 10);
    assert_eq!(plan(CommitTime(commits[10].time.0 - 1)).await.unwrap(), 10);
    assert_eq!(plan(commits[19].time).await.unwrap(), 20);
    assert_eq!(plan(commits[22].time).await.unwrap(), 23);
    for csn in [1, 5, 11, 14] {
        let error = plan(commits[csn - 1].time).await.unwrap_err().to_string();
        assert!(error.contains("which only a compacted run holds") || error.contains("missing"), "csn {csn}: {error}");
    }
}

/// Goal: a run ends where an epoch began at an earlier time, and restores over runs cross that point.
#[tokio::test]
async fn a_run_ends_where_the_clock_was_set_back() {
    let archived = Archived::new().await;
    let first = wild(&[], 9, 14, Epoch(1));
    let mut commits = wild(&first, 10, 14, Epoch(2));
    commits[14..].iter_mut().for_each(|commit| commit.time.0 -= 86_400_000_000);
    let commits = chained(commits);
    archived.epoch(1, None).await;
    archived.epoch(2, Some((1, &first[13]))).await;
    archived.chunks(1, &commits[..14], &[14]).await;
    archived.chunks(2, &commits[14..], &[14]).await;
    assert_eq!(build_spans(&archived.archive, Grain::Commits(10), 2).await, [(1, 10), (11, 14), (15, 24)]);
    check(&archived.archive, 2, &commits, [10, 14, 15, 24, 28]).await;
    archived.remove_chunk(1, 1, 14).await;
    assert_eq!(check(&archived.archive, 2, &commits, [10, 14, 24]).await, 1 + 2 + 3);
    let history = History::read(&archived.archive, None).await.unwrap();
    let plan = async |time: CommitTime| history.plan(&Target::Before(time)).await.map(|planned| planned.plan.target.0);
    assert_eq!(plan(commits[15].time).await.unwrap(), 16);
    assert_eq!(plan(CommitTime(commits[27].time.0 + 1)).await.unwrap(), 28);
}

/// The bytes that replace an object; `None` removes the object.
type Spoil = fn(Vec<u8>) -> Option<Vec<u8>>;

/// Goal: a damaged, incomplete or unknown run is passed over and reported; without chunks, the restore fails with an
/// error that names the run.
#[tokio::test]
async fn bad_runs_are_passed_over() {
    let commits = wild(&[], 9, 24, Epoch(1));
    let spoil: [(&str, Spoil); 4] = [
        ("manifest", |mut bytes| {
            bytes[40] ^= 1;
            Some(bytes)
        }),
        ("manifest", |bytes| Some(String::from_utf8(bytes).unwrap().replace("\"format\": 3", "\"format\": 9").into())),
        ("file", |mut bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            Some(bytes)
        }),
        ("file", |_| None),
    ];
    for (what, change) in spoil {
        let archived = Archived::new().await;
        archived.epoch(1, None).await;
        archived.chunks(1, &commits, &[6, 6, 6, 6]).await;
        build(&archived.archive, Grain::Commits(8), None).await.unwrap();
        let run = RunName { first: Csn(9), last: Csn(16), epoch: Epoch(1) };
        let is_it = |name: &ObjectName| match name {
            ObjectName::RunManifest(of) => *of == run && what == "manifest",
            ObjectName::RunFile(of, _) => *of == run && what == "file",
            _ => false,
        };
        let name = archived.names().await.into_iter().find(is_it).expect("the run has such an object");
        let bytes = archived.archive.get(&name).await.unwrap().unwrap().to_vec();
        match change(bytes) {
            Some(bytes) => archived.archive.put_verified(&name, bytes.into()).await.unwrap(),
            None => archived.archive.delete(&name).await.unwrap(),
        }
        // Without these chunks, a restore needs the run before and the run after.
        archived.remove_chunk(1, 1, 6).await;
        archived.remove_chunk(1, 19, 24).await;
        let (report, state) = restored(&archived.archive, Target::At(Csn(24)), None).await.unwrap();
        assert!(state == State::after(&commits));
        assert_eq!(report.checks.runs_verified, 2);
        let told = report.remarks.len() + report.plan.skipped_runs.len();
        assert_eq!(told, 1, "{report:?}");
        let report = verify_archive(&archived.archive, silent()).await.unwrap();
        assert!(report.problems.iter().any(|problem| problem.object.starts_with(&run.to_string())), "{report:?}");
        archived.remove_chunk(1, 7, 12).await;
        archived.remove_chunk(1, 13, 18).await;
        let error = restored(&archived.archive, Target::At(Csn(24)), None).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::Integrity | Kind::Unreachable), "{error}");
    }
}

/// Goal: whichever request of the archive fails while runs are built, the next call completes exact runs.
#[tokio::test]
async fn building_goes_on_after_a_crash_at_any_request() {
    let commits = wild(&[], 10, 18, Epoch(1));
    for fault in [Fault::Fail, Fault::LoseReply, Fault::Vanish] {
        for at in (0..30).step_by(2) {
            let store = FaultStore::default();
            let archive =
                Archive::over(Arc::new(store.clone()), "memory:///a".to_owned(), "a", None).with_retry_policy(QUICK);
            let archived = Archived::over(archive).await;
            archived.epoch(1, None).await;
            archived.chunks(1, &commits, &[5, 5, 8]).await;
            let hasty = archived.archive.with_retry_policy(RetryPolicy { attempts: 1, ..QUICK });
            let script = || std::iter::repeat_n(Fault::None, at).chain([fault]);
            store.script_puts(script());
            store.script_gets(script());
            let _ = build(&hasty, Grain::Commits(6), None).await;
            store.heal();
            build(&archived.archive, Grain::Commits(6), None).await.unwrap();
            let history = History::read(&archived.archive, None).await.unwrap();
            let runs: Vec<_> = history.listing.whole_runs().map(|run| (run.first.0, run.last.0)).collect();
            assert_eq!(runs, [(1, 6), (7, 12), (13, 18)], "{fault:?} at {at}");
            for chunk in [(1, 5), (6, 10), (11, 18)] {
                let name = ChunkName { epoch: Epoch(1), first: Csn(chunk.0), last: Csn(chunk.1) };
                archived.archive.delete(&ObjectName::Chunk(name)).await.unwrap();
            }
            check(&archived.archive, 1, &commits, [18]).await;
        }
    }
}

/// Goal: a base rebuilt from a base, runs and chunks restores like any other base, and shares the unchanged files.
#[tokio::test]
async fn a_rebuilt_base_is_a_base() {
    let archived = Archived::new().await;
    let commits = wild(&[], 11, 30, Epoch(1));
    archived.epoch(1, None).await;
    archived.chunks(1, &commits, &[10, 10, 10]).await;
    archived.base(&commits, 1, 9, 9).await;
    build(&archived.archive, Grain::Commits(5), None).await.unwrap();
    let rebuild = async |csn: u64| {
        let dir = tempfile::tempdir().unwrap();
        let (target, epoch, io, progress) = (Target::At(Csn(csn)), None, Arc::new(StdIo), silent());
        let options = rebuild::Options { target, epoch, dir: dir.path().join("base"), io, progress };
        rebuild::rebuild(&archived.archive, options).await.unwrap()
    };
    let report = rebuild(22).await;
    assert!(report.is_new && report.csn == Csn(22) && report.epoch == Epoch(1), "{report:?}");
    assert!(report.bytes_new > 0, "{report:?}");
    assert!(!rebuild(22).await.is_new);
    assert!(verify_archive(&archived.archive, silent()).await.unwrap().is_whole());
    archived.remove_chunk(1, 1, 10).await;
    archived.remove_chunk(1, 11, 20).await;
    let (report, state) = restored(&archived.archive, Target::At(Csn(27)), None).await.unwrap();
    assert!(state == State::after(&commits[..27]));
    assert_eq!(report.plan.base(), Some(base_name(22, 1)));
}
