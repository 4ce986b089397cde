//! The commit path, from a command's effects to both logs: by engine, by size of the group and by durability.
//!
//! An iteration is one group; throughput counts commits. With `always`, one client waits for the reply to each group,
//! which measures the latency of a sync. With `everysec`, the sync thread runs in parallel, as it does in a node.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::sync::Arc;
use std::time::Duration;
use walferry::commit::committer::{Committer, Start};
use walferry::commit::gate::Gate;
use walferry::commit::sync::Syncer;
use walferry::config::AppendFsync;
use walferry::engine::disk::{Disk, DiskOptions};
use walferry::engine::key::{Generation, StreamId};
use walferry::engine::keyspace::{Found, Keyspace};
use walferry::engine::memory::Memory;
use walferry::engine::meta::{Collection, DiskType};
use walferry::io::{Io, StdIo};
use walferry::log::durable::DurableFile;
use walferry::log::oplog::OpLog;
use walferry::position::Position;

const VALUE: [u8; 100] = [b'v'; 100];
const KEYS: u64 = 10_000;
const OPLOG_SEGMENT_BYTES: u64 = 32 << 20;
/// Number of commits between two checks whether a spare segment is needed.
const SPARE_LOOK: u64 = 4096;

/// Changes the keyspace as a command does, for the `nth` of many keys.
type Command = fn(&mut Keyspace<'_>, u64);

const COMMANDS: [(&str, Command); 7] = [
    ("set", set),
    ("hset", |keys, nth| add(keys, DiskType::Hash, b"hash", nth)),
    ("sadd", |keys, nth| add(keys, DiskType::Set, b"set", nth)),
    ("xadd", xadd),
    ("lpush", lpush),
    ("zadd", zadd),
    ("multi set lpush zadd", |keys, nth| {
        set(keys, nth);
        lpush(keys, nth);
        zadd(keys, nth);
    }),
];

fn name(prefix: &str, nth: u64) -> Vec<u8> {
    format!("{prefix}:{:012}", nth.wrapping_mul(0x9e37_79b9_7f4a_7c15) % KEYS).into_bytes()
}

fn set(keys: &mut Keyspace<'_>, nth: u64) {
    let key = name("string", nth);
    keys.find_to_change(&key).expect("look");
    keys.put_string(&key, &VALUE, 0).expect("set");
}

/// Returns the collection at a key, or a new one.
fn collection(keys: &mut Keyspace<'_>, kind: DiskType, key: &[u8]) -> Collection {
    match keys.find_to_change(key).expect("look") {
        Found::Collection(found) => found,
        _ => Collection::new(kind, keys.new_generation()),
    }
}

fn add(keys: &mut Keyspace<'_>, kind: DiskType, prefix: &[u8], nth: u64) {
    let key = [prefix, &name("", nth / 16)].concat();
    let mut meta = collection(keys, kind, &key);
    let mut element = VALUE;
    element[..8].copy_from_slice(&nth.to_be_bytes());
    let (field, value): (&[u8], &[u8]) = if kind == DiskType::Hash { (&element[..8], &VALUE) } else { (&element, b"") };
    meta.count += u64::from(!keys.has_element(&key, &meta, field).expect("look"));
    keys.put_elements(&key, &meta, std::iter::once((field, value))).expect("put");
    keys.put_collection(&key, &meta).expect("put");
}

fn xadd(keys: &mut Keyspace<'_>, nth: u64) {
    let key = name("stream", nth / 16);
    let mut meta = collection(keys, DiskType::Stream, &key);
    meta.last_id = StreamId { ms: nth, seq: 0 };
    meta.count += 1;
    let generation: Generation = meta.generation;
    keys.put_entry(&key, generation, meta.last_id, &VALUE);
    keys.put_collection(&key, &meta).expect("put");
}

fn lpush(keys: &mut Keyspace<'_>, nth: u64) {
    let key = name("list", nth);
    keys.find_to_change(&key).expect("look");
    keys.change_in_memory(&key, |ops| ops.push_front(&key, [&VALUE[..]].into_iter())).expect("push");
}

fn zadd(keys: &mut Keyspace<'_>, nth: u64) {
    let key = name("zset", nth);
    keys.find_to_change(&key).expect("look");
    let mut member = VALUE;
    member[..8].copy_from_slice(&(nth % 64).to_be_bytes());
    keys.change_in_memory(&key, |ops| ops.set_scores(&key, [(&member[..], nth as f64)].into_iter())).expect("set");
}

/// Creates a committer over a new directory.
fn committer(dir: &std::path::Path, mode: AppendFsync) -> Committer {
    let io: Arc<dyn Io> = Arc::new(StdIo);
    let disk = Arc::new(Disk::open(&dir.join("db"), &dir.join("wal"), DiskOptions::default()).expect("open RocksDB"));
    let oplog = OpLog::open(Arc::clone(&io), &dir.join("oplog"), OPLOG_SEGMENT_BYTES).expect("open the op-log");
    let (durable_file, _) = DurableFile::open(Arc::clone(&io), &dir.join("oplog")).expect("open the durable file");
    let gate = Arc::new(Gate::default());
    let wal = Arc::clone(&disk);
    let start = Start { disk, oplog, memory: Memory::new(), position: Position::default(), known: Vec::new() };
    Committer::new(start, Arc::clone(&gate), |_, watermarks| {
        Syncer::start(mode, wal, io, durable_file, Arc::clone(watermarks), gate)
    })
}

fn commits(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    for mode in [AppendFsync::EverySec, AppendFsync::Always] {
        for commits in [1, 16] {
            let mut group = c.benchmark_group(format!("commit/{mode}/{commits} a group"));
            group.throughput(Throughput::Elements(commits));
            group.sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
            for (what, command) in COMMANDS {
                let dir = tempfile::tempdir().expect("a directory");
                let committer = committer(dir.path(), mode);
                let mut nth = 0;
                let mut preparing = std::thread::spawn(|| ());
                group.bench_function(BenchmarkId::from_parameter(what), |b| {
                    b.iter(|| {
                        let mut turn = committer.lock_logs();
                        for _ in 0..commits {
                            nth += 1;
                            turn.reserve(VALUE.len() + 40).expect("room");
                            command(&mut turn.keyspace(0), nth);
                            turn.commit();
                        }
                        let last = turn.write().expect("written").expect("not empty");
                        // The spare segment is prepared as a node's chores do it: in parallel to the writer, and not
                        // with every group.
                        if nth % SPARE_LOOK < commits
                            && preparing.is_finished()
                            && let Some(spare) = turn.oplog().wants_spare()
                        {
                            preparing = std::thread::spawn(move || spare.prepare().expect("a spare segment"));
                        }
                        drop(turn);
                        runtime.block_on(committer.syncer.acknowledged(last)).expect("synced");
                    });
                });
                committer.syncer.stop();
                preparing.join().expect("a spare segment");
            }
            group.finish();
        }
    }
}

criterion_group!(benches, commits);
criterion_main!(benches);
