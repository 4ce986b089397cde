//! Bases whose engines were cut at different commits: they are restored exactly, repaired, and compared with a model
//! together with strict bases, over stores that fail.

use super::support::{Archived, State, base, go_on, history};
use super::*;
use crate::archive::listing::{BaseStart, Listing};
use crate::archive::retry_policy::RetryPolicy;
use crate::archive::testing::faults::{EVERY_FAULT, Fault, FaultStore, QUICK};
use crate::config::{AppendFsync, Consistency};
use crate::history::line::read_manifest;
use crate::history::report::snapshots;
use crate::restore::repair::{Repair, Source, repair, unrepaired};
use crate::snapshot::manifest::Level;
use crate::snapshot::publish::Publisher;
use crate::snapshot::testing::{CLUSTER, Rig};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::time::Duration;

/// A history of 30 commits with a base at csn 18 whose keys in memory were cut at csn 12.
const OPEN: BaseStart = BaseStart { base: BaseName { csn: Csn(18), epoch: Epoch(1) }, after: Csn(12) };

/// Time after which a request that hangs is given up.
const DEADLINE: Duration = Duration::from_millis(200);

fn over(store: &FaultStore) -> Archive {
    Archive::over(Arc::new(store.clone()), "memory:///a".to_owned(), "a", None).with_retry_policy(QUICK)
}

async fn archived_over(store: &FaultStore, level: Level) -> (Archived, Vec<CommitRecord>) {
    let commits = history(21, 30, Epoch(1));
    let archived = Archived::over(over(store)).await;
    archived.epoch(1, None).await;
    archived.chunks(1, &commits, &[4, 8, 3, 3, 6, 6]).await;
    archived.base_as(&commits, 1, 12, 18, level).await;
    (archived, commits)
}

async fn assert_restorable(archived: &Archived, commits: &[CommitRecord], csn: u64) -> Report {
    let (report, state, _) = restored(&archived.archive, Target::At(Csn(csn)), None).await.unwrap();
    assert!(state == State::after(&commits[..csn as usize]), "csn {csn} from {:?}", report.plan.start());
    report
}

/// Goal: each engine replays from its own cut: after the later cut every commit is restored exactly from the base;
/// commits between the cuts are restored from other objects.
#[tokio::test]
async fn a_base_of_two_cuts_restores_exactly_beyond_both() {
    for level in [Level::Bounded, Level::Eventual] {
        let (archived, commits) = archived_over(&FaultStore::default(), level).await;
        archived.base(&commits, 1, 6, 6).await;
        for csn in 6..=30 {
            let report = assert_restorable(&archived, &commits, csn).await;
            let (start, after) = if csn < 18 { (base(6, 1), 6) } else { (base(18, 1), 12) };
            assert_eq!((report.plan.base(), report.plan.after()), (Some(start), Csn(after)), "csn {csn}");
            assert_eq!(report.commits, csn - after);
        }
        let report = verify_archive(&archived.archive, silent()).await.unwrap();
        assert!(report.is_whole() && report.bases == 2, "{report:?}");
    }
}

/// Goal: without the chunks between its cuts, such a base is no start, and the unreachable commits are reported.
#[tokio::test]
async fn a_base_of_two_cuts_needs_the_chunks_between_them() {
    let (archived, commits) = archived_over(&FaultStore::default(), Level::Eventual).await;
    archived.base(&commits, 1, 24, 24).await;
    archived.remove_chunk(1, 1, 4).await;
    let report = assert_restorable(&archived, &commits, 20).await;
    assert_eq!(report.plan.start(), Some(OPEN));
    archived.remove_chunk(1, 13, 15).await;
    let error = restored(&archived.archive, Target::At(Csn(20)), None).await.unwrap_err();
    assert!(error.to_string().contains("csn 24"), "{error}");
    assert_eq!(error.kind(), Kind::Unreachable);
    assert_restorable(&archived, &commits, 24).await;
}

/// Goal: a base with one cut beyond a fork belongs to another history.
#[tokio::test]
async fn a_base_of_two_cuts_beyond_a_fork_is_left_behind() {
    let (archived, commits) = archived_over(&FaultStore::default(), Level::Eventual).await;
    archived.epoch(2, Some((1, &commits[14]))).await;
    let second = go_on(&commits[..15], 22, 10, Epoch(2));
    archived.chunks(2, &second[15..], &[10]).await;
    for csn in [14, 15, 18, 25] {
        let report = assert_restorable(&archived, &second, csn).await;
        assert_eq!(report.plan.base(), None, "csn {csn}");
    }
    let (report, state, _) = restored(&archived.archive, Target::At(Csn(20)), Some(Epoch(1))).await.unwrap();
    assert_eq!((report.plan.start(), state), (Some(OPEN), State::after(&commits[..20])));
}

/// Goal: a repaired base is strict: it needs no chunks, and supersedes its earlier form.
#[tokio::test]
async fn a_repaired_base_needs_no_chunks() {
    let (archived, commits) = archived_over(&FaultStore::default(), Level::Eventual).await;
    assert_eq!(unrepaired(&archived.archive, CLUSTER, Epoch(1)).await.unwrap(), [OPEN]);
    let done = repair(&archived.archive, CLUSTER, OPEN, None).await.unwrap();
    assert!(matches!(done, Repair::Done { source: Source::Archive, .. }), "{done:?}");
    assert_eq!(unrepaired(&archived.archive, CLUSTER, Epoch(1)).await.unwrap(), []);
    assert_eq!(repair(&archived.archive, CLUSTER, OPEN, None).await.unwrap(), Repair::Whole);
    let manifest = read_manifest(&archived.archive, CLUSTER, BaseStart::whole(OPEN.base)).await.unwrap();
    let cut = manifest.cut.clone();
    assert_eq!((manifest.level, cut.asked, cut.skew_commits), (Level::Strict, Level::Eventual, 6));
    for (first, last) in [(1, 4), (5, 12), (13, 15), (16, 18)] {
        archived.remove_chunk(1, first, last).await;
    }
    for csn in 18..=30 {
        let report = assert_restorable(&archived, &commits, csn).await;
        assert_eq!(report.plan.start(), Some(BaseStart::whole(OPEN.base)));
    }
    let told = snapshots(&archived.archive).await.unwrap();
    assert_eq!((told.bases.len(), told.bases[0].after), (1, Csn(18)));
    assert!(verify_archive(&archived.archive, silent()).await.unwrap().is_whole());
}

/// Goal: a bounded base is as requested, so no node repairs it without being asked.
#[tokio::test]
async fn a_bounded_base_is_not_marked_for_repair() {
    let (archived, _) = archived_over(&FaultStore::default(), Level::Bounded).await;
    assert_eq!(unrepaired(&archived.archive, CLUSTER, Epoch(1)).await.unwrap(), []);
    let told = snapshots(&archived.archive).await.unwrap();
    assert_eq!((told.bases[0].after, told.bases[0].content.as_ref().unwrap().level), (Csn(12), Level::Bounded));
}

/// Goal: whichever request meets whichever fault, a repair leaves a base that restores as before, and the next repair
/// completes it.
#[tokio::test]
async fn every_request_of_a_repair_meets_every_fault() {
    let mut met = 0;
    for fault in EVERY_FAULT {
        for nth in 0.. {
            let store = FaultStore::default();
            let (archived, commits) = archived_over(&store, Level::Eventual).await;
            let archive = archived.archive.with_retry_policy(RetryPolicy { attempts: 1, deadline: DEADLINE, ..QUICK });
            store.fault_at(nth, fault);
            let outcome = repair(&archive, CLUSTER, OPEN, None).await;
            if nth >= store.requests() {
                break;
            }
            met += usize::from(store.is_met());
            store.heal();
            assert!(outcome.is_ok() || store.is_met(), "request {nth} meets {fault:?}: {outcome:?}");
            assert_restorable(&archived, &commits, 18).await;
            repair(&archive, CLUSTER, OPEN, None).await.unwrap();
            let report = assert_restorable(&archived, &commits, 18).await;
            assert_eq!(report.plan.chunks().count(), 0, "request {nth} meets {fault:?}");
            assert_eq!(unrepaired(&archive, CLUSTER, Epoch(1)).await.unwrap(), []);
            assert!(verify_archive(&archive, silent()).await.unwrap().is_whole());
        }
    }
    assert!(met > 50, "only {met} faults met a request");
}

/// Goal: two repairs at the same time produce one manifest, and the base is whole.
#[tokio::test]
async fn of_two_repairers_the_first_manifest_stays() {
    let (archived, commits) = archived_over(&FaultStore::default(), Level::Eventual).await;
    let both = futures::future::join(
        repair(&archived.archive, CLUSTER, OPEN, None),
        repair(&archived.archive, CLUSTER, OPEN, None),
    );
    let (first, second) = both.await;
    assert!(matches!(first.unwrap(), Repair::Done { .. }));
    second.unwrap();
    let report = assert_restorable(&archived, &commits, 18).await;
    assert_eq!(report.plan.chunks().count(), 0);
}

/// Goal: a digest that differs from the stored content is found, even if every file has the right hash.
#[tokio::test]
async fn a_wrong_digest_is_found_by_verify() {
    let (archived, _) = archived_over(&FaultStore::default(), Level::Eventual).await;
    let mut manifest = read_manifest(&archived.archive, CLUSTER, OPEN).await.unwrap();
    manifest.memory.digest = blake3::hash(b"other keys");
    archived.archive.put_verified(&OPEN.manifest(), manifest.encode().into()).await.unwrap();
    let report = verify_archive(&archived.archive, silent()).await.unwrap();
    let [problem] = &report.problems[..] else { panic!("{report:?}") };
    assert!(problem.what.contains("the number of elements and the digest are"), "{problem:?}");
}

/// Goal: for random histories with bases of all levels at random moments, commits between their cuts, failing uploads,
/// and interrupted repairs from logs and chunks, a restore from any base equals the model.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restores_from_bases_of_all_levels_equal_the_model() {
    let seed: u64 = std::env::var("WALFERRY_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("WALFERRY_SEED={seed}");
    for round in 0..4 {
        model_round(seed ^ round).await;
    }
}

async fn model_round(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let store = FaultStore::default();
    let archived = Archived::over(over(&store)).await;
    archived.epoch(1, None).await;
    let mut rig = Rig::new(AppendFsync::EverySec);
    let archive = archived.archive.with_retry_policy(RetryPolicy { attempts: 1, ..QUICK });
    let mut publisher = Publisher::new(archive.clone());
    let (mut chunked, mut starts) = (0, Vec::new());
    for _ in 0..random.random_range(6..10) {
        rig.write(random.random(), random.random_range(1..12));
        let consistency = match random.random_range(0..4) {
            0 => Consistency::Strict,
            1 => Consistency::Bounded(Duration::ZERO),
            2 => Consistency::Bounded(Duration::from_secs(3600)),
            _ => Consistency::Eventual,
        };
        let groups = random.random_range(0..6);
        let base = match rig.cut_around(consistency, random.random(), groups) {
            Ok(base) => base,
            Err(Error::InconsistentTiming { found, allowed }) => {
                assert!(found > allowed && consistency == Consistency::Bounded(allowed));
                assert!(!DataDir::new(rig.root.path()).base().exists(), "a refused base leaves nothing behind");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        chunk_new(&archived, &rig, &mut chunked, &mut random).await;
        let start = base.manifest().start();
        if random.random_bool(0.4) {
            // A store that keeps half of a manifest leaves damage that `verify` reports; the tests of publishing cover
            // that case.
            let fault = [Fault::Fail, Fault::LoseReply][random.random_range(0..2)];
            store.script_puts(std::iter::repeat_n(Fault::None, random.random_range(0..14)).chain([fault]));
        }
        let published = publisher.publish(base, async { Ok(()) }).await;
        store.heal();
        if matches!(published, Ok(Some(_))) {
            starts.push(start);
        }
    }
    chunk_new(&archived, &rig, &mut chunked, &mut random).await;
    let open: Vec<_> = starts.into_iter().filter(|start| !start.is_whole()).collect();
    repair_some(&store, &archive, &rig, open, &mut random).await;
    let commits = rig.commits();
    let listing = Listing::read(&archive).await.unwrap();
    let mut targets: Vec<u64> = listing.bases.keys().flat_map(|base| [base.csn.0, base.csn.0 + 1]).collect();
    targets.extend((0..6).map(|_| random.random_range(1..=commits.len() as u64)));
    for target in targets.into_iter().filter(|target| (1..=commits.len() as u64).contains(target)) {
        let dir = tempfile::tempdir().unwrap();
        let report = restore(&archive, options(dir.path(), Target::At(Csn(target)))).await.unwrap();
        assert!(report.plan.base().is_none_or(|base| base.csn <= Csn(target)));
        assert!(
            read_state(dir.path()).0 == State::after(&commits[..target as usize]),
            "csn {target} from {:?}, seed {seed}",
            report.plan.start()
        );
    }
    assert!(verify_archive(&archive, silent()).await.unwrap().is_whole());
}

/// Archives the commits since `chunked`, in one chunk or two.
async fn chunk_new(archived: &Archived, rig: &Rig, chunked: &mut usize, random: &mut StdRng) {
    let commits = rig.commits();
    let new = &commits[*chunked..];
    if new.is_empty() {
        return;
    }
    let first = random.random_range(1..=new.len());
    let sizes = [first, new.len() - first];
    let before = chunked.checked_sub(1).map_or(crate::csn::HistoryHash::ZERO, |last| commits[last].hash);
    archived.chunks_after(before, 1, new, if sizes[1] == 0 { &sizes[..1] } else { &sizes }).await;
    *chunked = commits.len();
}

/// Repairs about half of the bases from logs or chunks, some after an interrupted attempt.
async fn repair_some(store: &FaultStore, archive: &Archive, rig: &Rig, open: Vec<BaseStart>, random: &mut StdRng) {
    for start in open {
        if random.random_bool(0.5) {
            continue;
        }
        let logs = random.random_bool(0.5).then_some(&rig.committer);
        if random.random_bool(0.5) {
            store.script_puts(std::iter::repeat_n(Fault::None, random.random_range(0..2)).chain([Fault::Fail]));
            let _ = repair(archive, CLUSTER, start, logs).await;
            store.heal();
        }
        match repair(archive, CLUSTER, start, logs).await.unwrap() {
            Repair::Done { source, .. } => assert_eq!(source == Source::Logs, logs.is_some()),
            Repair::Whole => {}
        }
    }
}
