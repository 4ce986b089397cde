//! Random histories, the states that they produce, and archives that tests build from them.

use crate::archive::epochs::{self, EpochRecord};
use crate::archive::identity;
use crate::archive::layout::{BaseName, ChunkName, ObjectName, Section};
use crate::archive::retry_policy::RetryPolicy;
use crate::archive::store::Archive;
use crate::archive::testing::faults::QUICK;
use crate::chunk::{ChunkLink, Encoder, Profile};
use crate::cluster::ClusterId;
use crate::csn::{CommitTime, Csn, Epoch, HistoryHash};
use crate::directory::{DataDir, LastRole};
use crate::engine::batch::{self, Family, Record, Records};
use crate::engine::disk::{Disk, DiskOptions};
use crate::engine::key::CSN_KEY;
use crate::engine::memory::Memory;
use crate::engine::memory::testing::{self, Content, content};
use crate::io::StdIo;
use crate::log::envelope;
use crate::log::recovery::{CutPoint, disk_position};
use crate::log::testing::{chain_after, chained, hash_before};
use crate::position::Position;
use crate::record::CommitRecord;
use crate::snapshot::checkpoint;
use crate::snapshot::image::{Contents, ImageParts, Share};
use crate::snapshot::local;
use crate::snapshot::manifest::{
    CutRecord, DbFile, DiskContents, DiskPart, FileRef, Level, MANIFEST_FORMAT, Manifest, MemoryPart, TypeCounts,
};
use bytes::Bytes;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);

/// Returns `count` random commits, beginning with csn 1.
pub(crate) fn history(seed: u64, count: u64, epoch: Epoch) -> Vec<CommitRecord> {
    go_on(&[], seed, count, epoch)
}

/// Returns `before` followed by `count` random commits.
pub(crate) fn go_on(before: &[CommitRecord], seed: u64, count: u64, epoch: Epoch) -> Vec<CommitRecord> {
    extended(before, (seed, count, epoch), 4)
}

/// Returns `before` followed by `count` random commits, up to some minutes apart.
pub(crate) fn wild(before: &[CommitRecord], seed: u64, count: u64, epoch: Epoch) -> Vec<CommitRecord> {
    extended(before, (seed, count, epoch), 400_000_000)
}

/// Returns commits with every kind of op, at most `apart` microseconds apart.
fn extended(before: &[CommitRecord], (seed, count, epoch): (u64, u64, Epoch), apart: u64) -> Vec<CommitRecord> {
    println!("history of seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut commits = before.to_vec();
    let memory = memory_after(before);
    let mut time = commits.last().map_or(1_790_000_000_000_000, |commit| commit.time.0);
    for _ in 0..count {
        time += random.random_range(0..apart);
        let csn = Csn(commits.len() as u64 + 1);
        let mut commit = CommitRecord { csn, epoch, time: CommitTime(time), ..CommitRecord::default() };
        // Of eight commits, one has no effect; the others change one home or both.
        let kinds: u8 = random.random_range(0..8);
        // A base can be cut where the disk engines end: at each third commit.
        if kinds & 1 != 0 || csn.0.is_multiple_of(3) {
            (commit.disk_ops, commit.disk) = disk_effects(&mut random, csn);
        }
        if kinds & 6 != 0 {
            commit.memory = testing::ops(&mut random, &memory).into();
        }
        chain_after(&commits, &mut commit);
        commits.push(commit);
    }
    commits
}

fn disk_effects(random: &mut StdRng, csn: Csn) -> (u32, Bytes) {
    let mut disk = Vec::new();
    let count = random.random_range(1..5);
    for _ in 0..count {
        let family = Family::ALL[random.random_range(0..3)];
        let key = [0, random.random_range(0..12u8)];
        match random.random_range(0..8) {
            0 => drop(batch::push_delete(&mut disk, family, &key)),
            1 => batch::push_delete_range(&mut disk, family, &key, &[0, key[1] + 3]),
            _ => drop(batch::push_put(&mut disk, family, &key, format!("value of csn {csn}").as_bytes())),
        }
    }
    (count, disk.into())
}

/// The state that commits produce, in a comparable form.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct State {
    disk: BTreeMap<(Family, Vec<u8>), Vec<u8>>,
    memory: Content,
}

impl State {
    /// Returns the state after these commits, applied one by one.
    pub(crate) fn after(commits: &[CommitRecord]) -> Self {
        let mut state = Self::default();
        for record in commits.iter().flat_map(|commit| Records::new(&commit.disk)) {
            match record.unwrap() {
                Record::Put(family, key, value) => drop(state.disk.insert((family, key.to_vec()), value.to_vec())),
                Record::Delete(family, key) => drop(state.disk.remove(&(family, key.to_vec()))),
                Record::DeleteRange(family, from, to) => {
                    state.disk.retain(|(of, key), _| *of != family || &key[..] < from || &key[..] >= to);
                }
                Record::LogData(_) => panic!("no commit has log data"),
            }
        }
        state.memory = content(&memory_after(commits));
        state
    }
}

fn memory_after(commits: &[CommitRecord]) -> Memory {
    let memory = Memory::new();
    commits.iter().for_each(|commit| memory.apply_commit(commit).unwrap());
    memory
}

/// The content of a data directory, and the positions of its disk half and its memory half.
pub(crate) fn read_state(dir: &Path) -> (State, Position) {
    let dir = DataDir::new(dir);
    let disk = Disk::open(&dir.db(), &dir.wal(), DiskOptions::default()).unwrap();
    let mut state = State::default();
    for family in Family::ALL {
        for pair in disk.db().iterator_cf(disk.family(family), rocksdb::IteratorMode::Start) {
            let (key, value) = pair.unwrap();
            if *key != *CSN_KEY {
                state.disk.insert((family, key.to_vec()), value.to_vec());
            }
        }
    }
    let (memory, image) = local::newest(&StdIo, &dir.image()).unwrap().expect("an image");
    state.memory = content(&memory);
    let position = disk_position(&disk).unwrap();
    assert_eq!(image, CutPoint { position, wal_seq: disk.wal_seq() });
    assert!(!dir.base().exists());
    (state, position)
}

/// Returns the name of a base.
pub(crate) fn base(csn: u64, epoch: u32) -> BaseName {
    BaseName { csn: Csn(csn), epoch: Epoch(epoch) }
}

/// An archive in memory.
pub(crate) struct Archived {
    pub archive: Archive,
}

impl Archived {
    pub(crate) async fn new() -> Self {
        Self::over(
            Archive::over(Arc::new(InMemory::new()), "memory:///a".to_owned(), "a", None).with_retry_policy(QUICK),
        )
        .await
    }

    /// Creates an archive of the tests' cluster in this empty store.
    pub(crate) async fn over(archive: Archive) -> Self {
        identity::establish(&archive, CLUSTER).await.unwrap();
        Self { archive }
    }

    /// Opens the archive that a store already holds.
    pub(crate) fn around(store: Arc<dyn ObjectStore>) -> Self {
        let archive = Archive::over(store, "memory:///a".to_owned(), "a", None);
        Self { archive: archive.with_retry_policy(RetryPolicy { attempts: 1, ..QUICK }) }
    }

    pub(crate) fn gets(&self) -> u64 {
        self.archive.traffic().gets.load(Ordering::Relaxed)
    }

    /// Claims an epoch; `from` is the parent and the commit at the fork.
    pub(crate) async fn epoch(&self, epoch: u32, from: Option<(u32, &CommitRecord)>) {
        let (node, time) = ("n".to_owned(), CommitTime(1));
        let record = match from {
            None => EpochRecord::first(Epoch(epoch), node, time),
            Some((parent, fork)) => EpochRecord::forked(Epoch(epoch), Epoch(parent), (fork.csn, fork.hash), node, time),
        };
        epochs::claim(&self.archive, &record).await.unwrap();
    }

    /// Archives commits as chunks with these numbers of commits, each continuing the one before.
    pub(crate) async fn chunks(&self, epoch: u32, commits: &[CommitRecord], sizes: &[usize]) {
        let before = commits.first().map_or(HistoryHash::ZERO, hash_before);
        self.chunks_after(before, epoch, commits, sizes).await;
    }

    /// Does the same for commits that follow a commit with the history hash `hash_before`.
    pub(crate) async fn chunks_after(
        &self,
        hash_before: HistoryHash,
        epoch: u32,
        mut commits: &[CommitRecord],
        sizes: &[usize],
    ) {
        let mut encoder = Encoder::new(Profile::default());
        let mut link = ChunkLink { epoch: Epoch(epoch), hash_before, ..ChunkLink::default() };
        for &size in sizes {
            let (now, later) = commits.split_at(size);
            let chunk = encoder.encode(now.iter(), link);
            let (first, last) = (now[0].csn, now[size - 1].csn);
            let name = ObjectName::Chunk(ChunkName { epoch: Epoch(epoch), first, last });
            self.archive.put_verified(&name, chunk.bytes().clone()).await.unwrap();
            link.hash_before = chunk.header().hash_after;
            commits = later;
        }
        assert!(commits.is_empty(), "the sizes cover all commits");
    }

    /// Archives a strict base: the keys in memory cut at `memory_csn`, RocksDB at `csn`.
    pub(crate) async fn base(&self, commits: &[CommitRecord], epoch: u32, memory_csn: u64, csn: u64) {
        self.base_as(commits, epoch, memory_csn, csn, Level::Strict).await;
    }

    /// Archives a base of a level, with the keys in memory in two images.
    pub(crate) async fn base_as(&self, commits: &[CommitRecord], epoch: u32, memory_csn: u64, csn: u64, level: Level) {
        let name = base(csn, epoch);
        let (disk, files) = disk_part(&commits[..csn as usize]);
        for (file, content) in disk.files.iter().zip(files) {
            self.archive.put_verified(&file.object(name), content).await.unwrap();
        }
        let position = |csn: u64| {
            let at = csn.checked_sub(1).map(|at| &commits[at as usize]);
            at.map_or_else(Position::default, Position::of)
        };
        let at = position(memory_csn);
        let memory = memory_after(&commits[..memory_csn as usize]);
        let image = CutPoint { position: at, wal_seq: disk.wal_seq };
        let (mut images, mut contents) = (Vec::new(), Contents::default());
        for nth in 0..2 {
            let cut = memory.cut();
            let mut parts = ImageParts::new(&cut, image, Share { nth, of: 2 });
            let bytes: Vec<u8> = parts.by_ref().flatten().collect();
            contents += parts.contents();
            images.push(self.own_file(name, &format!("memory-{nth}.image"), bytes.into()).await);
        }
        let missing: Vec<CommitRecord> = commits[memory_csn as usize..csn as usize]
            .iter()
            .map(|commit| CommitRecord { disk_ops: 0, disk: Bytes::new(), ..commit.clone() })
            .collect();
        let mut completion = Vec::new();
        for part in missing.chunks(2).filter(|_| level == Level::Strict) {
            let link = ChunkLink { epoch: Epoch(epoch), ..ChunkLink::default() };
            let part = chained(part.iter().cloned());
            let chunk = Encoder::new(Profile::default()).encode(part.iter(), link);
            let file = format!("completion-{}.chunk", part[0].csn.padded());
            completion.push(self.own_file(name, &file, chunk.bytes().clone()).await);
        }
        let manifest = Manifest {
            format: MANIFEST_FORMAT,
            cluster: CLUSTER,
            epoch: Epoch(epoch),
            csn: Csn(csn),
            time: position(csn).time,
            hash: position(csn).hash,
            level,
            cut: CutRecord {
                asked: level,
                skew_commits: csn - memory_csn,
                skew_us: position(csn).time.0.abs_diff(at.time.0),
                allowed_us: None,
                node: "n".to_owned(),
                role: LastRole::Primary,
            },
            memory: MemoryPart {
                csn: at.csn,
                time: at.time,
                hash: at.hash,
                keys: TypeCounts::of(&contents.counts),
                elements: contents.counts.elements,
                digest: contents.digest.hash(),
                files: images,
            },
            disk,
            completion,
            bytes_new: 0,
            bytes_shared: 0,
            took_ms: 0,
        };
        self.archive.put_verified(&manifest.start().manifest(), manifest.encode().into()).await.unwrap();
    }

    async fn own_file(&self, base: BaseName, name: &str, content: Bytes) -> FileRef {
        let file = FileRef { name: name.to_owned(), bytes: content.len() as u64, blake3: blake3::hash(&content) };
        self.archive.put_verified(&file.object(base), content).await.unwrap();
        file
    }

    pub(crate) async fn remove_chunk(&self, epoch: u32, first: u64, last: u64) {
        let chunk = ChunkName { epoch: Epoch(epoch), first: Csn(first), last: Csn(last) };
        self.archive.delete(&ObjectName::Chunk(chunk)).await.unwrap();
    }

    /// Damages the byte in the middle of an object.
    pub(crate) async fn flip_byte(&self, name: &ObjectName) {
        let mut content = self.archive.get(name).await.unwrap().expect("the object is there").to_vec();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        self.archive.put_verified(name, content.into()).await.unwrap();
    }

    /// Returns the names of all objects.
    pub(crate) async fn names(&self) -> Vec<ObjectName> {
        self.archive.list(Section::All).await.unwrap().objects.into_iter().map(|object| object.name).collect()
    }

    /// Returns the file of a base whose name begins with this text.
    pub(crate) async fn base_file(&self, base: BaseName, begin: &str) -> ObjectName {
        let is_it = |name: &ObjectName| matches!(name, ObjectName::BaseFile(of, file) if *of == base && file.as_str().starts_with(begin));
        self.names().await.into_iter().find(is_it).expect("the base has such a file")
    }
}

/// Makes a checkpoint after these commits; returns the contents of its files.
fn disk_part(commits: &[CommitRecord]) -> (DiskPart, Vec<Bytes>) {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(&dir.path().join("db"), &dir.path().join("wal"), DiskOptions::default()).unwrap();
    for commit in commits {
        if let Some(batch) = envelope::assemble(std::slice::from_ref(commit), &[]) {
            disk.write(&batch, true).unwrap();
        }
    }
    disk.flush().unwrap();
    let checkpoint = dir.path().join("checkpoint");
    rocksdb::checkpoint::Checkpoint::new(disk.db()).unwrap().create_checkpoint(&checkpoint).unwrap();
    let (mut files, mut contents) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(&checkpoint).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.ends_with(".log") {
            continue;
        }
        let content = Bytes::from(std::fs::read(entry.path()).unwrap());
        let (bytes, shared) = (content.len() as u64, name.ends_with(".sst"));
        files.push(DbFile { name, bytes, blake3: blake3::hash(&content), shared });
        contents.push(content);
    }
    let at = disk_position(&disk).unwrap();
    let contents_told = DiskContents { digest: checkpoint::digest(&files), families: Vec::new() };
    let Position { csn, time, epoch, hash } = at;
    let part = DiskPart { csn, time, epoch, hash, wal_seq: disk.wal_seq(), contents: contents_told, files };
    (part, contents)
}
