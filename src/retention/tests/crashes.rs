//! Prunes of a real archive in memory: with a crash at each step, with a reader, a second prune or a publisher at each
//! step, and by an identity that may not delete.

use crate::archive::layout::{ObjectName, RunName, Section};
use crate::archive::marks::{self, MarkRecord};
use crate::archive::pins::{self, Pin, PinRange};
use crate::archive::store::Archive;
use crate::archive::testing::faults::{Fault, FaultStore};
use crate::csn::{Csn, Epoch};
use crate::history::route::RouteCosts;
use crate::history::target::Target;
use crate::position::Position;
use crate::record::CommitRecord;
use crate::restore::tests::support::{Archived, State, base, go_on, history, read_state};
use crate::restore::{Options, progress, restore, verify_archive};
use crate::retention::{PruneOptions, PruneReport, prune};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

struct Case {
    store: FaultStore,
    archived: Archived,
    first: Vec<CommitRecord>,
    second: Vec<CommitRecord>,
}

/// Returns an archive with chunks from the first commit on, two epochs, a mark, and three bases: one lies on the
/// abandoned branch. A fourth base has a file and no manifest.
async fn case() -> Case {
    let store = FaultStore::default();
    let archived = Archived::over(Archived::around(Arc::new(store.clone())).archive).await;
    let first = history(41, 24, Epoch(1));
    let second = go_on(&first[..18], 42, 12, Epoch(2));
    archived.epoch(1, None).await;
    archived.epoch(2, Some((1, &first[17]))).await;
    archived.chunks(1, &first, &[4, 4, 4, 4, 4, 4]).await;
    archived.chunks(2, &second[18..], &[4, 4, 4]).await;
    archived.base(&first, 1, 6, 6).await;
    archived.base(&first, 1, 21, 21).await;
    archived.base(&second, 2, 24, 24).await;
    let stray = ObjectName::BaseFile(base(99, 2), "image".parse().unwrap());
    archived.archive.put_verified(&stray, vec![1; 10].into()).await.unwrap();
    let name = "release".parse().unwrap();
    let mark = MarkRecord::new(&name, Position::of(&first[10]));
    marks::create(&archived.archive, &name, &mark).await.unwrap();
    Case { store, archived, first, second }
}

fn options(confirm: bool) -> PruneOptions {
    PruneOptions { keep: "0s fine".parse().unwrap(), grace: Duration::ZERO, confirm, node: None }
}

async fn restored(archive: &Archive, target: Target, epoch: Option<Epoch>) -> crate::error::Result<State> {
    let dir = tempfile::tempdir().unwrap();
    let io = Arc::new(crate::io::StdIo);
    restore(
        archive,
        Options {
            dir: dir.path().to_owned(),
            target,
            epoch,
            costs: RouteCosts::DEFAULT,
            io,
            progress: progress::silent(),
        },
    )
    .await?;
    Ok(read_state(dir.path()).0)
}

impl Case {
    /// Returns a copy of the case with its own archive.
    fn fork(&self) -> Self {
        let store = self.store.fork();
        let archived = Archived::around(Arc::new(store.clone()));
        Self { store, archived, first: self.first.clone(), second: self.second.clone() }
    }

    fn archive(&self) -> &Archive {
        &self.archived.archive
    }

    async fn prune(&self) -> crate::error::Result<PruneReport> {
        // An object stored in the same microsecond would not be older than the grace period of zero.
        tokio::time::sleep(Duration::from_millis(1)).await;
        prune(self.archive(), &options(true)).await
    }

    /// Asserts that the mark, the newest base and everything after it can be restored.
    async fn assert_promised(&self, when: &str) {
        for csn in [24, 26, 30] {
            let state = restored(self.archive(), Target::At(Csn(csn)), None).await;
            assert_eq!(state.unwrap(), State::after(&self.second[..csn as usize]), "{when}: csn {csn}");
        }
        let mark = Target::Mark("release".parse().unwrap());
        assert_eq!(restored(self.archive(), mark, None).await.unwrap(), State::after(&self.first[..11]), "{when}");
        let report = verify_archive(self.archive(), progress::silent()).await.unwrap();
        assert_eq!((report.problems, report.gaps), (Vec::new(), Vec::new()), "{when}");
    }
}

/// Goal: a prune does what its dry run reported, and what remains is whole.
#[tokio::test]
async fn a_prune_does_what_its_dry_run_tells() {
    let case = case().await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    let told = prune(case.archive(), &options(false)).await.unwrap();
    assert_eq!((told.removed, told.is_confirmed), (0, false));
    let before = case.archived.names().await.len();
    let done = case.prune().await.unwrap();
    assert_eq!(done.removals, told.removals);
    assert_eq!((done.removed as usize, done.bytes_removed), (told.removals.len(), told.bytes_to_remove()));
    let names = case.archived.names().await;
    // The prune added one record: how far history is thinned.
    assert_eq!(names.len(), before - told.removals.len() + 1);
    assert!(!names.contains(&ObjectName::BaseManifest(base(21, 1))), "the branch that was left is gone");
    assert!(names.contains(&ObjectName::BaseManifest(base(6, 1))), "the mark needs it");
    assert!(names.contains(&ObjectName::Epoch(Epoch(1))), "epoch records stay");
    let leads_to_the_mark = |name: &ObjectName| matches!(name, ObjectName::Chunk(chunk) if chunk.epoch == Epoch(1));
    assert_eq!(names.iter().filter(|name| leads_to_the_mark(name)).count(), 2, "5 to 8 and 9 to 12");
    case.assert_promised("pruned").await;
    let again = case.prune().await.unwrap();
    assert_eq!((again.removals.len(), again.removed), (0, 0));
    assert!(restored(case.archive(), Target::At(Csn(20)), None).await.is_err());
}

/// Goal: a base and a run whose manifest was cut off during its upload count as unfinished: no damage, but removable.
#[tokio::test]
async fn what_was_cut_off_is_swept() {
    let case = case().await;
    case.prune().await.unwrap();
    let before = case.archived.names().await;
    let run = RunName { first: Csn(25), last: Csn(26), epoch: Epoch(2) };
    let file = || "memory-0.image".parse().unwrap();
    for (name, body) in [
        (ObjectName::RunManifest(run), "{\n  \"cluster\": \"00"),
        (ObjectName::RunFile(run, file()), "an image"),
        (ObjectName::BaseManifest(base(26, 2)), "{\n  \"comp"),
        (ObjectName::BaseFile(base(26, 2), file()), "an image"),
    ] {
        case.archive().put_verified(&name, body.into()).await.unwrap();
    }
    case.assert_promised("cut off").await;
    let report = verify_archive(case.archive(), progress::silent()).await.unwrap();
    assert_eq!((report.bases_unfinished, report.runs_unfinished, report.remarks.len()), (1, 1, 2));
    let pruned = case.prune().await.unwrap();
    assert_eq!(pruned.removed, 4, "{:?}", pruned.removals);
    assert_eq!(case.archived.names().await, before);
    case.assert_promised("swept").await;
}

/// Goal: after a crash before or after any removal, every promise can be restored, and the next prune finishes.
#[tokio::test]
async fn a_crash_at_each_removal_loses_nothing() {
    let whole = case().await;
    let removals = prune(whole.archive(), &options(false)).await.unwrap().removals.len();
    assert!(removals > 10);
    for fault in [Fault::Fail, Fault::LoseReply] {
        for step in 0..removals {
            let case = whole.fork();
            case.store.script_deletes(std::iter::repeat_n(Fault::None, step).chain([fault]));
            let error = case.prune().await.unwrap_err().to_string();
            assert!(error.contains("injected"), "{error}");
            case.store.heal();
            // Restores at every step would take long, so every eighth step stands for the others.
            if step % 8 == 0 {
                case.assert_promised(&format!("{fault:?} at removal {step}")).await;
            }
            case.prune().await.unwrap();
            assert_eq!(case.prune().await.unwrap().removals, [], "{fault:?} at removal {step}");
            if step + 1 == removals {
                case.assert_promised(&format!("{fault:?} at removal {step}, ended")).await;
            }
        }
    }
}

/// Goal: at any removal of a prune, a second prune can run to its end, and every promise can be restored.
#[tokio::test]
async fn two_prunes_and_a_restore_at_once() {
    let whole = case().await;
    let removals = prune(whole.archive(), &options(false)).await.unwrap().removals.len();
    for step in (0..removals).step_by(4) {
        let case = Arc::new(whole.fork());
        case.store.hold_delete(step);
        let first = {
            let case = Arc::clone(&case);
            tokio::spawn(async move { case.prune().await })
        };
        case.store.delete_held().await;
        if step % 8 == 0 {
            case.prune().await.unwrap();
        }
        let state = restored(case.archive(), Target::Latest, None).await.unwrap();
        assert_eq!(state, State::after(&case.second), "step {step}");
        case.store.let_delete_go();
        let report = first.await.unwrap().unwrap();
        assert_eq!(report.removed as usize, removals, "what is gone already counts as removed");
        assert_eq!(case.prune().await.unwrap().removals, [], "step {step}");
        case.assert_promised(&format!("step {step}")).await;
    }
}

/// Goal: what a pin names stays until the pin is released.
#[tokio::test]
async fn a_pin_before_the_prune_keeps_what_it_names() {
    let case = case().await;
    let range = PinRange { from: Csn(6), until: Csn(22), epoch: Some(Epoch(1)) };
    let pin = Pin::take(case.archive(), "restore", range).await.unwrap();
    case.prune().await.unwrap();
    for csn in [6, 14, 21, 22] {
        let state = restored(case.archive(), Target::At(Csn(csn)), Some(Epoch(1))).await.unwrap();
        assert_eq!(state, State::after(&case.first[..csn as usize]), "csn {csn}");
    }
    pin.release().await;
    case.prune().await.unwrap();
    assert!(restored(case.archive(), Target::At(Csn(22)), Some(Epoch(1))).await.is_err());
    case.assert_promised("unpinned").await;
}

/// Goal: an identity that may not delete removes nothing, reports so, and learns it with one request.
#[tokio::test]
async fn an_identity_that_may_not_delete_only_reports() {
    let case = case().await;
    let names = case.archived.names().await;
    case.store.script_deletes([Fault::Deny]);
    let deletes = case.archive().traffic().deletes.load(Ordering::Relaxed);
    let report = case.prune().await.unwrap();
    assert_eq!(report.removed, 0);
    assert!(report.denied.as_ref().is_some_and(|why| why.contains("may not delete")), "{:?}", report.denied);
    // The prune tried to delete one object and its own pin.
    assert_eq!(case.archive().traffic().deletes.load(Ordering::Relaxed) - deletes, 2);
    let left = case.archived.names().await;
    assert!(names.iter().all(|name| left.contains(name)));
    case.store.set_read_only();
    let report = case.prune().await.unwrap();
    assert!(report.denied.is_some_and(|why| why.contains("may not write")) && report.removals.len() > 10);
    case.assert_promised("denied").await;
    assert!(pins::list(case.archive()).await.unwrap().is_empty());
    assert_eq!(case.archive().list(Section::Marks).await.unwrap().objects.len(), 1);
}
