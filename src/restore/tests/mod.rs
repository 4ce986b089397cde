//! Restores end to end: histories of random commits, archived by the tests, restored, and compared with a model.

mod copy;
mod faults;
mod levels;
mod pins;
pub(crate) mod support;
mod times;

use super::progress::silent;
use super::*;
use crate::archive::layout::{BaseName, ChunkName, ObjectName};
use crate::csn::CommitTime;
use crate::error::Kind;
use crate::history::catch_up::CatchUp;
use crate::history::reach::CsnRange;
use crate::history::report::snapshots;
use crate::record::CommitRecord;
use parking_lot::Mutex;
use progress::Progress;
use support::{Archived, State, base, history, read_state};

fn options(dir: &Path, target: Target) -> Options {
    let io = Arc::new(crate::io::StdIo);
    Options { dir: dir.to_owned(), target, epoch: None, costs: RouteCosts::DEFAULT, io, progress: silent() }
}

/// Restores into a fresh directory; returns the report and the content of the directory.
async fn restored(archive: &Archive, target: Target, epoch: Option<Epoch>) -> Result<(Report, State, Identity)> {
    let dir = tempfile::tempdir().unwrap();
    let report = restore(archive, Options { epoch, ..options(dir.path(), target) }).await?;
    let (state, position) = read_state(dir.path());
    assert_eq!((position.csn, position.time, position.epoch), (report.csn, report.time, report.epoch));
    let identity = DataDir::new(dir.path()).identity().unwrap().expect("an identity");
    assert_eq!(identity.role, LastRole::Restored);
    assert_eq!(identity.epoch(), report.epoch);
    Ok((report, state, identity))
}

/// Goal: every commit of a history is restored exactly, from the empty state and from bases.
#[tokio::test]
async fn every_commit_is_a_restore_point() {
    let commits = history(1, 30, Epoch(1));
    let archived = Archived::new().await;
    archived.epoch(1, None).await;
    archived.chunks(1, &commits, &[4, 1, 7, 3, 9, 6]).await;
    for csn in 1..=30 {
        let (report, state, _) = restored(&archived.archive, Target::At(Csn(csn)), None).await.unwrap();
        assert_eq!(state, State::after(&commits[..csn as usize]), "csn {csn}");
        assert_eq!((report.csn, report.commits, report.plan.base()), (Csn(csn), csn, None));
        assert_eq!(report.time, commits[csn as usize - 1].time);
    }
    archived.base(&commits, 1, 8, 8).await;
    archived.base(&commits, 1, 12, 18).await;
    archived.base(&commits, 1, 24, 24).await;
    for csn in 8..=30 {
        let (report, state, _) = restored(&archived.archive, Target::At(Csn(csn)), None).await.unwrap();
        assert_eq!(state, State::after(&commits[..csn as usize]), "csn {csn}");
        let nearest = [8, 18, 24].into_iter().rfind(|base| *base <= csn).unwrap();
        assert_eq!(report.plan.base(), Some(base(nearest, 1)));
        assert_eq!(report.commits, csn - nearest);
    }
}

/// Goal: a target is looked up on the line of the newest epoch or of the requested epoch; objects that are not on the
/// plan's route are never read.
#[tokio::test]
async fn a_restore_follows_one_line_of_history() {
    let archived = Archived::new().await;
    let first = history(1, 20, Epoch(1));
    let second = support::go_on(&first[..12], 2, 10, Epoch(2));
    let third = support::go_on(&first[..15], 3, 5, Epoch(3));
    archived.epoch(1, None).await;
    archived.epoch(2, Some((1, &first[11]))).await;
    archived.epoch(3, Some((1, &first[14]))).await;
    archived.chunks(1, &first, &[5, 5, 10]).await;
    archived.chunks(2, &second[9..], &[4, 9]).await;
    archived.chunks(3, &third[15..], &[5]).await;
    archived.base(&first, 1, 18, 18).await;
    archived.base(&second, 2, 16, 16).await;
    for (epoch, commits) in [(1, &first), (2, &second), (3, &third)] {
        for csn in [11, 12, 13, 15, 16, 17, 20] {
            let (report, state, _) =
                restored(&archived.archive, Target::At(Csn(csn)), Some(Epoch(epoch))).await.unwrap();
            assert_eq!(state, State::after(&commits[..csn as usize]), "epoch {epoch} csn {csn}");
            assert_eq!(report.epoch, commits[csn as usize - 1].epoch, "epoch {epoch} csn {csn}");
        }
    }
    let (report, state, identity) = restored(&archived.archive, Target::Latest, None).await.unwrap();
    assert_eq!((report.csn, report.epoch, report.plan.base()), (Csn(20), Epoch(3), None));
    assert_eq!(state, State::after(&third));
    let starts: Vec<_> = identity.history.iter().map(|start| (start.epoch.0, start.fork.0)).collect();
    assert_eq!(starts, [(1, 0), (3, 15)]);
    let (_, _, identity) = restored(&archived.archive, Target::At(Csn(15)), None).await.unwrap();
    assert_eq!(identity.epoch(), Epoch(1), "the fork itself was made by the parent");
    let error = restored(&archived.archive, Target::Latest, Some(Epoch(9))).await.unwrap_err();
    assert!(error.to_string().contains("epochs 1, 2, 3"), "{error}");
}

/// Goal: a time means the last commit at or before it, for every position of the time between commits.
#[tokio::test]
async fn a_time_means_the_last_commit_at_or_before_it() {
    let commits = history(4, 25, Epoch(1));
    let archived = Archived::new().await;
    archived.epoch(1, None).await;
    archived.chunks(1, &commits, &[3, 1, 8, 2, 11]).await;
    let history = History::read(&archived.archive, None).await.unwrap();
    let (first, last) = (commits[0].time.0, commits[24].time.0);
    for time in first..last + 3 {
        let expected = commits.iter().rfind(|commit| commit.time.0 <= time).unwrap().csn;
        let planned = history.plan(&Target::Before(CommitTime(time))).await.unwrap();
        assert_eq!(planned.plan.target, expected, "time {time}");
    }
    let error = history.plan(&Target::Before(CommitTime(first - 1))).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }));
    let told = error.to_string();
    assert!(told.contains(&commits[0].time.rfc3339()) && told.contains(&commits[24].time.rfc3339()), "{told}");
}

/// Goal: the answer for a time in a pruned history or near a gap is exact or an error.
#[tokio::test]
async fn a_time_near_missing_commits_is_exact_or_refused() {
    let commits = history(5, 25, Epoch(1));
    let archived = Archived::new().await;
    archived.epoch(1, None).await;
    archived.chunks(1, &commits, &[5, 5, 5, 5, 5]).await;
    archived.base(&commits, 1, 5, 5).await;
    archived.base(&commits, 1, 15, 15).await;
    archived.remove_chunk(1, 1, 5).await;
    archived.remove_chunk(1, 11, 15).await;
    let history = History::read(&archived.archive, None).await.unwrap();
    let time_of = |csn: usize| commits[csn - 1].time;
    for csn in [5, 6, 9, 15, 16, 25] {
        let found = history.plan(&Target::Before(time_of(csn))).await;
        // Commit 10 may have the same time as commit 11, which is missing; the other commits are followed by a present
        // one.
        let expected = commits.iter().rfind(|commit| commit.time <= time_of(csn)).unwrap().csn;
        assert_eq!(found.unwrap().plan.target, expected, "csn {csn}");
    }
    let error = history.plan(&Target::Before(time_of(12))).await.unwrap_err();
    assert!(error.to_string().contains("csn 10 or one of csn 11 to 14"), "{error}");
    let error = history.plan(&Target::Before(time_of(1))).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable, "{error}");
    let error = history.plan(&Target::At(Csn(12))).await.unwrap_err();
    let told = error.to_string();
    assert!(told.contains("11 to 14") && told.contains(&time_of(10).rfc3339()), "{told}");
}

/// Goal: commits that a missing chunk makes unreachable are refused, `latest` does not silently mean the last commit
/// before them, and a replica starts there.
#[tokio::test]
async fn a_missing_chunk_is_told_with_the_nearest_points() {
    let commits = history(6, 20, Epoch(1));
    let archived = Archived::new().await;
    archived.epoch(1, None).await;
    archived.chunks(1, &commits, &[6, 6, 8]).await;
    archived.remove_chunk(1, 7, 12).await;
    let error = restored(&archived.archive, Target::At(Csn(15)), None).await.unwrap_err();
    let Error::Unreachable { target, nearest, .. } = &error else { panic!("{error}") };
    assert_eq!(target, "csn:15");
    assert!(nearest.contains("csn 1 (") && nearest.contains("to csn 6 ("), "{nearest}");
    let error = restored(&archived.archive, Target::Latest, None).await.unwrap_err();
    assert!(error.to_string().contains("commits 7 to 20") && error.to_string().contains("csn:6"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let report = build(&archived.archive, options(dir.path(), Target::Latest), LastRole::Replica).await.unwrap();
    assert_eq!(read_state(dir.path()).0, State::after(&commits[..6]));
    assert_eq!(report.plan.lost, [CsnRange { from: Csn(7), until: Csn(20) }]);
}

/// Goal: the error about a damaged chunk names the chunk, and the unfinished directory is never opened.
#[tokio::test]
async fn damage_is_found_and_leaves_the_marker() {
    let commits = history(7, 20, Epoch(1));
    let archived = Archived::new().await;
    archived.epoch(1, None).await;
    archived.chunks(1, &commits, &[6, 6, 8]).await;
    let name = ObjectName::Chunk(ChunkName { epoch: Epoch(1), first: Csn(7), last: Csn(12) });
    archived.flip_byte(&name).await;
    let dir = tempfile::tempdir().unwrap();
    let error = restore(&archived.archive, options(dir.path(), Target::Latest)).await.unwrap_err();
    assert!(matches!(&error, Error::Corrupt { what, .. } if what.ends_with(&name.to_string())), "{error}");
    let error = DataDir::new(dir.path()).identity().unwrap_err();
    assert!(error.to_string().contains("unfinished restore"), "{error}");
    let error = restore(&archived.archive, options(dir.path(), Target::Latest)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotEmpty);
}

/// Goal: a chunk of another history that another writer stored under this epoch is never mixed in, and verify names it.
#[tokio::test]
async fn a_chunk_of_another_history_is_never_mixed_in() {
    let commits = history(7, 18, Epoch(1));
    let other = support::go_on(&commits[..6], 8, 8, Epoch(1));
    let archived = Archived::new().await;
    archived.epoch(1, None).await;
    archived.chunks(1, &commits, &[6, 6, 6]).await;
    archived.chunks(1, &other[6..], &[8]).await;
    let report = verify_archive(&archived.archive, silent()).await.unwrap();
    let [problem] = &report.problems[..] else { panic!("{report:?}") };
    assert!(problem.what.contains("belongs to another history"), "{problem:?}");
    let error = restored(&archived.archive, Target::Latest, None).await.unwrap_err();
    assert!(matches!(error, Error::OtherHistory { .. }), "{error}");
    assert_eq!(error.kind(), Kind::Integrity);
}

/// Goal: a chunk under another chunk's name is refused.
#[tokio::test]
async fn a_chunk_under_a_wrong_name_is_refused() {
    let commits = history(8, 12, Epoch(1));
    let archived = Archived::new().await;
    archived.epoch(1, None).await;
    archived.chunks(1, &commits, &[6, 6]).await;
    let name = |first, last| ObjectName::Chunk(ChunkName { epoch: Epoch(1), first: Csn(first), last: Csn(last) });
    let content = archived.archive.get(&name(1, 6)).await.unwrap().unwrap();
    archived.archive.put_verified(&name(7, 12), content).await.unwrap();
    let error = restored(&archived.archive, Target::Latest, None).await.unwrap_err();
    assert!(error.to_string().contains("its name does not match its header"), "{error}");
    let report = verify_archive(&archived.archive, silent()).await.unwrap();
    assert_eq!(report.problems.len(), 1, "{report:?}");
}

/// Goal: a directory that is not empty is refused before the archive is read; an unreachable target is refused before
/// the directory is created.
#[tokio::test]
async fn nothing_is_touched_in_vain() {
    let archived = Archived::new().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("precious"), b"x").unwrap();
    let gets = archived.gets();
    let error = restore(&archived.archive, options(dir.path(), Target::Latest)).await.unwrap_err();
    assert_eq!((error.kind(), archived.gets()), (Kind::NotEmpty, gets));
    archived.epoch(1, None).await;
    let fresh = dir.path().join("fresh");
    let error = restore(&archived.archive, options(&fresh, Target::Latest)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(!fresh.exists());
}

/// Goal: a base with a damaged manifest is passed over; a base with a damaged file causes an error that names the file.
#[tokio::test]
async fn damaged_bases_are_passed_over_or_named() {
    let commits = history(9, 20, Epoch(1));
    let archived = Archived::new().await;
    archived.epoch(1, None).await;
    archived.chunks(1, &commits, &[20]).await;
    archived.base(&commits, 1, 8, 8).await;
    archived.base(&commits, 1, 14, 18).await;
    archived.flip_byte(&ObjectName::BaseManifest(base(18, 1))).await;
    let (report, state, _) = restored(&archived.archive, Target::Latest, None).await.unwrap();
    assert_eq!((report.plan.base(), report.plan.skipped[0].base), (Some(base(8, 1)), base(18, 1)));
    assert_eq!(state, State::after(&commits));
    let image = archived.base_file(base(8, 1), "memory").await;
    archived.flip_byte(&image).await;
    let error = restored(&archived.archive, Target::Latest, None).await.unwrap_err();
    assert!(matches!(&error, Error::Corrupt { what, .. } if what.ends_with(&image.to_string())), "{error}");
}

/// Goal: a replica starts from the archive's newest state and catches up from there.
#[tokio::test]
async fn a_replica_bootstraps_and_catches_up() {
    let commits = history(10, 30, Epoch(1));
    let archived = Archived::new().await;
    archived.epoch(1, None).await;
    archived.chunks(1, &commits[..12], &[5, 7]).await;
    archived.base(&commits, 1, 9, 9).await;
    let dir = tempfile::tempdir().unwrap();
    let io = Arc::new(crate::io::StdIo);
    let seen: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let sink = {
        let seen = Arc::clone(&seen);
        Arc::new(move |progress| seen.lock().push(progress))
    };
    let report = bootstrap(&archived.archive, dir.path(), io, sink).await.unwrap();
    assert_eq!(report.csn, Csn(12));
    assert_eq!(read_state(dir.path()).0, State::after(&commits[..12]));
    assert_eq!(DataDir::new(dir.path()).identity().unwrap().unwrap().role, LastRole::Replica);
    for phase in [Phase::Base, Phase::Log] {
        let done = seen.lock().iter().rfind(|progress| progress.phase == phase).copied().unwrap();
        assert!(done.total > 0 && done.done == done.total, "{done:?}");
    }
    archived.chunks(1, &commits[12..], &[8, 10]).await;
    let history = History::read(&archived.archive, None).await.unwrap();
    for after in [0, 5, 12, 17, 29, 30] {
        let mut stream = CatchUp::open(&archived.archive, &history.lineage, Csn(after)).await.unwrap();
        assert_eq!(stream.until(), Csn(30));
        let mut found = Vec::new();
        while let Some(part) = stream.next().await.unwrap() {
            found.extend(part.iter().cloned());
        }
        assert_eq!(found, commits[after as usize..], "after {after}");
    }
    archived.remove_chunk(1, 1, 5).await;
    let error = CatchUp::of(&History::read(&archived.archive, None).await.unwrap(), Csn(2)).await.err().unwrap();
    assert!(matches!(error, Error::Gap { expected: Csn(3), .. }), "{error}");
}

/// Goal: the base of a cluster without a commit is restored like any other.
#[tokio::test]
async fn a_replica_of_an_empty_cluster_bootstraps() {
    let archived = Archived::new().await;
    archived.epoch(1, None).await;
    archived.base(&[], 1, 0, 0).await;
    for role in [LastRole::Replica, LastRole::Restored] {
        let dir = tempfile::tempdir().unwrap();
        let report = build(&archived.archive, options(dir.path(), Target::Latest), role).await.unwrap();
        assert_eq!((report.csn, report.epoch), (Csn::ZERO, Epoch(1)));
        assert_eq!(read_state(dir.path()).0, State::default());
        assert_eq!(DataDir::new(dir.path()).identity().unwrap().unwrap().epoch(), Epoch(1));
    }
}

/// Goal: verification finds every damaged or missing object and names it.
#[tokio::test]
async fn verification_finds_every_damage() {
    let commits = history(11, 20, Epoch(1));
    let archived = Archived::new().await;
    archived.epoch(1, None).await;
    archived.chunks(1, &commits, &[6, 6, 8]).await;
    archived.base(&commits, 1, 8, 12).await;
    let verify = async || verify_archive(&archived.archive, silent()).await.unwrap();
    let report = verify().await;
    assert!(report.is_whole(), "{report:?}");
    assert_eq!((report.epochs, report.chunks, report.commits, report.bases), (1, 3, 20, 1));
    for name in archived.names().await {
        if matches!(name, ObjectName::Identity | ObjectName::Epoch(_)) {
            continue;
        }
        let content = archived.archive.get(&name).await.unwrap().expect("it was listed");
        archived.flip_byte(&name).await;
        let report = verify().await;
        let is_named = report.problems.iter().any(|problem| format!("{problem:?}").contains(&name.to_string()));
        assert!(is_named, "{name}: {report:?}");
        archived.archive.delete(&name).await.unwrap();
        let report = verify().await;
        // A base without a manifest is unfinished. A history that begins later was pruned. A history that ends earlier
        // is shorter: no object proves that later commits existed.
        let is_lawful = match name {
            ObjectName::BaseManifest(_) => report.bases_unfinished == 1,
            ObjectName::Chunk(chunk) => chunk.first == Csn(1) || chunk.last == Csn(20),
            _ => false,
        };
        assert_ne!(report.is_whole(), !is_lawful, "{name}: {report:?}");
        archived.archive.put_verified(&name, content).await.unwrap();
    }
    assert!(verify().await.is_whole());
}

/// Goal: the report shows bases, restorable ranges with their times, and gaps.
#[tokio::test]
async fn the_report_tells_what_can_be_restored() {
    let commits = history(12, 20, Epoch(1));
    let archived = Archived::new().await;
    archived.epoch(1, None).await;
    archived.chunks(1, &commits, &[6, 6, 8]).await;
    archived.base(&commits, 1, 8, 12).await;
    archived.remove_chunk(1, 7, 12).await;
    let report = snapshots(&archived.archive).await.unwrap();
    let ranges: Vec<_> = report.ranges.iter().map(|range| (range.from.0, range.until.0)).collect();
    assert_eq!(ranges, [(1, 6), (12, 20)]);
    assert_eq!(report.ranges[1].from_time, Some(commits[11].time));
    assert_eq!(report.ranges[1].until_time, Some(commits[19].time));
    assert_eq!(report.gaps, [CsnRange { from: Csn(7), until: Csn(11) }]);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["bases"][0]["csn"], 12);
    assert_eq!(json["bases"][0]["content"]["level"], "strict");
    let name = BaseName { csn: Csn(12), epoch: Epoch(1) };
    assert_eq!(json["bases"][0]["name"], name.to_string());
}

/// Goal: if chunks are merged and deleted after a restore has listed them, the restore lists again and continues from
/// its position.
#[tokio::test]
async fn chunks_that_were_merged_meanwhile_are_found_again() {
    let commits = history(13, 24, Epoch(1));
    for removed in [&[(1, 4), (5, 5), (6, 12)][..], &[(5, 5)], &[(6, 12), (13, 24)]] {
        let archived = Archived::new().await;
        archived.epoch(1, None).await;
        archived.chunks(1, &commits, &[4, 1, 7, 12]).await;
        let dir = tempfile::tempdir().unwrap();
        let options = options(dir.path(), Target::Latest);
        let history = History::read(&archived.archive, None).await.unwrap();
        let planned = history.plan(&Target::Latest).await.unwrap();
        archived.chunks(1, &commits, &[24]).await;
        for &(first, last) in removed {
            archived.remove_chunk(1, first, last).await;
        }
        let data = DataDir::new(dir.path());
        data.begin_restore().unwrap();
        let engines = begin(&history, &planned, &data, &options).await.unwrap();
        let (engines, followed) = follow::follow(&history, &planned, engines, &options).await.unwrap();
        assert_eq!(followed.remarks.len(), 1, "{:?}", followed.remarks);
        let identity = identity_of(&history, &planned.plan, LastRole::Restored).unwrap();
        finish(engines, Csn(24), &crate::io::StdIo, &data, &identity).unwrap();
        assert_eq!(read_state(dir.path()).0, State::after(&commits));
    }
}
