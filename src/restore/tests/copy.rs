//! Copies of archives: which commits can be restored from a copy, and how an interrupted copy behaves.

use super::super::copy::{CopyOptions, CopyReport, Incomplete, copy, plan};
use super::super::progress::silent;
use super::support::{Archived, State, base, go_on, history};
use super::{restored, verify_archive};
use crate::archive::crypt::KeyRing;
use crate::archive::epochs::{self, EpochRecord};
use crate::archive::identity::{self, ClusterId};
use crate::archive::layout::{ChunkName, ObjectName, Section};
use crate::archive::marks::{self, MarkRecord};
use crate::archive::retry_policy::RetryPolicy;
use crate::archive::store::Archive;
use crate::archive::testing::faults::{Fault, FaultStore, QUICK};
use crate::csn::{CommitTime, Csn, Epoch, HistoryHash};
use crate::error::{Error, Kind, Result};
use crate::history::reach::CsnRange;
use crate::history::target::Target;
use crate::plain_name::PlainName;
use crate::position::Position;
use crate::record::CommitRecord;
use crate::snapshot::manifest::Level;
use object_store::memory::InMemory;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

fn target() -> Archive {
    Archive::over(Arc::new(InMemory::new()), "memory:///b".to_owned(), "b", None)
}

fn keys(id: &str) -> Option<KeyRing> {
    Some(KeyRing::parse(&format!("{id} {}", blake3::hash(id.as_bytes()).to_hex()), "test").expect("a key"))
}

async fn copied(from: &Archive, to: &Archive, range: (Option<u64>, u64), epoch: Option<u32>) -> Result<CopyReport> {
    let (from_csn, until) = (range.0.map(Csn), Target::At(Csn(range.1)));
    let options = CopyOptions { from: from_csn, until, epoch: epoch.map(Epoch), progress: silent() };
    copy(from, to, options).await
}

async fn names(archive: &Archive) -> BTreeSet<String> {
    archive.list(Section::All).await.unwrap().objects.into_iter().map(|object| object.name.to_string()).collect()
}

/// 30 commits of one epoch in chunks of 6 with two bases.
async fn one_line(archive: Archive) -> (Archived, Vec<CommitRecord>) {
    let commits = history(21, 30, Epoch(1));
    let archived = Archived::over(archive).await;
    archived.epoch(1, None).await;
    archived.chunks(1, &commits, &[6; 5]).await;
    archived.base(&commits, 1, 8, 9).await;
    archived.base(&commits, 1, 20, 21).await;
    (archived, commits)
}

/// Verifies the copy and restores commits of its range exactly: the first, the last and every fifth between them.
async fn assert_holds(archive: &Archive, commits: &[CommitRecord], range: CsnRange, epoch: Option<Epoch>) {
    let report = verify_archive(archive, silent()).await.unwrap();
    assert!(report.is_whole(), "{report:?}");
    for csn in (range.from.0..range.until.0).step_by(5).chain([range.until.0]) {
        let (_, state, _) = restored(archive, Target::At(Csn(csn)), epoch).await.unwrap();
        assert_eq!(state, State::after(&commits[..csn as usize]), "csn {csn}");
    }
}

/// Goal: copies of a whole archive and of parts restore exactly, between unencrypted and encrypted archives.
#[tokio::test]
async fn a_copy_restores_every_commit_of_its_range() {
    let source = || Archive::over(Arc::new(InMemory::new()), "memory:///a".to_owned(), "a", None);
    for (from_keys, to_keys) in [(None, None), (keys("a"), keys("b")), (keys("a"), None), (None, keys("b"))] {
        let (archived, commits) = one_line(source().with_keys(from_keys)).await;
        let to = target().with_keys(to_keys);
        let report = copied(&archived.archive, &to, (None, 30), None).await.unwrap();
        assert_eq!((report.range.from, report.range.until), (Csn(1), Csn(30)));
        assert_eq!((report.bases, report.copied.chunks, report.present.chunks), (2, 5, 0));
        assert_eq!(names(&to).await, names(&archived.archive).await);
        assert_holds(&to, &commits, report.range, None).await;
    }
    let (archived, commits) = one_line(source()).await;
    // From, until, first csn of the first chunk, number of bases, end of the range.
    for (from, until, first, bases, end) in
        [(10, 14, 7, 1, 18), (9, 9, 0, 1, 9), (3, 4, 1, 0, 6), (15, 25, 7, 2, 30), (21, 24, 19, 1, 24)]
    {
        let to = target();
        let report = copied(&archived.archive, &to, (Some(from), until), None).await.unwrap();
        assert_eq!(
            (report.range.from, report.range.until, report.bases),
            (Csn(from), Csn(end), bases),
            "{from} to {until}"
        );
        let chunks: Vec<_> = to.list(Section::Chunks(Epoch(1))).await.unwrap().objects;
        let found = chunks.first().map_or(0, |object| match object.name {
            ObjectName::Chunk(chunk) => chunk.first.0,
            _ => unreachable!("the section has chunks only"),
        });
        assert_eq!(found, first, "{from} to {until}");
        assert_holds(&to, &commits, report.range, None).await;
    }
}

/// Goal: a base whose engines were cut at different commits is copied together with the chunks between its cuts.
#[tokio::test]
async fn a_base_of_two_cuts_is_copied_with_its_chunks() {
    let (archived, commits) = one_line(Archived::new().await.archive).await;
    archived.base_as(&commits, 1, 14, 16, Level::Bounded).await;
    for (from, until, first, bases) in [(17, 24, 13, 2), (10, 24, 7, 3)] {
        let to = target();
        let report = copied(&archived.archive, &to, (Some(from), until), None).await.unwrap();
        assert_eq!((report.range.from, report.bases), (Csn(from), bases));
        let chunks: Vec<_> = to.list(Section::Chunks(Epoch(1))).await.unwrap().objects;
        let ObjectName::Chunk(chunk) = chunks[0].name else { unreachable!("the section has chunks only") };
        assert_eq!(chunk.first, Csn(first));
        assert_holds(&to, &commits, report.range, None).await;
        let again = copied(&archived.archive, &to, (Some(from), until), None).await.unwrap();
        assert_eq!((again.copied.chunks, again.copied.files), (0, 0));
    }
}

/// Goal: the copy of a line through three epochs is exact, where a chunk of a later epoch begins before its fork and
/// one branch is abandoned.
#[tokio::test]
async fn a_copy_follows_one_line_of_history() {
    let first = history(22, 20, Epoch(1));
    let second = go_on(&first[..12], 23, 10, Epoch(2));
    let third = go_on(&second, 24, 8, Epoch(3));
    let archived = Archived::new().await;
    archived.epoch(1, None).await;
    archived.chunks(1, &first, &[9, 11]).await;
    archived.remove_chunk(1, 10, 20).await;
    archived.epoch(2, Some((1, &first[11]))).await;
    archived.chunks(2, &second[9..], &[2, 11]).await;
    archived.epoch(3, Some((2, &second[21]))).await;
    archived.chunks(3, &third[22..], &[8]).await;
    for until in [1, 9, 10, 12, 13, 22, 23, 30] {
        let to = target();
        let report = copied(&archived.archive, &to, (None, until), None).await.unwrap();
        assert!(report.range.contains(Csn(until)), "{report:?}");
        assert_holds(&to, &third, report.range, None).await;
    }
    let to = target();
    let report = copied(&archived.archive, &to, (None, 9), Some(1)).await.unwrap();
    assert_eq!((report.epoch, report.range.until), (Epoch(1), Csn(9)));
    assert_holds(&to, &first, report.range, Some(Epoch(1))).await;
    // The rest of the other line is copied into the same target.
    let report = copied(&archived.archive, &to, (None, 30), None).await.unwrap();
    assert_eq!((report.epoch, report.present.chunks, report.copied.chunks), (Epoch(3), 1, 3));
    assert_holds(&to, &third, report.range, None).await;
}

/// Goal: objects that the target holds are not sent twice, and later commits are added.
#[tokio::test]
async fn a_copy_is_continued() {
    let (archived, commits) = one_line(target()).await;
    let (from, to) = (&archived.archive, Archive::over(Arc::new(InMemory::new()), "memory:///c".to_owned(), "", None));
    copied(from, &to, (None, 14), None).await.unwrap();
    let puts = |archive: &Archive| archive.traffic().bytes_sent.load(std::sync::atomic::Ordering::Relaxed);
    let before = puts(&to);
    let again = copied(from, &to, (None, 14), None).await.unwrap();
    assert_eq!((again.copied.chunks, again.copied.files, again.present.chunks), (0, 0, 3));
    // The target holds only the epoch's record, whose copying was refused.
    assert!(puts(&to) - before < 500);
    let more = copied(from, &to, (None, 30), None).await.unwrap();
    assert_eq!((more.copied.chunks, more.present.chunks, more.bases), (2, 3, 2));
    assert_holds(&to, &commits, more.range, None).await;
}

/// Goal: a copy that is interrupted at any request is either complete or not used by any restore; started again, it
/// becomes complete.
#[tokio::test]
async fn a_copy_cut_off_anywhere_goes_on() {
    let (archived, commits) = one_line(target()).await;
    let mut whole = false;
    for step in 0.. {
        let store = FaultStore::default();
        let to = Archive::over(Arc::new(store.clone()), "faults://".to_owned(), "", None);
        let hasty = to.with_retry_policy(RetryPolicy { attempts: 1, deadline: Duration::from_secs(5), ..QUICK });
        store.script_puts(std::iter::repeat_n(Fault::None, step).chain(std::iter::repeat_n(Fault::Fail, 1000)));
        let outcome = copied(&archived.archive, &hasty, (None, 30), None).await;
        store.heal();
        if outcome.is_err() && restored(&to, Target::Latest, None).await.is_ok() {
            // Only the probe of the claim, which is the last request, may be missing.
            assert_eq!(names(&to).await, names(&archived.archive).await, "step {step}");
        }
        let report = copied(&archived.archive, &to, (None, 30), None).await.unwrap();
        assert_eq!(report.present.chunks + report.copied.chunks, 5);
        assert_eq!(names(&to).await, names(&archived.archive).await, "step {step}");
        assert_holds(&to, &commits, CsnRange { from: Csn(30), until: Csn(30) }, None).await;
        if outcome.is_ok() {
            whole = true;
            break;
        }
    }
    assert!(whole);
}

/// Goal: damage in the source ends the copy and does not reach the target.
#[tokio::test]
async fn damage_is_not_copied() {
    let (archived, _) = one_line(target()).await;
    for name in archived.names().await {
        if matches!(name, ObjectName::Identity | ObjectName::Epoch(_)) {
            continue;
        }
        let content = archived.archive.get(&name).await.unwrap().expect("it was listed");
        archived.flip_byte(&name).await;
        let to = Archive::over(Arc::new(InMemory::new()), "memory:///c".to_owned(), "", None);
        let outcome = copied(&archived.archive, &to, (None, 30), None).await;
        match name {
            // The damaged base is passed over: the history is complete without it.
            ObjectName::BaseManifest(base) => {
                let report = outcome.unwrap();
                assert_eq!((report.bases, report.skipped.len()), (1, 1));
                assert_eq!(report.skipped[0].base, base);
            }
            _ => {
                let error = outcome.expect_err("damaged");
                assert_eq!(error.kind(), Kind::Integrity, "{name}: {error}");
                assert!(error.to_string().contains(&name.to_string()), "{name}: {error}");
            }
        }
        assert!(!names(&to).await.contains(&name.to_string()), "{name}");
        archived.archive.put_verified(&name, content).await.unwrap();
    }
}

/// Goal: archives of other clusters and archives with another history are not changed.
#[tokio::test]
async fn a_target_that_is_no_copy_is_refused() {
    let (archived, _) = one_line(target()).await;
    let fresh = || Archive::over(Arc::new(InMemory::new()), "memory:///c".to_owned(), "", None);
    let refused = async |to: &Archive, words: &str| {
        let before = names(to).await;
        let error = copied(&archived.archive, to, (None, 30), None).await.expect_err("refused");
        assert_eq!(error.kind(), Kind::Usage, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(names(to).await, before);
    };
    let to = fresh();
    identity::establish(&to, ClusterId([9; 16])).await.unwrap();
    refused(&to, "belongs to cluster 0909").await;

    let to = Archived::over(fresh()).await.archive;
    epochs::claim(&to, &EpochRecord::first(Epoch(1), "other".into(), CommitTime(5))).await.unwrap();
    refused(&to, "of node other,").await;

    // A primary has continued an earlier copy.
    let to = fresh();
    copied(&archived.archive, &to, (None, 30), None).await.unwrap();
    let next = EpochRecord::forked(Epoch(2), Epoch(1), (Csn(30), HistoryHash(7)), "restored".into(), CommitTime(5));
    epochs::claim(&to, &next).await.unwrap();
    refused(&to, "epoch 2 of node restored").await;

    let to = Archived::over(fresh()).await;
    let other = history(99, 6, Epoch(1));
    to.chunks(1, &other, &[6]).await;
    let error = copied(&archived.archive, &to.archive, (None, 30), None).await.expect_err("other commits");
    assert!(matches!(error, Error::Identity { .. }), "{error}");
    let name = ObjectName::Chunk(ChunkName { epoch: Epoch(1), first: Csn(1), last: Csn(6) });
    let found = to.archive.get(&name).await.unwrap().expect("still there");
    assert_ne!(Some(found), archived.archive.get(&name).await.unwrap());
}

/// Goal: a range with missing commits is refused with the range that is complete; a base after the missing commits
/// begins another range.
#[tokio::test]
async fn a_range_with_a_hole_is_refused() {
    let (archived, commits) = one_line(target()).await;
    archived.remove_chunk(1, 13, 18).await;
    let to = Archive::over(Arc::new(InMemory::new()), "memory:///c".to_owned(), "", None);
    let error = copied(&archived.archive, &to, (Some(3), 25), None).await.expect_err("a hole");
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.to_string().contains("21 to 30"), "{error}");
    assert!(names(&to).await.is_empty());
    let report = copied(&archived.archive, &to, (None, 25), None).await.unwrap();
    assert_eq!((report.range.from, report.range.until, report.bases), (Csn(21), Csn(30), 1));
    assert_holds(&to, &commits, report.range, None).await;
    let listing = crate::archive::listing::Listing::read(&archived.archive).await.unwrap();
    let lineage = crate::archive::lineage::Lineage::newest(&listing.epochs).unwrap();
    let incomplete = plan(&listing, &lineage, |usable| usable.base == base(9, 1), None, Csn(15));
    let asked = CsnRange { from: Csn(15), until: Csn(15) };
    assert_eq!(incomplete, Err(Incomplete { asked, possible: None }));
}

#[tokio::test]
async fn marks_go_along() {
    let (archived, _) = one_line(target()).await;
    let name = |text: &str| text.parse::<PlainName>().unwrap();
    for (text, csn) in [("early", 4), ("noon", 13)] {
        let record = MarkRecord::new(&name(text), Position { csn: Csn(csn), epoch: Epoch(1), ..Position::default() });
        marks::create(&archived.archive, &name(text), &record).await.unwrap();
    }
    let to = Archive::over(Arc::new(InMemory::new()), "memory:///c".to_owned(), "", None);
    assert_eq!(copied(&archived.archive, &to, (Some(10), 30), None).await.unwrap().marks, 1, "the one in the range");
    assert_eq!(copied(&archived.archive, &to, (Some(10), 30), None).await.unwrap().marks, 1);
    let there = marks::read(&to, &name("noon")).await.unwrap();
    assert_eq!(there, marks::read(&archived.archive, &name("noon")).await.unwrap());
    assert_eq!(marks::read(&to, &name("early")).await.unwrap(), None);
    assert_eq!(restored(&to, Target::Mark(name("noon")), None).await.unwrap().0.csn, Csn(13));
}
