//! Tests of bases in the archive.

use super::*;
use crate::archive::layout::Section;
use crate::archive::retry_policy::RetryPolicy;
use crate::archive::testing::faults::{EVERY_FAULT, FaultStore, QUICK};
use crate::config::{AppendFsync, Consistency};
use crate::engine::memory::testing::content;
use crate::error::Error;
use crate::snapshot::testing::{Rig, restore};
use std::collections::HashMap;
use std::sync::Arc;

/// Time after which a request that hangs is given up.
const DEADLINE: Duration = Duration::from_millis(100);

fn archive(store: &FaultStore) -> Archive {
    let archive = Archive::over(Arc::new(store.clone()), "memory:".to_owned(), "p", None);
    archive.with_retry_policy(RetryPolicy { attempts: 1, ..QUICK })
}

/// Reports that the archive's chunks reach the base.
async fn covered() -> Result<()> {
    Ok(())
}

async fn manifest(archive: &Archive, base: BaseName) -> Manifest {
    let bytes = archive.get(&ObjectName::BaseManifest(base)).await.unwrap().expect("the base is there");
    Manifest::decode(&bytes, "manifest").unwrap()
}

/// Asserts that the base in the archive equals the state after the commits up to its csn.
async fn assert_exact(rig: &Rig, archive: &Archive, base: BaseName) {
    let manifest = manifest(archive, base).await;
    let own = manifest.memory.files.iter().chain(&manifest.completion).map(|file| (&file.name, file.object(base)));
    let mut files = HashMap::new();
    for (name, object) in own.chain(manifest.disk.files.iter().map(|file| (&file.name, file.object(base)))) {
        files.insert(name.clone(), archive.get(&object).await.unwrap().expect("the object is there"));
    }
    let (memory, disk) = restore(&manifest, |name| files[name].clone());
    let (expected_memory, expected_disk) = rig.expected(manifest.csn);
    assert!(content(&memory) == content(&expected_memory), "the keys in memory differ");
    assert!(disk == expected_disk, "the disk engines differ");
}

async fn count(archive: &Archive, section: Section) -> usize {
    archive.list(section).await.unwrap().objects.len()
}

#[tokio::test]
async fn a_second_base_shares_the_ssts_of_the_first() {
    let store = FaultStore::default();
    let archive = archive(&store);
    let mut publisher = Publisher::new(archive.clone());
    let mut rig = Rig::new(AppendFsync::EverySec);
    rig.write(1, 400);
    let first = rig.cut_under_load(2);
    // A primary spawns the publishing task, so the future must be `Send`.
    let (first, mut publisher) =
        tokio::spawn(async move { (publisher.publish(first, covered()).await, publisher) }).await.unwrap();
    let first = first.unwrap().expect("published");
    assert_eq!(first.bytes_shared, 0);
    assert_exact(&rig, &archive, first.base).await;
    let ssts = count(&archive, Section::Ssts).await;
    rig.write(3, 3);
    let second = rig.cut().unwrap();
    let second = publisher.publish(second, covered()).await.unwrap().expect("published");
    assert!(second.bytes_shared > 0 && second.bytes_new > 0, "{second:?}");
    let manifest = manifest(&archive, second.base).await;
    assert_eq!((manifest.bytes_new, manifest.bytes_shared), (second.bytes_new, second.bytes_shared));
    assert_eq!(manifest.bytes(), second.bytes_new + second.bytes_shared);
    assert!(count(&archive, Section::Ssts).await < 2 * ssts.max(2));
    assert_exact(&rig, &archive, first.base).await;
    assert_exact(&rig, &archive, second.base).await;
    assert!(!crate::directory::DataDir::new(rig.root.path()).base().exists());
}

#[tokio::test]
async fn a_publisher_that_knows_nothing_finds_the_ssts() {
    let archive = archive(&FaultStore::default());
    let mut rig = Rig::new(AppendFsync::EverySec);
    rig.write(1, 400);
    let base = rig.cut().unwrap();
    Publisher::new(archive.clone()).publish(base, covered()).await.unwrap().expect("published");
    rig.write_list(b"one more commit");
    let base = rig.cut().unwrap();
    let again = Publisher::new(archive.clone()).publish(base, covered()).await.unwrap().expect("published");
    assert!(again.bytes_shared > 0);
    assert_exact(&rig, &archive, again.base).await;
}

#[tokio::test]
async fn a_base_at_the_same_csn_is_not_published_again() {
    let archive = archive(&FaultStore::default());
    let mut publisher = Publisher::new(archive.clone());
    let mut rig = Rig::new(AppendFsync::EverySec);
    rig.write(1, 20);
    let base = rig.cut().unwrap();
    let first = publisher.publish(base, covered()).await.unwrap().expect("published");
    let objects = count(&archive, Section::All).await;
    let base = rig.cut().unwrap();
    assert_eq!(publisher.publish(base, covered()).await.unwrap(), None);
    assert_eq!(count(&archive, Section::All).await, objects);
    assert_exact(&rig, &archive, first.base).await;
}

/// Goal: whichever request meets whichever fault, no incomplete base appears; publishing reports an error if it
/// failed, and a repetition succeeds, whatever the failed attempt left behind.
#[tokio::test]
async fn every_request_of_publishing_meets_every_fault() {
    let mut rig = Rig::new(AppendFsync::EverySec);
    rig.write(1, 40);
    let base = rig.cut().unwrap();
    let name = base.manifest().base();
    let mut met = 0;
    for fault in EVERY_FAULT {
        for nth in 0.. {
            let store = FaultStore::default();
            let truth = Archive::over(store.truth(), "truth:".to_owned(), "p", None);
            let archive = archive(&store).with_retry_policy(RetryPolicy { attempts: 1, deadline: DEADLINE, ..QUICK });
            store.fault_at(nth, fault);
            let told = format!("request {nth} meets {fault:?}");
            let outcome = Publisher::new(archive.clone()).publish_kept(&base, covered()).await;
            if nth >= store.requests() {
                break;
            }
            met += usize::from(store.is_met());
            let is_there = assert_whole_if_there(&truth, name, &told).await;
            match outcome {
                Ok(published) => assert!(published.is_some() && is_there, "{told}: {published:?}"),
                Err(error) => assert!(store.is_met(), "{told}: {error}"),
            }
            Publisher::new(archive).publish_kept(&base, covered()).await.expect(&told);
            assert!(assert_whole_if_there(&truth, name, &told).await, "{told}: success, but no base");
        }
    }
    assert!(met > 60, "only {met} faults met a request");
}

/// Reports whether the base has a manifest; if so, asserts that every file in the manifest exists and is correct.
async fn assert_whole_if_there(truth: &Archive, base: BaseName, told: &str) -> bool {
    let bytes = truth.get(&ObjectName::BaseManifest(base)).await.unwrap();
    let Some(manifest) = bytes.and_then(|bytes| Manifest::decode(&bytes, "manifest").ok()) else { return false };
    let own = manifest.memory.files.iter().chain(&manifest.completion).map(|file| (file.object(base), file.blake3));
    for (object, blake3) in own.chain(manifest.disk.files.iter().map(|file| (file.object(base), file.blake3))) {
        let content = truth.get(&object).await.unwrap();
        assert_eq!(content.map(|content| blake3::hash(&content)), Some(blake3), "{told}: {object}");
    }
    true
}

#[tokio::test]
async fn an_sst_pruned_while_a_base_is_published_is_sent_again() {
    let archive = archive(&FaultStore::default());
    let mut publisher = Publisher::new(archive.clone());
    let mut rig = Rig::new(AppendFsync::EverySec);
    rig.write(1, 200);
    let base = rig.cut().unwrap();
    publisher.publish(base, covered()).await.unwrap().expect("published");
    rig.write_list(b"one more commit");
    let base = rig.cut().unwrap();
    for sst in base.files().0 {
        archive.delete(&sst.object).await.unwrap();
    }
    let second = publisher.publish(base, covered()).await.unwrap().expect("published");
    assert_exact(&rig, &archive, second.base).await;
}

#[tokio::test]
async fn a_publisher_waits_for_a_prune_that_has_not_seen_its_manifest() {
    let archive = archive(&FaultStore::default());
    let mut publisher = Publisher::new(archive.clone());
    let mut rig = Rig::new(AppendFsync::EverySec);
    rig.write(1, 200);
    let base = rig.cut().unwrap();
    publisher.publish(base, covered()).await.unwrap().expect("published");
    rig.write_list(b"one more commit");
    let base = rig.cut().unwrap();
    let (ssts, name) = (base.files().0, base.manifest().base());
    let prune = pins::Pin::take(&archive, pins::PRUNE, pins::PinRange::NOTHING).await.unwrap();
    let publishing = tokio::spawn(async move { publisher.publish(base, covered()).await });
    while archive.head(&ObjectName::BaseManifest(name)).await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    // The prune listed the archive before the manifest existed: these files look like orphans to the prune.
    for sst in ssts {
        archive.delete(&sst.object).await.unwrap();
    }
    assert!(!publishing.is_finished());
    prune.release().await;
    publishing.await.unwrap().unwrap().expect("published");
    assert_exact(&rig, &archive, name).await;
}

#[tokio::test]
async fn of_two_nodes_at_the_same_csn_one_publishes_and_its_base_stays_whole() {
    let archive = archive(&FaultStore::default());
    let mut rig = Rig::new(AppendFsync::EverySec);
    rig.write(1, 20);
    let base = rig.cut().unwrap();
    let first = Publisher::new(archive.clone()).publish(base, covered()).await.unwrap().expect("published");
    // The second publisher looked for a manifest before the first one wrote it.
    let late = rig.cut().unwrap();
    let other = Publisher::new(archive.clone());
    send(other.archive(), late.files().1.iter().map(part_of), &|_| {}).await.unwrap();
    let mut manifest = late.manifest().clone();
    // A very different duration, so that the two manifests differ.
    manifest.took_ms += 1_000_000;
    assert!(!create_manifest(&archive, &manifest).await.unwrap());
    assert_exact(&rig, &archive, first.base).await;
}

/// Goal: before the archive's chunks reach the base's csn, its files may exist, but its manifest does not.
#[tokio::test]
async fn a_base_that_the_chunks_do_not_reach_is_not_published() {
    let archive = archive(&FaultStore::default());
    let mut rig = Rig::new(AppendFsync::EverySec);
    rig.write(1, 20);
    for consistency in [Consistency::Strict, Consistency::Eventual] {
        let base = rig.cut_around(consistency, 2, 5).unwrap();
        let start = base.manifest().start();
        let never = async { Err(Error::NotNow { reason: "the chunks do not reach it".to_owned() }) };
        Publisher::new(archive.clone()).publish(base, never).await.unwrap_err();
        assert_eq!(archive.head(&start.manifest()).await.unwrap(), None);
        assert!(!crate::directory::DataDir::new(rig.root.path()).base().exists());
        assert!(count(&archive, Section::Bases).await > 0, "the files were sent before");
    }
}

/// Goal: two nodes publish bases of different levels at one csn, and both manifests refer to whole bases.
#[tokio::test]
async fn of_two_levels_at_one_csn_both_stay_whole() {
    let archive = archive(&FaultStore::default());
    let mut rig = Rig::new(AppendFsync::EverySec);
    rig.write(1, 20);
    // A base whose last commit is on disk, so that a strict base lies at the same csn.
    let open = (2..50).find_map(|seed| {
        let base = rig.cut_around(Consistency::Eventual, seed, 3).unwrap();
        (base.manifest().csn == rig.committer.watermarks.committed.get()).then_some(base)
    });
    let open = open.expect("one of these ends on disk");
    let start = open.manifest().start();
    let published = Publisher::new(archive.clone()).publish(open, covered()).await.unwrap().expect("published");
    assert_eq!((published.base, published.after, published.level), (start.base, start.after, Level::Eventual));
    let strict = rig.cut().unwrap();
    assert_eq!(strict.manifest().base(), start.base);
    let published = Publisher::new(archive.clone()).publish(strict, covered()).await.unwrap().expect("published");
    assert_eq!(published.level, Level::Strict);
    assert_exact(&rig, &archive, start.base).await;
    // A base that needs chunks is not published where a strict base exists.
    let again = rig.cut().unwrap();
    assert_eq!(Publisher::new(archive.clone()).publish(again, covered()).await.unwrap(), None);
    let listing = crate::archive::listing::Listing::read(&archive).await.unwrap();
    assert_eq!(listing.base_starts().collect::<Vec<_>>(), [start, BaseStart::whole(start.base)]);
}
