//! Encoding and decoding of full chunks: raw MB/s, for values that look like JSON and for values that do not compress.

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;
use walferry::chunk::{Chunk, ChunkLink, Encoder, Profile, RAW_BYTES_MAX};
use walferry::csn::{CommitTime, Csn, Epoch};
use walferry::record::CommitRecord;

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

/// First bytes of ops that belong in the sections `list` and `zset`.
const LIST_TAG: u8 = 65;
const ZSET_TAG: u8 = 80;

/// Makes one value.
type Value = fn(&mut Xorshift) -> Bytes;

fn json(random: &mut Xorshift) -> Bytes {
    let (id, age, score) = (random.next() % 10_000_000, random.next() % 90, random.next() % 1_000_000);
    format!(
        "{{\"id\":{id},\"name\":\"user {id}\",\"age\":{age},\"score\":{score},\"active\":true,\"tags\":[\"a{}\",\"b\"]}}",
        age % 7
    )
    .into()
}

fn noise(random: &mut Xorshift) -> Bytes {
    (0..100).map(|_| random.next() as u8).collect()
}

/// Returns the commits of one full chunk: of four commits, two have effects on disk, one begins with a list op, one with
/// a sorted set op.
fn commits(value: Value) -> Vec<CommitRecord> {
    let mut random = Xorshift(0x5eed);
    let mut bytes = 0;
    let mut commits = Vec::new();
    while bytes < RAW_BYTES_MAX {
        let csn = commits.len() as u64 + 1;
        let mut commit = CommitRecord {
            csn: Csn(csn),
            epoch: Epoch(1),
            time: CommitTime(1_790_000_000_000_000 + csn * 5),
            ..Default::default()
        };
        let effects = value(&mut random);
        bytes += effects.len();
        match csn % 4 {
            0 => commit.memory = [&[LIST_TAG][..], &effects].concat().into(),
            1 => commit.memory = [&[ZSET_TAG][..], &effects].concat().into(),
            _ => (commit.disk_ops, commit.disk) = (1, effects),
        }
        commits.push(commit);
    }
    commits
}

fn chunks(criterion: &mut Criterion) {
    let values: [(&str, Value); 2] = [("json", json), ("noise", noise)];
    let mut group = criterion.benchmark_group("chunk");
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    for (profile_name, profile) in [("archive", Profile::default()), ("link", Profile::Link)] {
        for (value_name, value) in values {
            let commits = commits(value);
            let mut encoder = Encoder::new(profile);
            let chunk = encoder.encode(commits.iter(), ChunkLink::default());
            let header = chunk.header();
            println!(
                "{profile_name}/{value_name}: {} commits, {} -> {} bytes",
                commits.len(),
                header.raw_len(),
                header.total_len()
            );
            group.throughput(Throughput::Bytes(header.raw_len()));
            group.bench_function(format!("encode/{profile_name}/{value_name}"), |b| {
                b.iter(|| encoder.encode(black_box(&commits).iter(), ChunkLink::default()));
            });
            group.bench_function(format!("decode/{profile_name}/{value_name}"), |b| {
                b.iter(|| {
                    let chunk = Chunk::open(black_box(chunk.bytes()).clone(), "bench").expect("a valid chunk");
                    chunk.commits().map(|commit| commit.expect("a valid commit").effect_bytes()).sum::<usize>()
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, chunks);
criterion_main!(benches);
