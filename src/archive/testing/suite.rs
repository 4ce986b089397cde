//! Test support: one suite of the archive's guarantees, run over every kind of store, and tests of the effect of each
//! fault.

use super::super::config::{ArchiveUrl, S3Settings};
use super::super::crypt::KeyRing;
use super::super::epochs::{self, Claim, EpochRecord};
use super::super::identity::{self, ClusterId};
use super::super::layout::{BaseName, ChunkName, ObjectName, Section};
use super::super::lineage::Lineage;
use super::super::listing::Listing;
use super::super::part::PART_BYTES;
use super::super::put::SINGLE_PUT_BYTES_MAX;
use super::super::retry_policy::RetryPolicy;
use super::super::starts;
use super::super::store::{Archive, Creation, Opening};
use super::faults::{Fault, FaultStore, QUICK};
use super::weed::Weed;
use crate::csn::{CommitTime, Csn, Epoch, HistoryHash};
use crate::error::{Error, Kind};
use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub(super) fn chunk(epoch: u32, first: u64, last: u64) -> ObjectName {
    ObjectName::Chunk(ChunkName { epoch: Epoch(epoch), first: Csn(first), last: Csn(last) })
}

fn mark(name: &str) -> ObjectName {
    ObjectName::Mark(name.parse().expect("a plain name"))
}

/// Returns bytes without repetition, so that a misplaced part shows.
fn noise(len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// Checks every guarantee of the archive, on an empty archive.
pub(super) async fn archive_suite(archive: &Archive) {
    objects_are_stored_and_found(archive).await;
    large_objects_go_in_parts(archive).await;
    the_archive_has_one_owner(archive).await;
    an_epoch_is_claimed_once(archive).await;
    of_many_claimers_one_wins(archive).await;
    the_listing_shows_everything(archive).await;
}

async fn objects_are_stored_and_found(archive: &Archive) {
    let name = mark("first");
    assert_eq!(archive.get(&name).await.expect("get"), None);
    assert_eq!(archive.head(&name).await.expect("head"), None);
    assert_eq!(archive.get_range(&name, 0..1).await.expect("range"), None);
    archive.delete(&name).await.expect("deleting nothing");
    assert!(archive.list(Section::All).await.expect("list").objects.is_empty());

    archive.put_verified(&name, Bytes::from_static(b"one")).await.expect("put");
    archive.put_verified(&name, Bytes::from_static(b"three")).await.expect("overwrite");
    assert_eq!(archive.get(&name).await.expect("get").as_deref(), Some(b"three".as_slice()));
    assert_eq!(archive.head(&name).await.expect("head"), Some(5));
    assert_eq!(archive.get_range(&name, 1..3).await.expect("range").as_deref(), Some(b"hr".as_slice()));
    assert!(archive.get_range(&name, 3..9).await.is_err(), "a range beyond the end");

    let other = mark("second");
    assert_eq!(archive.put_new(&other, Bytes::from_static(b"mine")).await.expect("create"), Creation::Created);
    assert_eq!(archive.put_new(&other, Bytes::from_static(b"theirs")).await.expect("create"), Creation::Exists);
    assert_eq!(archive.get(&other).await.expect("get").as_deref(), Some(b"mine".as_slice()));

    let empty = mark("empty");
    archive.put_verified(&empty, Bytes::new()).await.expect("put nothing");
    assert_eq!(archive.get(&empty).await.expect("get"), Some(Bytes::new()));

    for name in [name, other, empty] {
        archive.delete(&name).await.expect("delete");
        assert_eq!(archive.get(&name).await.expect("get"), None);
    }
}

async fn large_objects_go_in_parts(archive: &Archive) {
    let body = noise((SINGLE_PUT_BYTES_MAX + PART_BYTES / 2) as usize + 1);
    let name = ObjectName::Sst(blake3::hash(&body));
    let puts = archive.traffic().puts.load(Ordering::Relaxed);
    archive.put_verified(&name, body.clone()).await.expect("put");
    assert!(archive.traffic().puts.load(Ordering::Relaxed) >= puts + 3, "three parts");
    assert_eq!(archive.get(&name).await.expect("get").expect("there"), body);
    let (from, to) = (PART_BYTES - 3, PART_BYTES + 3);
    let middle = archive.get_range(&name, from..to).await.expect("range").expect("there");
    assert_eq!(middle, body.slice(from as usize..to as usize));
    archive.delete(&name).await.expect("delete");

    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("image");
    std::fs::write(&path, &body).expect("write");
    assert_eq!(archive.put_file_verified(&name, &path).await.expect("put file"), body.len() as u64);
    assert_eq!(archive.get(&name).await.expect("get").expect("there"), body);
    archive.delete(&name).await.expect("delete");
}

async fn the_archive_has_one_owner(archive: &Archive) {
    let (own, other) = (ClusterId::generate().expect("random"), ClusterId::generate().expect("random"));
    assert_ne!(own, other);
    assert!(matches!(identity::require(archive).await, Err(Error::Identity { .. })));
    identity::establish(archive, own).await.expect("establish");
    identity::establish(archive, own).await.expect("establish again");
    assert_eq!(identity::require(archive).await.expect("read"), own);
    let refused = identity::establish(archive, other).await.expect_err("another cluster").to_string();
    assert!(refused.contains(&own.to_string()) && refused.contains(&other.to_string()), "{refused}");
}

fn record(epoch: u32, node: &str) -> EpochRecord {
    EpochRecord::first(Epoch(epoch), node.to_owned(), CommitTime(1))
}

async fn an_epoch_is_claimed_once(archive: &Archive) {
    let first = record(1, "a");
    starts::check_fence(archive, Epoch(0), 1).await.expect("no epoch yet");
    assert_eq!(epochs::claim(archive, &first).await.expect("claim"), Claim::Claimed);
    assert_eq!(epochs::claim(archive, &first).await.expect("claim again"), Claim::AlreadyMine);
    starts::check_fence(archive, Epoch(1), 1).await.expect("not fenced");
    let second = EpochRecord::forked(Epoch(2), Epoch(1), (Csn(10), HistoryHash(10)), "b".to_owned(), CommitTime(2));
    assert_eq!(epochs::claim(archive, &second).await.expect("claim"), Claim::Claimed);
    let late = EpochRecord { node: "c".to_owned(), ..second.clone() };
    assert_eq!(epochs::claim(archive, &late).await.expect("claim"), Claim::Taken(second.clone()));
    let fenced = starts::check_fence(archive, Epoch(1), 1).await.expect_err("fenced");
    assert!(matches!(&fenced, Error::Fenced { newer: Epoch(2), node, .. } if node == "b"), "{fenced}");
    assert_eq!(fenced.kind(), Kind::Fenced);
}

async fn of_many_claimers_one_wins(archive: &Archive) {
    const RACES: u32 = 5;
    for race in 0..RACES {
        let epoch = Epoch(1000 + race);
        let claims = (0..8).map(|node| async move {
            let record = EpochRecord { epoch, ..record(1, &format!("node {node}")) };
            epochs::claim(archive, &record).await.expect("claim")
        });
        let claims = futures::future::join_all(claims).await;
        let won = claims.iter().filter(|claim| **claim == Claim::Claimed).count();
        assert_eq!(won, 1, "{claims:?}");
        let winner = epochs::read_record(archive, epoch).await.expect("read").expect("there");
        assert_eq!(claims.iter().filter(|claim| **claim == Claim::Taken(winner.clone())).count(), 7, "{claims:?}");
        archive.delete(&ObjectName::Epoch(epoch)).await.expect("delete");
    }
}

/// Builds on the epochs claimed before: epoch 1, and epoch 2, which forks from it at csn 10.
async fn the_listing_shows_everything(archive: &Archive) {
    let whole = BaseName { csn: Csn(5), epoch: Epoch(1) };
    let half = BaseName { csn: Csn(9), epoch: Epoch(1) };
    let file = |base| ObjectName::BaseFile(base, "lists.img".parse().expect("a plain name"));
    let sst = blake3::hash(b"sst");
    let names = [
        chunk(1, 1, 6),
        chunk(1, 7, 12),
        chunk(2, 11, 20),
        file(whole),
        ObjectName::BaseManifest(whole),
        file(half),
        ObjectName::Sst(sst),
        mark("noon"),
    ];
    for name in &names {
        archive.put_verified(name, Bytes::from_static(b"content")).await.expect("put");
    }
    let foreign = archive.location(&mark("x")).expect("location").to_string().replace("marks/x.json", "marks/x.txt");
    let foreign = object_store::path::Path::from(foreign);
    archive.store().put(&foreign, Bytes::from_static(b"foreign").into()).await.expect("put foreign");

    let listing = Listing::read(archive).await.expect("listing");
    assert_eq!(listing.foreign, 1);
    assert_eq!(listing.epochs.newest().map(|newest| newest.epoch), Some(Epoch(2)));
    assert_eq!(listing.chunks.len(), 3);
    assert!(listing.chunks.values().all(|stored| stored.size == 7));
    assert_eq!(listing.bases.len(), 2);
    assert_eq!(listing.whole_bases().collect::<Vec<_>>(), [whole]);
    assert!(listing.ssts.contains_key(sst.to_hex().as_str()));
    assert_eq!(listing.marks.keys().map(ToString::to_string).collect::<Vec<_>>(), ["noon"]);
    let lineage = Lineage::newest(&listing.epochs).expect("lineage");
    let coverage = lineage.cover(listing.chunks.keys().copied(), Csn::ZERO);
    assert_eq!((coverage.reachable(Csn::ZERO), coverage.uses.len(), coverage.gaps.len()), (Csn(20), 3, 0));
    assert_eq!(archive.list(Section::Bases).await.expect("list").objects.len(), 3);
}

fn over(store: &FaultStore) -> Archive {
    Archive::over(Arc::new(store.clone()), "faults://".to_owned(), "p", None).with_retry_policy(QUICK)
}

fn keys() -> Option<KeyRing> {
    Some(KeyRing::parse(&format!("suite {}", "5a".repeat(32)), "suite").expect("a key"))
}

#[tokio::test]
async fn suite_over_memory() {
    for prefix in ["", "a/b"] {
        for keys in [None, keys()] {
            let store = Archive::over(Arc::new(InMemory::new()), "memory://".to_owned(), prefix, None);
            archive_suite(&store.with_keys(keys)).await;
        }
    }
}

#[tokio::test]
async fn suite_over_a_directory() {
    let dir = tempfile::tempdir().expect("tempdir");
    let url = ArchiveUrl::File { dir: dir.path().join("new/archive") };
    let missing = Archive::open(&url, &S3Settings::default(), Opening::Existing).expect_err("not there");
    assert_eq!(missing.kind(), Kind::Usage);
    let archive = Archive::open(&url, &S3Settings::default(), Opening::Create).expect("create");
    archive_suite(&archive).await;
    Archive::open(&url, &S3Settings::default(), Opening::Existing).expect("now it is there");
    let url = ArchiveUrl::File { dir: dir.path().join("encrypted") };
    let archive = Archive::open(&url, &S3Settings::default(), Opening::Create).expect("create");
    archive_suite(&archive.with_keys(keys())).await;
}

/// Goal: the archive's retries hide the failure of every other request.
#[tokio::test]
async fn suite_over_a_store_that_fails_every_other_request() {
    for keys in [None, keys()] {
        let store = FaultStore::default();
        store.script_puts([Fault::Fail, Fault::None].repeat(100));
        store.script_gets([Fault::Fail, Fault::None].repeat(200));
        let archive = over(&store).with_keys(keys).with_retry_policy(RetryPolicy { attempts: 6, ..QUICK });
        // A store in memory does not retry single parts, so the other suites test the large objects.
        objects_are_stored_and_found(&archive).await;
        the_archive_has_one_owner(&archive).await;
        assert!(archive.traffic().retries.load(Ordering::Relaxed) > 10);
    }
}

#[tokio::test]
async fn suite_over_a_real_s3_server() {
    let Some(weed) = Weed::start() else { return };
    let url = "s3://walferry-suite/some/prefix".parse().expect("url");
    let archive = Archive::open(&url, &weed.settings(), Opening::Create).expect("open");
    let unborn = archive.get(&ObjectName::Identity).await.expect_err("the bucket is not there").to_string();
    assert!(unborn.contains("NoSuchBucket"), "{unborn}");
    assert!(archive.list(Section::All).await.is_err(), "the bucket is not there");
    // weed creates the bucket at the first put.
    identity::establish(&archive, ClusterId::generate().expect("random")).await.expect("establish");
    archive.delete(&ObjectName::Identity).await.expect("delete");
    archive_suite(&archive).await;
    let url_encrypted = "s3://walferry-suite/some/encrypted".parse().expect("url");
    let encrypted = Archive::open(&url_encrypted, &weed.settings(), Opening::Create).expect("open");
    archive_suite(&encrypted.with_keys(keys())).await;

    let wrong = S3Settings { secret_access_key: Some(super::super::config::Secret::new("wrong")), ..weed.settings() };
    let refused = Archive::open(&url, &wrong, Opening::Existing).expect("open").get(&mark("noon")).await;
    assert_eq!(refused.expect_err("wrong key").kind(), Kind::Store);
}

#[tokio::test]
async fn a_vanished_directory_is_not_an_empty_archive() {
    let dir = tempfile::tempdir().expect("tempdir");
    let url = ArchiveUrl::File { dir: dir.path().join("mount") };
    let archive = Archive::open(&url, &S3Settings::default(), Opening::Create).expect("create");
    let archive = archive.with_retry_policy(RetryPolicy { attempts: 1, ..QUICK });
    std::fs::remove_dir(dir.path().join("mount")).expect("remove");
    assert!(archive.get(&ObjectName::Identity).await.is_err());
    assert!(archive.list(Section::All).await.is_err());
    assert!(starts::check_fence(&archive, Epoch(1), 1).await.is_err());
    assert!(archive.put_verified(&mark("m"), Bytes::from_static(b"content")).await.is_err());
    assert!(!dir.path().join("mount").exists(), "nobody made it anew");
}

#[tokio::test]
async fn a_failure_is_never_taken_for_not_there() {
    let store = FaultStore::default();
    store.set_down(true);
    let archive = over(&store).with_retry_policy(RetryPolicy {
        attempts: 2,
        deadline: Duration::from_secs(1),
        ..RetryPolicy::DEFAULT
    });
    let name = mark("m");
    assert!(archive.get(&name).await.is_err());
    assert!(archive.head(&name).await.is_err());
    assert!(archive.list(Section::All).await.is_err());
    assert!(identity::read(&archive).await.is_err());
    assert_eq!(archive.traffic().failures.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn a_cut_off_body_is_read_again_and_a_cut_off_listing_too() {
    let store = FaultStore::default();
    let archive = over(&store);
    for name in ["a", "b"] {
        archive.put_verified(&mark(name), Bytes::from_static(b"content")).await.expect("put");
    }
    store.script_gets([Fault::Truncate]);
    assert_eq!(archive.get(&mark("a")).await.expect("get").as_deref(), Some(b"content".as_slice()));
    store.script_gets([Fault::Fail]);
    assert_eq!(archive.list(Section::Marks).await.expect("list").objects.len(), 2);
}

/// Goal: an object that the store reports as stored, but did not store, does not count.
#[tokio::test]
async fn a_put_that_is_not_there_afterwards_is_an_error() {
    for (fault, keys) in [Fault::Vanish, Fault::Truncate].into_iter().flat_map(|fault| [(fault, None), (fault, keys())])
    {
        let store = FaultStore::default();
        let archive = over(&store).with_keys(keys);
        store.script_puts([fault, fault]);
        let put = archive.put_verified(&mark("a"), Bytes::from_static(b"content")).await;
        assert!(matches!(put, Err(Error::StoreContract { .. })), "{fault:?}: {put:?}");
        let created = archive.put_new(&mark("b"), Bytes::from_static(b"content")).await;
        assert!(matches!(created, Err(Error::StoreContract { .. })), "{fault:?}: {created:?}");
    }
    let store = FaultStore::default();
    store.script_puts([Fault::None, Fault::Truncate, Fault::None]);
    let put = over(&store).put_verified(&mark("a"), noise(SINGLE_PUT_BYTES_MAX as usize + 9)).await;
    assert!(matches!(put, Err(Error::StoreContract { .. })), "a part: {put:?}");
}

#[tokio::test]
async fn a_failed_part_repeats_the_upload() {
    let store = FaultStore::default();
    store.script_puts([Fault::None, Fault::Fail]);
    let (archive, body) = (over(&store), noise(SINGLE_PUT_BYTES_MAX as usize + 9));
    archive.put_verified(&mark("a"), body.clone()).await.expect("put");
    assert_eq!(archive.get(&mark("a")).await.expect("get"), Some(body));
}

/// Goal: if a claim took effect but its answer was lost, the refused retry recognises the record as its own.
#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_ours() {
    for keys in [None, keys()] {
        let store = FaultStore::default();
        store.script_puts([Fault::LoseReply]);
        let archive = over(&store).with_keys(keys);
        assert_eq!(epochs::claim(&archive, &record(1, "a")).await.expect("claim"), Claim::AlreadyMine);
    }
}

#[tokio::test]
async fn a_store_without_conditional_puts_is_refused() {
    let archive = over(&FaultStore::without_conditions());
    let refused = epochs::claim(&archive, &record(1, "a")).await.expect_err("refused");
    assert!(matches!(refused, Error::StoreContract { .. }), "{refused}");
    assert_eq!(epochs::read_record(&archive, Epoch(1)).await.expect("read"), Some(record(1, "a")), "unharmed");
}

#[tokio::test]
async fn records_of_another_format_or_of_another_name_are_refused() {
    let archive = over(&FaultStore::default());
    let put = |name: ObjectName, json: &'static str| {
        let archive = archive.clone();
        async move { archive.put_verified(&name, Bytes::from_static(json.as_bytes())).await.expect("put") }
    };
    put(ObjectName::Identity, r#"{"format":9,"cluster":"00000000000000000000000000000001"}"#).await;
    assert!(matches!(identity::read(&archive).await, Err(Error::Version { found: 9, .. })));
    for wrong in ["", "{}", r#"{"format":2,"cluster":"+0000000000000000000000000000001"}"#] {
        put(ObjectName::Identity, wrong).await;
        assert!(matches!(identity::read(&archive).await, Err(Error::Corrupt { .. })), "{wrong}");
    }
    put(ObjectName::Epoch(Epoch(2)), r#"{"format":2,"epoch":3,"parent":null,"fork":0,"node":"n","time":0}"#).await;
    assert!(matches!(epochs::read_record(&archive, Epoch(2)).await, Err(Error::Corrupt { .. })));
}
