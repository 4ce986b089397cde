//! Test support: a node without clients, with a real committer over real logs, random commits, and the expected state.

use super::base::{BaseCutter, CutRequest, LocalBase};
use super::image;
use super::manifest::{Level, Manifest, TypeCounts};
use crate::chunk::Chunk;
use crate::cluster::ClusterId;
use crate::commit::committer::{CommitSink, Committer, Group, Start};
use crate::commit::gate::Gate;
use crate::commit::sync::Syncer;
use crate::config::{AppendFsync, Consistency};
use crate::csn::{Csn, Epoch};
use crate::directory::{DataDir, LastRole};
use crate::engine::batch::Family;
use crate::engine::disk::{Disk, DiskOptions};
use crate::engine::memory::Memory;
use crate::error::Result;
use crate::io::{Io, StdIo};
use crate::log::durable::DurableFile;
use crate::log::envelope;
use crate::log::oplog::OpLog;
use crate::position::Position;
use crate::record::CommitRecord;
use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);
const SEGMENT_BYTES: u64 = 1 << 20;
/// Small, so that bases of little memory have several images.
const IMAGE_MEMORY_MIN: usize = 32 << 10;

/// The rows of all column families, by family and key.
pub(crate) type DiskContent = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

/// Records every commit.
#[derive(Default)]
struct Recorder(Mutex<Vec<CommitRecord>>);

impl CommitSink for Recorder {
    fn committed(&self, group: Group) {
        self.0.lock().extend(group.commits.iter().cloned());
    }
}

pub(crate) struct Rig {
    pub root: tempfile::TempDir,
    pub committer: Arc<Committer>,
    pub cutter: BaseCutter,
    recorder: Arc<Recorder>,
}

impl Rig {
    pub(crate) fn new(mode: AppendFsync) -> Self {
        let root = tempfile::tempdir().expect("tempdir");
        let dir = DataDir::new(root.path());
        let io: Arc<dyn Io> = Arc::new(StdIo);
        let disk = Arc::new(open(&dir.db(), &dir.wal()));
        let oplog = OpLog::open(Arc::clone(&io), &dir.oplog(), SEGMENT_BYTES).expect("op-log");
        let (durable_file, _) = DurableFile::open(Arc::clone(&io), root.path()).expect("durable file");
        let gate = Arc::new(Gate::default());
        let position = Position { epoch: Epoch(1), ..Position::default() };
        let start = Start { disk: Arc::clone(&disk), oplog, memory: Memory::new(), position, known: Vec::new() };
        let syncer = {
            let (io, gate) = (Arc::clone(&io), Arc::clone(&gate));
            move |_: &OpLog, watermarks: &Arc<_>| {
                Syncer::start(mode, disk, io, durable_file, Arc::clone(watermarks), gate)
            }
        };
        let committer = Arc::new(Committer::new(start, gate, syncer));
        let recorder = Arc::new(Recorder::default());
        committer.attach(Arc::clone(&recorder) as _);
        let cutter = BaseCutter::new(io, &dir, CLUSTER).with_image_memory_min(IMAGE_MEMORY_MIN);
        Self { cutter, root, committer, recorder }
    }

    /// Writes `groups` groups of random commits: some change the disk engines, some the keys in memory, most change
    /// both.
    pub(crate) fn write(&self, seed: u64, groups: usize) {
        write(&self.committer, &mut StdRng::seed_from_u64(seed), groups);
    }

    /// Writes one commit that touches lists only.
    pub(crate) fn write_list(&self, element: &[u8]) {
        let mut turn = self.committer.lock_logs();
        turn.keyspace(0)
            .change_in_memory(b"list:only", |ops| ops.push_back(b"list:only", [element].into_iter()))
            .expect("push");
        turn.commit().expect("a commit");
        turn.write().expect("write");
    }

    /// Cuts a strict base.
    pub(crate) fn cut(&mut self) -> Result<LocalBase> {
        self.cutter.cut(&self.committer, &request(Consistency::Strict))
    }

    /// Cuts a base, and writes `groups` groups of random commits between its two cuts.
    pub(crate) fn cut_around(&mut self, consistency: Consistency, seed: u64, groups: usize) -> Result<LocalBase> {
        let committer = &self.committer;
        let between = || write(committer, &mut StdRng::seed_from_u64(seed), groups);
        self.cutter.cut_between(committer, &request(consistency), between)
    }

    /// Returns every commit so far.
    pub(crate) fn commits(&self) -> Vec<CommitRecord> {
        self.recorder.0.lock().clone()
    }

    /// Cuts a base while another thread writes.
    pub(crate) fn cut_under_load(&mut self, seed: u64) -> LocalBase {
        let stop = AtomicBool::new(false);
        let committer = &self.committer;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut rng = StdRng::seed_from_u64(seed);
                while !stop.load(Ordering::Relaxed) {
                    write(committer, &mut rng, 1);
                }
            });
            let base = self.cutter.cut(committer, &request(Consistency::Strict));
            stop.store(true, Ordering::Relaxed);
            base.expect("a base")
        })
    }

    /// Returns the state after the first `csn` commits.
    pub(crate) fn expected(&self, csn: Csn) -> (Memory, DiskContent) {
        let dir = tempfile::tempdir().expect("tempdir");
        let disk = open(&dir.path().join("db"), &dir.path().join("wal"));
        let memory = Memory::new();
        for commit in self.recorder.0.lock().iter().take_while(|commit| commit.csn <= csn) {
            memory.apply_commit(commit).expect("memory ops");
            if let Some(batch) = envelope::assemble(std::slice::from_ref(commit), &[]) {
                disk.write(&batch, true).expect("write");
            }
        }
        (memory, disk_content(&disk))
    }
}

pub(crate) fn request(consistency: Consistency) -> CutRequest {
    CutRequest { consistency, node: "rig".to_owned(), role: LastRole::Primary }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.committer.syncer.stop();
    }
}

fn write(committer: &Committer, rng: &mut StdRng, groups: usize) {
    for _ in 0..groups {
        let mut turn = committer.lock_logs();
        turn.reserve(1 << 16).expect("reserve");
        for _ in 0..rng.random_range(1..8) {
            let kinds = rng.random_range(1..16_u32);
            let number: u32 = rng.random();
            let value = number.to_string().repeat(rng.random_range(1..40));
            let mut keys = turn.keyspace(0);
            if kinds & 1 != 0 {
                keys.put_string(format!("string:{}", number % 500).as_bytes(), value.as_bytes(), 0).expect("put");
            }
            if kinds & 2 != 0 {
                let key = format!("list:{}", number % 5);
                keys.change_in_memory(key.as_bytes(), |ops| {
                    ops.push_back(key.as_bytes(), [value.as_bytes()].into_iter())
                })
                .expect("push");
            }
            if kinds & 4 != 0 {
                let key = format!("zset:{}", number % 3);
                let member = (number % 1000).to_string();
                keys.change_in_memory(key.as_bytes(), |ops| {
                    ops.set_scores(key.as_bytes(), [(member.as_bytes(), f64::from(number))].into_iter());
                })
                .expect("add");
            }
            if kinds & 8 != 0 {
                let key = format!("memory:{}", number % 30);
                keys.change_in_memory(key.as_bytes(), |ops| match number % 3 {
                    0 => ops.set_string(key.as_bytes(), 0, value.as_bytes()),
                    1 => ops.add_members(key.as_bytes(), [value.as_bytes()].into_iter()),
                    _ => ops.put_fields(key.as_bytes(), [(value.as_bytes(), key.as_bytes())].into_iter()),
                })
                .expect("change");
            }
            turn.commit().expect("a commit");
        }
        turn.write().expect("write");
    }
}

fn open(db: &Path, wal: &Path) -> Disk {
    Disk::open(db, wal, DiskOptions { cache_bytes: 1 << 20, ..DiskOptions::default() }).expect("database")
}

pub(crate) fn disk_content(disk: &Disk) -> DiskContent {
    let mut content = DiskContent::new();
    for family in Family::ALL {
        let mut cursor = disk.db().raw_iterator_cf(disk.family(family));
        cursor.seek_to_first();
        while let Some((key, value)) = cursor.item() {
            content.insert((family as u8, key.to_vec()), value.to_vec());
            cursor.next();
        }
        cursor.status().expect("scan");
    }
    content
}

/// Checks every file of a base against the manifest and returns the restored state: for a strict base every engine at
/// the base's csn, otherwise the keys in memory at their own cut. `fetch` returns the content of a file, given its
/// name in the manifest.
pub(crate) fn restore(manifest: &Manifest, fetch: impl Fn(&str) -> Bytes + Sync) -> (Memory, DiskContent) {
    let checked = |name: &str, bytes: u64, blake3: blake3::Hash| {
        let content = fetch(name);
        assert_eq!((content.len() as u64, blake3::hash(&content)), (bytes, blake3), "{name}");
        content
    };
    let dir = tempfile::tempdir().expect("tempdir");
    let db = dir.path().join("db");
    std::fs::create_dir(&db).expect("create directory");
    for file in &manifest.disk.files {
        std::fs::write(db.join(&file.name), checked(&file.name, file.bytes, file.blake3)).expect("write");
    }
    let disk = open(&db, &dir.path().join("wal"));
    assert_eq!(disk.wal_seq(), manifest.disk.wal_seq);
    let position = crate::log::recovery::disk_position(&disk).expect("position");
    assert_eq!(
        position,
        Position {
            csn: manifest.disk.csn,
            time: manifest.disk.time,
            epoch: manifest.disk.epoch,
            hash: manifest.disk.hash
        }
    );

    let files = &manifest.memory.files;
    let image = |nth: usize| {
        let file = &files[nth];
        std::iter::once(Ok(checked(&file.name, file.bytes, file.blake3)))
    };
    let (memory, at) = image::read_images(files.len(), |nth| nth.to_string(), image).expect("images");
    let contents = image::Contents::of(&memory.cut());
    let told = &manifest.memory;
    assert_eq!((contents.digest.hash(), contents.counts.elements), (told.digest, told.elements));
    assert_eq!(TypeCounts::of(&contents.counts), told.keys);
    assert_eq!(TypeCounts::in_memory(&memory), told.keys);
    assert_eq!((at.position.csn, at.position.time), (told.csn, told.time));
    let mut csn = at.position.csn;
    if manifest.level != Level::Strict {
        assert_eq!((csn, manifest.completion.len()), (manifest.start().after, 0));
        return (memory, disk_content(&disk));
    }
    for file in &manifest.completion {
        let chunk = Chunk::open(checked(&file.name, file.bytes, file.blake3), &file.name).expect("chunk");
        for commit in chunk.commits().map(|commit| commit.expect("commit")) {
            assert_eq!(commit.csn, csn.next());
            assert!(!commit.touches_disk());
            csn = commit.csn;
            memory.apply_commit(&commit).expect("memory ops");
        }
    }
    assert_eq!(csn, manifest.csn);
    (memory, disk_content(&disk))
}
