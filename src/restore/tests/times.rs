//! Times over epochs that began at an earlier time than the end of the epoch before.

use super::support::{Archived, State, go_on};
use super::*;

/// Returns the commits with the last ones made `back` microseconds earlier.
fn set_back(mut commits: Vec<CommitRecord>, from: usize, back: u64) -> Vec<CommitRecord> {
    commits[from..].iter_mut().for_each(|commit| commit.time.0 -= back);
    crate::log::testing::chained(commits)
}

/// One hour, by which the clock was set back.
const HOUR: u64 = 3_600_000_000;

/// Three epochs: csn 1 to 12, 13 to 20 an hour earlier, and 21 to 30 five microseconds before the end of the second.
fn set_twice() -> Vec<CommitRecord> {
    let first = history(4, 12, Epoch(1));
    let second = set_back(go_on(&first, 5, 8, Epoch(2)), 12, HOUR);
    set_back(go_on(&second, 6, 10, Epoch(3)), 20, 5)
}

async fn archived(commits: &[CommitRecord]) -> Archived {
    let archived = Archived::new().await;
    archived.epoch(1, None).await;
    archived.epoch(2, Some((1, &commits[11]))).await;
    archived.epoch(3, Some((2, &commits[19]))).await;
    archived.chunks(1, &commits[..10], &[4, 6]).await;
    // The first epoch did not archive its commits up to the point where times decrease.
    archived.chunks(2, &commits[10..19], &[2, 3, 4]).await;
    archived.chunks(3, &commits[19..], &[1, 3, 7]).await;
    archived
}

/// Goal: a time means the last commit, in csn order, at or before it, before and after the clock was set back.
#[tokio::test]
async fn a_time_is_found_on_both_sides_of_a_clock_that_was_set_back() {
    let commits = set_twice();
    let archived = archived(&commits).await;
    let history = History::read(&archived.archive, None).await.unwrap();
    let around = commits.iter().flat_map(|commit| [commit.time.0 - 1, commit.time.0, commit.time.0 + 1]);
    let earliest = commits.iter().map(|commit| commit.time.0).min().unwrap();
    for time in around {
        let planned = history.plan(&Target::Before(CommitTime(time))).await.map(|planned| planned.plan.target);
        match commits.iter().rfind(|commit| commit.time.0 <= time) {
            Some(expected) => assert_eq!(planned.unwrap(), expected.csn, "time {time}"),
            None => assert!(matches!(planned, Err(Error::Unreachable { .. })) && time < earliest, "time {time}"),
        }
    }
}

/// Goal: every commit is restored exactly, with and without bases, wherever times decrease.
#[tokio::test]
async fn every_commit_around_a_clock_that_was_set_back_is_a_restore_point() {
    let commits = set_twice();
    let archived = archived(&commits).await;
    for _ in 0..2 {
        for csn in 10..=24 {
            let (report, state, _) = restored(&archived.archive, Target::At(Csn(csn)), None).await.unwrap();
            assert_eq!(state, State::after(&commits[..csn as usize]), "csn {csn}");
            assert_eq!(report.time, commits[csn as usize - 1].time);
        }
        // The base's engines were cut before and after the clock was set back.
        archived.base(&commits, 2, 10, 15).await;
    }
    let report = verify_archive(&archived.archive, silent()).await.unwrap();
    assert!(report.is_whole(), "{report:?}");
}

/// Goal: where the first commits of the later epoch are missing, a time that one of them may have is refused.
#[tokio::test]
async fn a_time_that_a_missing_commit_after_the_clock_was_set_back_may_have_is_refused() {
    let commits = set_twice();
    let archived = archived(&commits).await;
    archived.remove_chunk(2, 13, 15).await;
    archived.base(&commits, 2, 15, 15).await;
    let history = History::read(&archived.archive, None).await.unwrap();
    let plan = async |time: CommitTime| history.plan(&Target::Before(time)).await.map(|planned| planned.plan.target);
    let error = plan(commits[12].time).await.unwrap_err().to_string();
    assert!(error.contains("csn 12 or one of csn 13 to 14"), "{error}");
    assert_eq!(
        plan(commits[14].time).await.unwrap(),
        commits.iter().rfind(|it| it.time <= commits[14].time).unwrap().csn
    );
}
