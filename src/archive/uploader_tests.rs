//! The uploader against a store that fails and gives wrong answers.

use super::super::epochs::{self, EpochRecord};
use super::super::testing::faults::{Fault, FaultStore};
use super::*;
use crate::csn::{CommitTime, HistoryHash};
use crate::error::Kind;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;

const EPOCH: Epoch = Epoch(1);

/// A spool in memory.
#[derive(Default)]
struct Spool {
    chunks: Mutex<BTreeMap<ChunkName, Bytes>>,
    archived: Mutex<Vec<Csn>>,
    /// Whether all whole chunks count as equal, whatever their bytes.
    lenient: bool,
    /// Errors of the next reads.
    failures: Mutex<Vec<Error>>,
}

impl Spool {
    /// Seals `count` chunks of ten commits each after the existing ones.
    fn seal(&self, count: u64) {
        let mut chunks = self.chunks.lock();
        for _ in 0..count {
            let after = chunks.keys().next_back().map_or(Csn::ZERO, |chunk| chunk.last);
            let name = ChunkName { epoch: EPOCH, first: after.next(), last: Csn(after.0 + 10) };
            chunks.insert(name, whole(&format!("commits {}-{}", name.first, name.last)));
        }
    }
}

impl ChunkSource for Spool {
    fn next_sealed(&self, after: Csn) -> Option<SealedChunk> {
        let chunks = self.chunks.lock();
        let name = *chunks.keys().find(|chunk| chunk.last > after)?;
        Some(SealedChunk { name })
    }

    fn read(&self, chunk: &SealedChunk) -> Result<Bytes> {
        if let Some(error) = self.failures.lock().pop() {
            return Err(error);
        }
        Ok(self.chunks.lock()[&chunk.name].clone())
    }

    fn archived(&self, csn: Csn) {
        self.archived.lock().push(csn);
    }

    fn compare(&self, own: &Bytes, found: &Bytes) -> Comparison {
        match is_whole(found) {
            false => Comparison::Unreadable,
            true if self.lenient || own == found => Comparison::Same,
            true => Comparison::Other,
        }
    }
}

/// Returns a stand-in for a whole chunk: a text and its CRC.
fn whole(text: &str) -> Bytes {
    Bytes::from(format!("{text} {:08x}", crc32fast::hash(text.as_bytes())))
}

fn is_whole(chunk: &Bytes) -> bool {
    let text = std::str::from_utf8(chunk).ok().and_then(|chunk| chunk.rsplit_once(' '));
    text.is_some_and(|(text, _)| whole(text) == *chunk)
}

struct Bench {
    store: FaultStore,
    archive: Archive,
    spool: Arc<Spool>,
    uploader: Uploader<Spool>,
    status: watch::Receiver<UploaderStatus>,
}

fn bench(spool: Spool, settings: UploaderSettings) -> Bench {
    let store = FaultStore::default();
    let archive = Archive::over(Arc::new(store.clone()), "faults://".to_owned(), "", None);
    let spool = Arc::new(spool);
    let (uploader, status) = Uploader::new(&archive, Arc::clone(&spool), EPOCH, Csn::ZERO, settings);
    Bench { store, archive, spool, uploader, status }
}

fn quick() -> UploaderSettings {
    UploaderSettings {
        fence_check_interval: Duration::from_millis(5),
        backoff_first: Duration::from_micros(200),
        backoff_max: Duration::from_millis(2),
        ..UploaderSettings::default()
    }
}

/// Returns settings under which no periodic fence check happens during a test.
fn calm() -> UploaderSettings {
    UploaderSettings { fence_check_interval: Duration::from_secs(3600), ..quick() }
}

impl Bench {
    async fn until(&mut self, what: impl FnMut(&UploaderStatus) -> bool) -> UploaderStatus {
        let waiting = self.status.wait_for(what);
        let seen = tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("in time");
        seen.expect("the uploader lives").clone()
    }

    /// Asserts that every sealed chunk is in the archive, whole, and that the watermark advanced chunk by chunk.
    async fn assert_all_there(&self) {
        let chunks = self.spool.chunks.lock().clone();
        for (name, body) in &chunks {
            let found = self.archive.get(&ObjectName::Chunk(*name)).await.expect("get");
            assert_eq!(found.as_ref(), Some(body), "{name}");
        }
        let expected: Vec<Csn> = chunks.keys().map(|chunk| chunk.last).collect();
        assert_eq!(*self.spool.archived.lock(), expected);
    }

    fn requests(&self) -> u64 {
        let traffic = self.archive.traffic();
        [&traffic.puts, &traffic.gets, &traffic.heads, &traffic.lists].iter().map(|n| n.load(Relaxed)).sum()
    }
}

/// Starts the uploader of a bench and returns the parts of the bench that the test needs.
macro_rules! started {
    ($bench:ident) => {{
        let Bench { store, archive, spool, uploader, status } = $bench;
        let wake = uploader.wake();
        let (idle, _) = Uploader::new(&archive, Arc::clone(&spool), EPOCH, Csn::ZERO, calm());
        let task = tokio::spawn(async move { uploader.run().await });
        (Bench { store, archive, spool, uploader: idle, status }, wake, task)
    }};
}

#[tokio::test]
async fn everything_sealed_is_archived_in_order() {
    let bench = bench(Spool::default(), calm());
    bench.spool.seal(25);
    let (mut bench, wake, task) = started!(bench);
    let status = bench.until(|status| status.archived == Csn(250)).await;
    assert_eq!(status.chunks_done, 25);
    bench.spool.seal(3);
    wake.notify_one();
    bench.until(|status| status.archived == Csn(280) && status.in_flight == 0).await;
    bench.assert_all_there().await;
    task.abort();
}

/// Goal: a chunk is reported when it is confirmed and its predecessors are, not when it is read for its upload.
#[tokio::test]
async fn archived_chunks_are_reported_in_order() {
    let mut bench = bench(Spool::default(), calm());
    bench.spool.seal(3);
    let mut reports = bench.uploader.report_archived();
    // The fence check sends no put, so the first put is that of the first chunk.
    bench.store.script_puts([Fault::Fail, Fault::Fail]);
    let (mut bench, _wake, task) = started!(bench);
    bench.until(|status| status.archived == Csn(30)).await;
    let reported: Vec<(Csn, u64)> =
        std::iter::from_fn(|| reports.try_recv().ok().map(|it| (it.name.last, it.bytes))).collect();
    let sealed: Vec<(Csn, u64)> =
        bench.spool.chunks.lock().iter().map(|(name, body)| (name.last, body.len() as u64)).collect();
    assert_eq!(reported, sealed);
    task.abort();
}

#[tokio::test]
async fn an_idle_uploader_asks_only_for_the_fence() {
    let bench = bench(Spool::default(), calm());
    bench.spool.seal(2);
    let (mut bench, wake, task) = started!(bench);
    bench.until(|status| status.archived == Csn(20) && status.in_flight == 0).await;
    // One fence check of two GETs, and for each chunk a PUT and a HEAD.
    assert_eq!(bench.requests(), 2 + 2 * 2);
    wake.notify_one();
    tokio::task::yield_now().await;
    assert_eq!(bench.requests(), 2 + 2 * 2);
    task.abort();
}

/// Goal: after any mix of faults, every chunk is there, whole, and the watermark went up in order. The seed replays a
/// run.
#[tokio::test]
async fn a_store_that_misbehaves_only_delays() {
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut faults = |n| -> Vec<Fault> {
            const ALL: [Fault; 9] = [
                Fault::None,
                Fault::None,
                Fault::Fail,
                Fault::LoseReply,
                Fault::Vanish,
                Fault::Truncate,
                Fault::Tear,
                Fault::Slow,
                Fault::WrongBit(3),
            ];
            (0..n).map(|_| ALL[random.random_range(0..ALL.len())]).collect()
        };
        let bench = bench(Spool::default(), calm());
        bench.store.script_puts(faults(40));
        bench.store.script_gets(faults(40));
        bench.spool.seal(12);
        let (mut bench, _, task) = started!(bench);
        println!("seed {seed}");
        bench.until(|status| status.archived == Csn(120)).await;
        bench.store.heal();
        bench.assert_all_there().await;
        task.abort();
    }
}

/// Goal: a disk that cannot be read for a moment only delays; a damaged or missing chunk ends the uploader.
#[tokio::test]
async fn what_cannot_be_read_is_read_again_unless_it_is_gone() {
    let failed = |kind: std::io::ErrorKind| Error::io("read", std::path::Path::new("spool/chunk"))(kind.into());
    for lasting in [failed(std::io::ErrorKind::NotFound), Error::corrupt("a chunk".to_owned(), "header", "CRC")] {
        let bench = bench(Spool::default(), calm());
        *bench.spool.failures.lock() = vec![failed(std::io::ErrorKind::Other), failed(std::io::ErrorKind::TimedOut)];
        bench.spool.seal(3);
        let (mut bench, wake, task) = started!(bench);
        let status = bench.until(|status| status.archived == Csn(30)).await;
        assert!(status.last_error.unwrap().contains("spool/chunk"));
        bench.assert_all_there().await;
        bench.spool.failures.lock().push(lasting);
        bench.spool.seal(1);
        wake.notify_one();
        let error = task.await.expect("it ended");
        assert!(bench.until(|status| status.stopped == Some(error.to_string())).await.archived == Csn(30));
    }
}

#[tokio::test]
async fn an_outage_shows_in_the_status_and_passes() {
    let bench = bench(Spool::default(), calm());
    bench.spool.seal(3);
    let (mut bench, wake, task) = started!(bench);
    bench.until(|status| status.archived == Csn(30) && status.in_flight == 0).await;
    bench.store.set_down(true);
    bench.spool.seal(2);
    wake.notify_one();
    let status = bench.until(|status| status.failures_in_row > 3).await;
    assert_eq!((status.archived, status.in_flight > 0), (Csn(30), true));
    assert!(status.last_error.expect("an error").contains("injected"));
    bench.store.set_down(false);
    let status = bench.until(|status| status.archived == Csn(50)).await;
    assert_eq!(status.failures_in_row, 0);
    bench.assert_all_there().await;
    task.abort();
}

#[tokio::test]
async fn what_an_earlier_run_uploaded_is_found_to_be_there() {
    let bench = bench(Spool::default(), calm());
    bench.spool.seal(2);
    let earlier: Vec<_> = bench.spool.chunks.lock().clone().into_iter().collect();
    for (name, body) in earlier {
        bench.archive.put_verified(&ObjectName::Chunk(name), body).await.expect("put");
    }
    let (mut bench, _, task) = started!(bench);
    bench.until(|status| status.archived == Csn(20)).await;
    bench.assert_all_there().await;
    task.abort();
}

/// Goal: if half of a chunk was stored and the answer was lost, in this run or in an earlier one, the torn object is
/// replaced, and is not taken for the work of another writer. After a wrong answer the read is retried.
#[tokio::test]
async fn a_torn_upload_is_replaced() {
    for (puts, gets) in [
        (vec![Fault::Tear], vec![]),
        (vec![Fault::Tear, Fault::Tear], vec![]),
        // The first two GETs check the fence; the next ones read the chunk.
        (vec![Fault::LoseReply], vec![Fault::None, Fault::None, Fault::WrongBit(9)]),
        (vec![Fault::LoseReply], vec![Fault::None, Fault::None, Fault::None, Fault::WrongBit(9)]),
    ] {
        let bench = bench(Spool::default(), calm());
        bench.spool.seal(1);
        bench.store.script_puts(puts);
        bench.store.script_gets(gets);
        let (mut bench, _, task) = started!(bench);
        bench.until(|status| status.archived == Csn(10)).await;
        bench.store.heal();
        bench.assert_all_there().await;
        task.abort();
    }
}

#[tokio::test]
async fn a_newer_epoch_stops_it() {
    let bench = bench(Spool::default(), quick());
    bench.spool.seal(1);
    let (mut bench, wake, task) = started!(bench);
    bench.until(|status| status.archived == Csn(10)).await;
    let newer = EpochRecord::forked(EPOCH.next(), EPOCH, (Csn(10), HistoryHash(10)), "b".to_owned(), CommitTime(9));
    epochs::claim(&bench.archive, &newer).await.expect("claim");
    let error = task.await.expect("joined");
    assert_eq!(error.kind(), Kind::Fenced);
    assert!(bench.until(|status| status.stopped.is_some()).await.stopped.expect("reason").contains("node b"));
    bench.spool.seal(1);
    wake.notify_one();
    let second = ChunkName { epoch: EPOCH, first: Csn(11), last: Csn(20) };
    assert_eq!(bench.archive.get(&ObjectName::Chunk(second)).await.expect("get"), None);
}

#[tokio::test]
async fn a_writer_fenced_before_its_start_uploads_nothing() {
    let bench = bench(Spool::default(), calm());
    bench.spool.seal(1);
    let newer = EpochRecord::first(EPOCH.next(), "b".to_owned(), CommitTime(9));
    epochs::claim(&bench.archive, &newer).await.expect("claim");
    assert_eq!(bench.uploader.run().await.kind(), Kind::Fenced);
    assert!(bench.spool.archived.lock().is_empty());
}

/// Goal: with `fence_each_ack` nothing that was archived after the takeover is acknowledged, whatever the check
/// interval.
#[tokio::test]
async fn nothing_is_acknowledged_after_the_fence() {
    let bench = bench(Spool::default(), UploaderSettings { fence_each_ack: true, ..calm() });
    let (mut bench, wake, task) = started!(bench);
    bench.spool.seal(1);
    wake.notify_one();
    bench.until(|status| status.archived == Csn(10)).await;
    let newer = EpochRecord::first(EPOCH.next(), "b".to_owned(), CommitTime(9));
    epochs::claim(&bench.archive, &newer).await.expect("claim");
    bench.spool.seal(1);
    wake.notify_one();
    assert_eq!(task.await.expect("joined").kind(), Kind::Fenced);
    assert_eq!(*bench.spool.archived.lock(), [Csn(10)]);
}

#[tokio::test]
async fn another_writer_of_the_same_epoch_is_noticed() {
    for (lenient, body) in [(false, "other commits"), (false, "commits 1-11"), (true, "the same, cut again")] {
        let bench = bench(Spool { lenient, ..Spool::default() }, calm());
        bench.spool.seal(1);
        let name = ObjectName::Chunk(ChunkName { epoch: EPOCH, first: Csn(1), last: Csn(10) });
        bench.archive.put_verified(&name, whole(body)).await.expect("put");
        let (mut bench, _, task) = started!(bench);
        if lenient {
            bench.until(|status| status.archived == Csn(10)).await;
            task.abort();
        } else {
            let error = task.await.expect("joined");
            assert!(matches!(error, Error::Identity { .. }), "{error}");
            assert!(bench.spool.archived.lock().is_empty());
        }
    }
}

/// Goal: an object that was encrypted again after a restart has other bytes and the same commits, and is accepted.
#[tokio::test]
async fn what_was_encrypted_anew_is_still_ours() {
    let keys = crate::archive::crypt::KeyRing::parse(&format!("k {}", "5a".repeat(32)), "test").expect("a key");
    let store = FaultStore::default();
    let archive = Archive::over(Arc::new(store.clone()), "faults://".to_owned(), "", None).with_keys(Some(keys));
    let spool = Arc::new(Spool::default());
    spool.seal(4);
    // The first two GETs check the fence. The first attempt for the second chunk takes effect and its answer is lost.
    store.script_puts([Fault::None, Fault::LoseReply]);
    for _ in 0..2 {
        store.script_gets([Fault::None, Fault::None, Fault::Truncate]);
        let (uploader, mut status) = Uploader::new(&archive, Arc::clone(&spool), EPOCH, Csn::ZERO, calm());
        let task = tokio::spawn(async move { uploader.run().await });
        let waiting = status.wait_for(|status| status.archived == Csn(40) || status.stopped.is_some());
        let seen = tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("in time").expect("it lives");
        assert_eq!((seen.archived, seen.stopped.clone()), (Csn(40), None));
        drop(seen);
        task.abort();
    }
    let chunks = spool.chunks.lock().clone();
    for (name, body) in chunks {
        assert_eq!(archive.get(&ObjectName::Chunk(name)).await.expect("get"), Some(body));
    }
}

/// Goal: if the record read by a fence check is no valid record, nothing is acknowledged, the failure is reported, and
/// the check is retried. A valid record fences at once.
#[tokio::test]
async fn a_wrong_answer_about_the_fence_passes() {
    let bench = bench(Spool::default(), UploaderSettings { fence_each_ack: true, ..quick() });
    let (mut bench, wake, task) = started!(bench);
    let (name, newer) =
        (ObjectName::Epoch(EPOCH.next()), EpochRecord::first(EPOCH.next(), "b".to_owned(), CommitTime(9)));
    let record = crate::archive::digested::encode(&newer);
    bench.spool.seal(1);
    wake.notify_one();
    bench.until(|status| status.archived == Csn(10)).await;
    for (nth, wrong) in [&b""[..], b"<html>an error page</html>", &record[..record.len() / 2]].into_iter().enumerate() {
        let before = Csn(10 * (nth as u64 + 1));
        bench.archive.put_verified(&name, Bytes::copy_from_slice(wrong)).await.expect("put");
        bench.spool.seal(1);
        wake.notify_one();
        let seen = bench.until(|status| status.failures_in_row > 2 && status.in_flight == 1).await;
        assert_eq!((seen.archived, seen.stopped), (before, None));
        assert!(seen.last_error.is_some_and(|error| error.contains(&name.to_string())));
        bench.archive.delete(&name).await.expect("delete");
        bench.until(|status| status.archived == Csn(before.0 + 10) && status.failures_in_row == 0).await;
    }
    epochs::claim(&bench.archive, &newer).await.expect("claim");
    assert_eq!(task.await.expect("joined").kind(), Kind::Fenced);
}
