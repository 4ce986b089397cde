//! Restores during prunes: pins, objects that vanish, identities without the permission to write.

use super::support::{Archived, State, base, history};
use super::{options, restored};
use crate::archive::layout::{ObjectName, Section};
use crate::archive::marks::{self, MarkRecord};
use crate::archive::pins;
use crate::archive::testing::faults::{Fault, FaultStore};
use crate::csn::{Csn, Epoch};
use crate::error::Error;
use crate::history::catch_up::CatchUp;
use crate::history::line::History;
use crate::history::target::Target;
use crate::position::Position;
use crate::restore::restore;
use std::sync::Arc;

async fn archived(store: &FaultStore) -> (Archived, Vec<crate::record::CommitRecord>) {
    let commits = history(31, 24, Epoch(1));
    let archived = Archived::over(Archived::around(Arc::new(store.clone())).archive).await;
    archived.epoch(1, None).await;
    archived.chunks(1, &commits, &[6, 6, 6, 6]).await;
    archived.base(&commits, 1, 9, 9).await;
    (archived, commits)
}

/// Goal: whichever GET reports a missing object, the restore plans again and ends at the same commit.
#[tokio::test]
async fn an_object_that_vanishes_is_planned_around() {
    let store = FaultStore::default();
    let (archived, commits) = archived(&store).await;
    let gets = archived.gets();
    restored(&archived.archive, Target::Latest, None).await.unwrap();
    let gets = archived.gets() - gets;
    let mut replanned = 0;
    for step in 0..gets + 4 {
        store.script_gets(std::iter::repeat_n(Fault::None, step as usize).chain([Fault::Vanish]));
        let outcome = restored(&archived.archive, Target::Latest, None).await;
        store.heal();
        match outcome {
            Ok((report, state, _)) => {
                assert_eq!((report.csn, state), (Csn(24), State::after(&commits)), "step {step}");
                replanned += u64::from(report.replans == 1);
            }
            // The archive's own records and the confirmation of a pin: every plan needs them.
            Err(error) => assert!(!matches!(error, Error::Vanished { .. }), "step {step}: {error}"),
        }
        assert!(archived.archive.list(Section::Pins).await.unwrap().objects.is_empty(), "the pin is released");
    }
    assert!(replanned > 5, "manifest, files and chunks: {replanned}");
}

/// Goal: an object that stays missing causes one clear error, and the directory is never opened.
#[tokio::test]
async fn an_object_that_stays_away_is_an_error_that_names_it() {
    let store = FaultStore::default();
    let (archived, _) = archived(&store).await;
    let image = archived.base_file(base(9, 1), "memory").await;
    archived.archive.delete(&image).await.unwrap();
    let error = restored(&archived.archive, Target::Latest, None).await.unwrap_err();
    assert!(matches!(&error, Error::Vanished { what } if what.ends_with(&image.to_string())), "{error}");
    let (report, _, _) = restored(&archived.archive, Target::At(Csn(8)), None).await.unwrap();
    assert_eq!((report.replans, report.remarks.len()), (0, 0));
}

/// Goal: an identity without the permission to write can restore, and the report states the consequence.
#[tokio::test]
async fn a_reader_that_may_not_write_goes_on_with_a_remark() {
    let store = FaultStore::default();
    let (archived, commits) = archived(&store).await;
    store.set_read_only();
    let dir = tempfile::tempdir().unwrap();
    let report = restore(&archived.archive, options(dir.path(), Target::At(Csn(20)))).await.unwrap();
    assert!(report.remarks[0].contains("no pin"), "{:?}", report.remarks);
    assert_eq!(report.time, commits[19].time);
}

/// Goal: while a replica catches up, a pin exists and names the range that is read; the pin is removed at the end.
#[tokio::test]
async fn catching_up_is_pinned() {
    let store = FaultStore::default();
    let (archived, _) = archived(&store).await;
    let lineage = History::read(&archived.archive, None).await.unwrap().lineage;
    let mut commits = CatchUp::open(&archived.archive, &lineage, Csn(10)).await.unwrap();
    let pins = pins::list(&archived.archive).await.unwrap();
    let record = pins[0].record.as_ref().unwrap();
    assert_eq!((record.purpose.as_str(), record.range.from, record.range.until), ("catch-up", Csn(10), Csn(24)));
    while commits.next().await.unwrap().is_some() {}
    assert!(pins::list(&archived.archive).await.unwrap().is_empty());
    drop(CatchUp::open(&archived.archive, &lineage, Csn(24)).await.unwrap());
    assert!(pins::list(&archived.archive).await.unwrap().is_empty(), "nothing to read, nothing to pin");
}

/// Goal: a mark is restored by name; the error about a mark on an abandoned branch names the epoch to request.
#[tokio::test]
async fn marks_are_restored_by_name() {
    let archived = Archived::new().await;
    let first = history(32, 20, Epoch(1));
    let second = super::support::go_on(&first[..12], 33, 8, Epoch(2));
    archived.epoch(1, None).await;
    archived.epoch(2, Some((1, &first[11]))).await;
    archived.chunks(1, &first, &[10, 10]).await;
    archived.chunks(2, &second[12..], &[8]).await;
    for (name, csn, epoch) in [("shared", 7, 1), ("left", 15, 1), ("new", 15, 2)] {
        let name = name.parse().unwrap();
        let record = MarkRecord::new(&name, Position { epoch: Epoch(epoch), ..Position::of(&first[csn as usize - 1]) });
        assert_eq!(marks::create(&archived.archive, &name, &record).await.unwrap(), marks::MarkCreation::There);
        assert_eq!(marks::create(&archived.archive, &name, &record).await.unwrap(), marks::MarkCreation::There);
        let other = MarkRecord { csn: Csn(1), ..record.clone() };
        let taken = marks::create(&archived.archive, &name, &other).await.unwrap();
        assert_eq!(taken, marks::MarkCreation::Taken(record));
    }
    let mark = |name: &str| Target::Mark(name.parse().unwrap());
    let to = |name: &'static str, epoch| {
        let archive = archived.archive.clone();
        async move { restored(&archive, mark(name), epoch).await }
    };
    assert_eq!(to("shared", None).await.unwrap().1, State::after(&first[..7]));
    assert_eq!(to("new", None).await.unwrap().1, State::after(&second[..15]));
    let error = to("left", None).await.unwrap_err().to_string();
    assert!(error.contains("--epoch 1") && error.contains("csn 15"), "{error}");
    assert_eq!(to("left", Some(Epoch(1))).await.unwrap().1, State::after(&first[..15]));
    let error = to("other", None).await.unwrap_err().to_string();
    assert!(error.contains("left, new, shared"), "{error}");
    archived.flip_byte(&ObjectName::Mark("new".parse().unwrap())).await;
    assert!(to("new", None).await.is_err());
}
