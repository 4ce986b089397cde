//! Readers and an object store that lies: with every fault at every request of a restore, of a verification and of a
//! replica's catch-up, the result is either right or an error of a kind that tells the caller what to do.

use super::support::{Archived, State, history, read_state};
use super::*;
use crate::archive::retry_policy::RetryPolicy;
use crate::archive::testing::faults::{EVERY_FAULT, Fault, FaultStore, QUICK};
use crate::error::Kind;
use crate::history::catch_up::CatchUp;
use crate::record::CommitRecord;
use progress::silent;
use std::time::Duration;

const COMMITS: u64 = 14;
/// Number of commits of each chunk; the last chunk is the object stored last.
const SIZES: [usize; 4] = [3, 4, 5, 2];
/// Csn of the newest base; chunks follow it.
const BASE: u64 = 9;
/// Number of the verification's request for the epoch after the newest; the denial of a missing object is no lie.
const NEXT_EPOCH: usize = 3;
/// Time after which a request that hangs is given up.
const DEADLINE: Duration = Duration::from_millis(200);

struct Fixture {
    store: FaultStore,
    archive: Archive,
    commits: Vec<CommitRecord>,
}

impl Fixture {
    async fn new() -> Self {
        let store = FaultStore::default();
        let archive =
            Archive::over(Arc::new(store.clone()), "faults:///a".to_owned(), "a", None).with_retry_policy(QUICK);
        let archived = Archived::over(archive.clone()).await;
        let commits = history(31, COMMITS, Epoch(1));
        archived.epoch(1, None).await;
        archived.base(&commits, 1, BASE - 2, BASE).await;
        archived.chunks(1, &commits, &SIZES).await;
        let archive = archive.with_retry_policy(RetryPolicy { attempts: 1, deadline: DEADLINE, ..QUICK });
        Self { store, archive, commits }
    }

    /// Returns the last csn that a reader sees if the store hides the objects stored last.
    fn end_without(&self, newest: usize) -> u64 {
        let hidden: usize = SIZES.iter().rev().take(newest).sum();
        COMMITS - hidden as u64
    }
}

/// Goal: a restore through a lying store ends exactly at the csn that it reports and holds exactly those commits, or
/// fails and leaves a directory that cannot be opened. The restore ends early only if the store omits the newest chunks
/// from its listing, which no other object in the archive can contradict.
#[tokio::test]
async fn every_request_of_a_restore_meets_every_fault() {
    let fixture = Fixture::new().await;
    let mut met = 0;
    for fault in EVERY_FAULT {
        for nth in 0.. {
            fixture.store.fault_at(nth, fault);
            let dir = tempfile::tempdir().unwrap();
            let outcome = restore(&fixture.archive, options(dir.path(), Target::Latest)).await;
            let is_met = fixture.store.is_met();
            met += usize::from(is_met);
            if nth >= fixture.store.requests() {
                break;
            }
            let told = format!("request {nth} meets {fault:?}");
            match outcome {
                Ok(report) => {
                    let (state, position) = read_state(dir.path());
                    assert_eq!(position.csn, report.csn, "{told}");
                    assert!(state == State::after(&fixture.commits[..report.csn.0 as usize]), "{told}: a wrong state");
                    let end = match fault {
                        // The restore's pin is the object stored last.
                        Fault::Stale(newest) if is_met => fixture.end_without(newest - 1),
                        _ => COMMITS,
                    };
                    assert_eq!(report.csn, Csn(end), "{told}: silently shorter");
                }
                Err(error) => assert_told(&error, dir.path(), &told),
            }
        }
    }
    assert!(met > 60, "only {met} faults met a request");
}

fn assert_told(error: &Error, dir: &Path, told: &str) {
    // If the store denies walferry.json, there is no archive.
    let is_clear = matches!(error.kind(), Kind::Integrity | Kind::Store | Kind::Unreachable)
        || matches!(error, Error::Identity { detail, .. } if detail.contains("walferry.json"));
    assert!(is_clear, "{told}: {error}");
    let dir = DataDir::new(dir);
    assert!(dir.is_empty().unwrap() || dir.identity().is_err(), "{told}: a directory that can be opened");
}

/// Goal: a verification through a lying store never reports the archive as whole on false evidence; its report about an
/// archive that it read correctly is right.
#[tokio::test]
async fn every_request_of_a_verification_meets_every_fault() {
    let fixture = Fixture::new().await;
    for fault in EVERY_FAULT {
        for nth in 0.. {
            fixture.store.fault_at(nth, fault);
            let outcome = verify_archive(&fixture.archive, silent()).await;
            if nth >= fixture.store.requests() {
                break;
            }
            let is_harmless = !fixture.store.is_met() || fault == Fault::Slow || nth == NEXT_EPOCH;
            match outcome {
                Ok(report) => assert!(
                    report.is_whole() == is_harmless || matches!(fault, Fault::Stale(_)),
                    "request {nth} meets {fault:?}: {report:?}"
                ),
                Err(error) => {
                    assert!(fixture.store.is_met(), "request {nth} does not meet {fault:?}: {error}");
                    let is_clear = matches!(error.kind(), Kind::Integrity | Kind::Store | Kind::Usage);
                    assert!(is_clear, "request {nth} meets {fault:?}: {error}");
                }
            }
        }
    }
}

/// Goal: a replica always receives the next commits of its history, never others and never with a gap.
#[tokio::test]
async fn every_request_of_a_catch_up_meets_every_fault() {
    let fixture = Fixture::new().await;
    for fault in EVERY_FAULT {
        for nth in 0.. {
            fixture.store.fault_at(nth, fault);
            let mut found = Vec::new();
            let outcome = catch_up(&fixture.archive, &mut found).await;
            assert_eq!(found, fixture.commits[..found.len()], "request {nth} meets {fault:?}");
            let is_short = found.len() < fixture.commits.len();
            let may_be = outcome.is_err() || matches!(fault, Fault::Stale(_));
            assert!(!is_short || may_be, "request {nth} meets {fault:?}: silently shorter");
            if nth >= fixture.store.requests() {
                break;
            }
        }
    }
}

async fn catch_up(archive: &Archive, found: &mut Vec<CommitRecord>) -> Result<()> {
    let history = History::read(archive, None).await?;
    let mut stream = CatchUp::of(&history, Csn::ZERO).await?;
    while let Some(part) = stream.next().await? {
        found.extend(part.iter().cloned());
    }
    Ok(())
}

/// Goal: a listing without the newest epoch is not trusted, because it would select another line of history.
#[tokio::test]
async fn a_listing_that_misses_an_epoch_is_not_followed() {
    let store = FaultStore::default();
    let archive = Archive::over(Arc::new(store.clone()), "faults:///a".to_owned(), "a", None).with_retry_policy(QUICK);
    let archived = Archived::over(archive.clone()).await;
    let commits = history(32, 9, Epoch(1));
    archived.epoch(1, None).await;
    archived.chunks(1, &commits, &[4, 5]).await;
    archived.epoch(2, Some((1, &commits[5]))).await;
    let dir = tempfile::tempdir().unwrap();
    // The confirmation of the restore's pin, walferry.json, and the listing; the pin is the object stored last.
    store.script_gets([Fault::None, Fault::None, Fault::Stale(2)]);
    let report = restore(&archive, options(dir.path(), Target::Latest)).await.unwrap();
    assert_eq!((report.csn, report.plan.leaf), (Csn(6), Epoch(2)), "the listing was asked for again");

    let archive = archive.with_retry_policy(RetryPolicy { attempts: 1, ..QUICK });
    let dir = tempfile::tempdir().unwrap();
    // The same requests; the pin of the earlier restore was also stored later than the epoch.
    store.script_gets([Fault::None, Fault::None, Fault::Stale(3)]);
    let error = restore(&archive, options(dir.path(), Target::Latest)).await.expect_err("the wrong line of history");
    assert!(matches!(&error, Error::StoreContract { detail, .. } if detail.contains("stale")), "{error}");
}

/// Goal: a torn chunk does not count for the writer that takes over, and its commits are not skipped; a reader reports
/// it as damage.
#[tokio::test]
async fn a_torn_chunk_does_not_count_for_a_successor() {
    let store = FaultStore::default();
    let archive = Archive::over(Arc::new(store.clone()), "faults:///a".to_owned(), "a", None).with_retry_policy(QUICK);
    let archived = Archived::over(archive.clone()).await;
    let commits = history(34, 9, Epoch(1));
    archived.epoch(1, None).await;
    archived.chunks(1, &commits, &[4, 3, 2]).await;
    let history = History::read(&archive, None).await.unwrap();
    assert_eq!(CatchUp::open(&archive, &history.lineage, Csn(2)).await.unwrap().until(), Csn(9));
    let last = ObjectName::Chunk(ChunkName { epoch: Epoch(1), first: Csn(8), last: Csn(9) });
    let whole = archive.get(&last).await.unwrap().unwrap();
    for length in [0, 1, whole.len() / 2, whole.len() - 1] {
        archive.put_verified(&last, whole.slice(..length)).await.unwrap();
        let stream = CatchUp::open(&archive, &history.lineage, Csn(2)).await.unwrap();
        assert_eq!(stream.until(), Csn(7), "{length} of {} bytes", whole.len());
        let dir = tempfile::tempdir().unwrap();
        let error = restore(&archive, options(dir.path(), Target::Latest)).await.expect_err("torn");
        assert_eq!(error.kind(), Kind::Integrity, "{error}");
    }
}

/// Goal: an unusable base still proves that its commits exist: "latest" does not silently mean "before that base".
#[tokio::test]
async fn latest_is_refused_where_only_an_unusable_base_reaches() {
    let store = FaultStore::default();
    let archive = Archive::over(Arc::new(store.clone()), "faults:///a".to_owned(), "a", None).with_retry_policy(QUICK);
    let archived = Archived::over(archive.clone()).await;
    let commits = history(33, 9, Epoch(1));
    archived.epoch(1, None).await;
    archived.chunks(1, &commits[..7], &[4, 3]).await;
    archived.base(&commits, 1, 9, 9).await;
    let manifest = ObjectName::BaseManifest(base(9, 1));
    archived.flip_byte(&manifest).await;
    let dir = tempfile::tempdir().unwrap();
    let error = restore(&archive, options(dir.path(), Target::Latest)).await.expect_err("commits 8 and 9 are known");
    assert!(matches!(&error, Error::Unreachable { nearest, .. } if nearest.contains("csn:7")), "{error}");
    let (report, state, _) = restored(&archive, Target::At(Csn(7)), None).await.unwrap();
    assert_eq!((report.csn, state), (Csn(7), State::after(&commits[..7])));
}
