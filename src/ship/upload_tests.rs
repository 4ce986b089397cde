//! Chunks are uploaded into the archive, over a failover, with every fault at every request. The watermark never
//! passes what the archive holds, and in the end the archive holds one history without a gap.

use crate::archive::chunk_put::{Comparison, compare_commits};
use crate::archive::epochs::{self, Claim, EpochRecord, EpochTree};
use crate::archive::identity;
use crate::archive::layout::{ChunkName, ObjectName};
use crate::archive::retry_policy::RetryPolicy;
use crate::archive::store::Archive;
use crate::archive::testing::faults::{EVERY_FAULT, Fault, FaultStore, QUICK};
use crate::archive::uploader::{ChunkSource, SealedChunk, Uploader, UploaderSettings};
use crate::chunk::{ChunkLink, Encoder, Profile};
use crate::cluster::ClusterId;
use crate::csn::{CommitTime, Csn, Epoch};
use crate::error::{Error, Kind, Result};
use crate::history::catch_up::CatchUp;
use crate::history::line::History;
use crate::log::testing::hash_before;
use crate::record::CommitRecord;
use crate::restore::tests::support::{go_on, history};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

const CLUSTER: ClusterId = ClusterId([7; 16]);
/// Deadline of a request that hangs.
const DEADLINE: Duration = Duration::from_millis(100);
/// Attempts that a step needs at most after one fault.
const ATTEMPTS_MAX: usize = 4;
/// Lives that run at the same time: most of them wait for a deadline.
const LIVES_AT_ONCE: usize = 32;
/// The last commit that both epochs share.
const FORK: u64 = 7;

/// The commits that both writers archive.
struct Story {
    first: Vec<CommitRecord>,
    second: Vec<CommitRecord>,
}

/// A spool of sealed chunks. Checks the store without its faults at each step of the watermark.
struct Spool {
    chunks: Vec<(SealedChunk, Bytes)>,
    truth: Archive,
    archived: Mutex<Csn>,
}

impl Spool {
    /// Makes chunks of three commits each.
    fn of(commits: &[CommitRecord], epoch: Epoch, truth: &Archive) -> Arc<Self> {
        let mut encoder = Encoder::new(Profile::default());
        let mut link = ChunkLink { epoch, hash_before: hash_before(&commits[0]), ..ChunkLink::default() };
        let mut chunks = Vec::new();
        for part in commits.chunks(3) {
            let chunk = encoder.encode(part.iter(), link);
            link.hash_before = chunk.header().hash_after;
            let name = ChunkName { epoch, first: part[0].csn, last: part[part.len() - 1].csn };
            chunks.push((SealedChunk { name }, chunk.bytes().clone()));
        }
        let archived = Mutex::new(commits[0].csn.prev());
        Arc::new(Self { chunks, truth: truth.clone(), archived })
    }
}

impl ChunkSource for Spool {
    fn next_sealed(&self, after: Csn) -> Option<SealedChunk> {
        self.chunks.iter().map(|(chunk, _)| *chunk).find(|chunk| chunk.name.last > after)
    }

    fn read(&self, chunk: &SealedChunk) -> Result<Bytes> {
        let found = self.chunks.iter().find(|(other, _)| other == chunk);
        Ok(found.expect("only sealed chunks are read").1.clone())
    }

    fn archived(&self, csn: Csn) {
        for (chunk, bytes) in self.chunks.iter().filter(|(chunk, _)| chunk.name.last <= csn) {
            let name = ObjectName::Chunk(chunk.name);
            let found =
                self.truth.get(&name).now_or_never().expect("a store in memory answers at once").expect("truth");
            assert_eq!(found.as_ref(), Some(bytes), "the watermark is at {csn}, {} is not there", chunk.name);
        }
        let before = std::mem::replace(&mut *self.archived.lock(), csn);
        assert!(before < csn, "the watermark went from {before} to {csn}");
    }

    fn compare(&self, own: &Bytes, found: &Bytes) -> Comparison {
        compare_commits(own, found)
    }
}

/// Repeats a step as its caller, or an operator, would.
async fn insist<T, F: Future<Output = Result<T>>>(step: impl Fn() -> F) -> Result<T> {
    for _ in 1..ATTEMPTS_MAX {
        if let Ok(done) = step().await {
            return Ok(done);
        }
    }
    step().await
}

async fn claim(archive: &Archive, record: &EpochRecord) -> Result<()> {
    let claimed = insist(|| epochs::claim(archive, record)).await?;
    assert!(!matches!(claimed, Claim::Taken(_)), "{claimed:?}");
    let tree = insist(|| EpochTree::read(archive)).await?;
    assert_eq!(tree.newest(), Some(record), "a tree of epochs without the one just claimed");
    Ok(())
}

fn settings() -> UploaderSettings {
    UploaderSettings {
        in_flight_max: 2,
        start: 1,
        fence_check_interval: Duration::from_secs(3600),
        fence_each_ack: true,
        backoff_first: Duration::from_micros(100),
        backoff_max: Duration::from_millis(1),
    }
}

async fn upload(archive: &Archive, spool: &Arc<Spool>, epoch: Epoch) {
    let (from, last) = (*spool.archived.lock(), spool.chunks[spool.chunks.len() - 1].0.name.last);
    let (uploader, mut status) = Uploader::new(archive, Arc::clone(spool), epoch, from, settings());
    // Cancel-safe: when one arm ends, the upload is over.
    tokio::select! {
        error = uploader.run() => panic!("uploading ended: {error}"),
        done = status.wait_for(|status| status.archived == last) => drop(done.expect("the uploader lives")),
    }
    assert_eq!(*spool.archived.lock(), last);
}

/// Runs the first writer of an archive, the claim of a second writer, and the uploads of the second.
async fn live(store: &FaultStore, story: &Story) -> Result<()> {
    let truth = Archive::over(store.truth(), "truth:".to_owned(), "p", None);
    let archive = Archive::over(Arc::new(store.clone()), "faults:".to_owned(), "p", None)
        .with_retry_policy(RetryPolicy { attempts: 1, deadline: DEADLINE, ..RetryPolicy::DEFAULT });
    insist(|| identity::establish(&archive, CLUSTER)).await?;
    claim(&archive, &EpochRecord::first(Epoch(1), "a".to_owned(), CommitTime(1))).await?;
    upload(&archive, &Spool::of(&story.first, Epoch(1), &truth), Epoch(1)).await;

    let record = EpochRecord::forked(
        Epoch(2),
        Epoch(1),
        (Csn(FORK), story.first[FORK as usize - 1].hash),
        "b".to_owned(),
        CommitTime(2),
    );
    claim(&archive, &record).await?;
    let late = Spool::of(&story.first, Epoch(1), &truth);
    let (fenced, _) = Uploader::new(&archive, late, Epoch(1), Csn::ZERO, settings());
    // If the store denies the newer epoch's record, that fence check passes; the next one finds the record.
    let error = tokio::time::timeout(Duration::from_secs(30), fenced.run()).await;
    let error = error.expect("the next look tells");
    assert_eq!(error.kind(), Kind::Fenced, "{error}");
    upload(&archive, &Spool::of(&story.second[FORK as usize..], Epoch(2), &truth), Epoch(2)).await;
    assert_whole(&truth, story).await;
    Ok(())
}

/// Checks that the archive holds the second writer's history, and the part that it shares with the first writer's.
async fn assert_whole(truth: &Archive, story: &Story) {
    let history = History::read(truth, None).await.expect("history");
    let reach = history.reach();
    assert_eq!((reach.latest(), &reach.gaps[..]), (Some(Csn(story.second.len() as u64)), &[][..]));
    let mut stream = CatchUp::of(&history, Csn::ZERO).await.expect("no gap");
    let mut found = Vec::new();
    while let Some(part) = stream.next().await.expect("every chunk is whole") {
        found.extend(part.iter().cloned());
    }
    assert_eq!(found, story.second);
}

/// Goal: whichever request of an archive's life meets whichever fault, everything that the watermark has passed is
/// there. Every step succeeds when it is repeated, unless the store tears a record that is its own fence. The history
/// in the archive is exactly the committed one.
#[tokio::test]
async fn every_request_of_an_upload_meets_every_fault() {
    let first = history(21, 10, Epoch(1));
    let second = go_on(&first[..FORK as usize], 22, 6, Epoch(2));
    let story = Story { first, second };
    let store = FaultStore::default();
    live(&store, &story).await.expect("a life without faults");
    let requests = store.requests();
    assert!(requests > 25, "only {requests} requests: not a whole life");

    let all = (0..requests).flat_map(|nth| EVERY_FAULT.map(|fault| (nth, fault)));
    let lives = all.map(|(nth, fault)| {
        let story = &story;
        async move {
            let store = FaultStore::default();
            store.fault_at(nth, fault);
            println!("request {nth} meets {fault:?}");
            if let Err(error) = live(&store, story).await {
                assert!(is_torn_record(&error, fault), "request {nth} met {fault:?}: {error}");
            }
            store.is_met()
        }
    });
    let met = futures::stream::iter(lives).buffer_unordered(LIVES_AT_ONCE).filter(|met| std::future::ready(*met));
    let met = met.count().await;
    assert!(met > requests * 5, "only {met} faults met one of {requests} requests");
}

/// Reports whether the error is about a torn record. Nobody can tell whose record it is: this stays a loud error.
fn is_torn_record(error: &Error, fault: Fault) -> bool {
    let is_record = |what: &str| what.contains("/epochs/") || what.ends_with("/walferry.json");
    matches!(fault, Fault::Truncate | Fault::Tear) && matches!(error, Error::Corrupt { what, .. } if is_record(what))
}

/// Goal: if two uploads in a row, and the check of what they left, each fail in a different way, the upload is only
/// delayed.
#[tokio::test]
async fn pairs_of_faults_at_a_chunk_only_delay() {
    let first = history(23, 5, Epoch(1));
    for one in [Fault::LoseReply, Fault::Tear, Fault::Vanish, Fault::Truncate] {
        for two in [Fault::Fail, Fault::LoseReply, Fault::Tear, Fault::Vanish, Fault::Truncate] {
            for read in [Fault::None, Fault::Vanish, Fault::WrongBit(77), Fault::Truncate] {
                let store = FaultStore::default();
                let truth = Archive::over(store.truth(), "truth:".to_owned(), "p", None);
                let archive =
                    Archive::over(Arc::new(store.clone()), "faults:".to_owned(), "p", None).with_retry_policy(QUICK);
                store.script_puts([one, two]);
                store.script_gets([Fault::None, read]);
                upload(&archive, &Spool::of(&first, Epoch(1), &truth), Epoch(1)).await;
            }
        }
    }
}

/// Goal: an upload that finds another writer's whole chunks under its names ends, and says why.
#[tokio::test]
async fn commits_of_another_writer_are_never_overwritten() {
    let store = FaultStore::default();
    let truth = Archive::over(store.truth(), "truth:".to_owned(), "p", None);
    let (own, other) = (history(24, 6, Epoch(1)), history(25, 6, Epoch(1)));
    upload(&truth, &Spool::of(&other, Epoch(1), &truth), Epoch(1)).await;
    let (uploader, _) = Uploader::new(&truth, Spool::of(&own, Epoch(1), &truth), Epoch(1), Csn::ZERO, settings());
    let error = uploader.run().await;
    assert!(matches!(error, Error::Identity { .. }), "{error}");
    let found = Spool::of(&other, Epoch(1), &truth);
    found.archived(Csn(6));
}
