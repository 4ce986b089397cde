//! Restores a log of 100-byte SET-like commits: from chunks in memory to a finished data directory.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use object_store::memory::InMemory;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use walferry::archive::epochs::{self, EpochRecord};
use walferry::archive::identity;
use walferry::archive::layout::{ChunkName, ObjectName};
use walferry::archive::store::Archive;
use walferry::chunk::{ChunkLink, Encoder, Profile, RAW_BYTES_MAX};
use walferry::cluster::ClusterId;
use walferry::csn::{CommitTime, Csn, Epoch};
use walferry::engine::batch::{Family, push_put};
use walferry::engine::key;
use walferry::engine::meta::encode_string;
use walferry::history::route::RouteCosts;
use walferry::history::target::Target;
use walferry::io::StdIo;
use walferry::record::CommitRecord;
use walferry::restore::progress::silent;
use walferry::restore::{Options, restore};

const COMMITS: u64 = 500_000;
const KEYS: u64 = 1_000_000;

/// A fast generator with a fixed seed, so that all runs use the same bytes.
struct Xorshift(u64);

impl Xorshift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Returns a commit that sets a string of 100 bytes under a random key.
fn commit(csn: u64, random: &mut Xorshift) -> CommitRecord {
    let name = format!("key:{}", random.next() % KEYS);
    let mut value =
        format!("{{\"id\":{},\"score\":{},\"name\":\"user\"}}", random.next() % 100_000, random.next() % 1000);
    value.extend(std::iter::repeat_n('x', 100 - value.len()));
    let mut disk = Vec::new();
    push_put(&mut disk, Family::Default, &key::meta(name.as_bytes()), &encode_string(value.as_bytes(), 0));
    let time = CommitTime(1_790_000_000_000_000 + csn * 5);
    CommitRecord { csn: Csn(csn), epoch: Epoch(1), time, disk_ops: 1, disk: disk.into(), ..CommitRecord::default() }
}

/// Creates an archive of full chunks; returns the bytes of effects in it.
async fn archive() -> (Archive, u64) {
    let archive = Archive::over(Arc::new(InMemory::new()), "memory:///bench".to_owned(), "bench", None);
    identity::establish(&archive, ClusterId([7; 16])).await.expect("identity");
    let record = EpochRecord::first(Epoch(1), "bench".to_owned(), CommitTime(1));
    epochs::claim(&archive, &record).await.expect("claim");
    let (mut random, mut encoder) = (Xorshift(0x5eed), Encoder::new(Profile::default()));
    let (mut pending, mut bytes, mut sum) = (Vec::new(), 0, 0);
    for csn in 1..=COMMITS {
        let commit = commit(csn, &mut random);
        bytes += commit.effect_bytes();
        pending.push(commit);
        if bytes < RAW_BYTES_MAX && csn < COMMITS {
            continue;
        }
        let chunk = encoder.encode(pending.iter(), ChunkLink { epoch: Epoch(1), ..ChunkLink::default() });
        let name = ChunkName { epoch: Epoch(1), first: chunk.header().first, last: chunk.header().last };
        archive.put_verified(&ObjectName::Chunk(name), chunk.bytes().clone()).await.expect("put");
        sum += bytes as u64;
        pending.clear();
        bytes = 0;
    }
    (archive, sum)
}

fn restores(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let (archive, bytes) = runtime.block_on(archive());
    let run = |dir: &tempfile::TempDir| {
        let (dir, io) = (dir.path().to_owned(), Arc::new(StdIo));
        let options =
            Options { dir, target: Target::Latest, epoch: None, costs: RouteCosts::DEFAULT, io, progress: silent() };
        runtime.block_on(restore(&archive, options)).expect("restore")
    };
    let report = run(&tempfile::tempdir().expect("a directory"));
    println!(
        "{} commits, {} raw and {} stored bytes; log phase {:.2} s, finish {:.2} s",
        report.commits, report.log_bytes_raw, report.log_bytes_stored, report.seconds.log, report.seconds.finish
    );
    let mut group = criterion.benchmark_group("restore");
    group.sample_size(10).warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_secs(5));
    for (unit, throughput) in [("bytes", Throughput::Bytes(bytes)), ("commits", Throughput::Elements(COMMITS))] {
        group.throughput(throughput);
        group.bench_function(format!("set 100 B/{unit}"), |bencher| {
            bencher.iter_batched(
                || tempfile::tempdir().expect("a directory"),
                |dir| (run(&dir), dir),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, restores);
criterion_main!(benches);
