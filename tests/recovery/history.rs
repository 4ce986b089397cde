//! A small history: the actions of each commit, the resulting state, and a node that makes the commits.

use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use walferry::commit::committer::{CommitSink, Committer, Group, Start};
use walferry::commit::gate::Gate;
use walferry::commit::guards::LogsGuard;
use walferry::commit::sync::Syncer;
use walferry::config::AppendFsync;
use walferry::csn::Csn;
use walferry::engine::disk::{Disk, DiskOptions};
use walferry::engine::key::SLOTS;
use walferry::engine::keyspace::{Found, Keyspace, scanned_key};
use walferry::engine::memory::{Memory, Slot};
use walferry::engine::meta::{Collection, DiskType};
use walferry::error::{Error, Result};
use walferry::io::{Io, StdIo};
use walferry::log::durable::DurableFile;
use walferry::log::oplog::OpLog;
use walferry::log::recovery::{self, CutPoint, Losses, MissingCommits, Recovered};
use walferry::record::CommitRecord;
use walferry::watermark::Watermark;

/// Segment size in bytes; so small that a dozen frames fill a segment.
pub(crate) const SEGMENT_BYTES: u64 = 1536;

/// One action of a commit.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Sets a string on disk, whatever the key held.
    Set(&'static str, String),
    /// Sets a field of a hash on disk.
    Field(&'static str, String),
    /// Sets a field of a hash in memory.
    Memo(&'static str, String),
    /// Removes a field of a hash in memory.
    Forget(&'static str, String),
    /// Appends an element to a list; replaces a string.
    Push(&'static str, String),
    /// Removes the first element of a list.
    Pop(&'static str),
    /// Sets the score of a sorted set's member.
    Score(&'static str, String, f64),
}

/// The actions of a commit, in order. Empty for a lost commit.
pub(crate) type Actions = Vec<Action>;

/// The value of a key.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Value {
    String(Vec<u8>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    /// The fields of a hash in memory.
    Memo(BTreeSet<Vec<u8>>),
    List(Vec<Vec<u8>>),
    Zset(BTreeMap<Vec<u8>, f64>),
}

/// All keys of all engines.
pub(crate) type State = BTreeMap<Vec<u8>, Value>;

/// Applies a commit to the model. An action that does not fit, because earlier commits were lost, has no effect.
pub(crate) fn follow(state: &mut State, actions: &[Action]) {
    for action in actions {
        match action {
            Action::Set(key, value) => {
                state.insert(key.as_bytes().to_vec(), Value::String(value.as_bytes().to_vec()));
            }
            Action::Field(key, field) => {
                let entry = state.entry(key.as_bytes().to_vec()).or_insert(Value::Hash(BTreeMap::new()));
                let Value::Hash(hash) = entry else { panic!("{key} is no hash") };
                hash.insert(field.as_bytes().to_vec(), field.as_bytes().to_vec());
            }
            Action::Memo(key, field) => {
                let entry = state.entry(key.as_bytes().to_vec()).or_insert(Value::Memo(BTreeSet::new()));
                let Value::Memo(memo) = entry else { panic!("{key} is no hash in memory") };
                memo.insert(field.as_bytes().to_vec());
            }
            Action::Forget(key, field) => {
                let Some(Value::Memo(memo)) = state.get_mut(key.as_bytes()) else { continue };
                memo.remove(field.as_bytes());
                if memo.is_empty() {
                    state.remove(key.as_bytes());
                }
            }
            Action::Push(key, element) => {
                let value = state.entry(key.as_bytes().to_vec()).or_insert(Value::List(Vec::new()));
                match value {
                    Value::List(list) => list.push(element.as_bytes().to_vec()),
                    _ => *value = Value::List(vec![element.as_bytes().to_vec()]),
                }
            }
            Action::Pop(key) => {
                let Some(Value::List(list)) = state.get_mut(key.as_bytes()) else { continue };
                list.remove(0);
                if list.is_empty() {
                    state.remove(key.as_bytes());
                }
            }
            Action::Score(key, member, score) => {
                let entry = state.entry(key.as_bytes().to_vec()).or_insert(Value::Zset(BTreeMap::new()));
                let Value::Zset(zset) = entry else { panic!("{key} is no sorted set") };
                zset.insert(member.as_bytes().to_vec(), *score);
            }
        }
    }
}

/// Reports whether these actions have effects on disk, and in memory, after the state `before`.
pub(crate) fn engines(before: &State, actions: &[Action]) -> (bool, bool) {
    let is_in_memory = |key: &str| matches!(before.get(key.as_bytes()), Some(Value::List(_) | Value::Zset(_)));
    let is_on_disk = |key: &str| matches!(before.get(key.as_bytes()), Some(Value::String(_) | Value::Hash(_)));
    actions.iter().fold((false, false), |(disk, memory), action| match action {
        Action::Set(key, _) => (true, memory || is_in_memory(key)),
        Action::Field(..) => (true, memory),
        Action::Push(key, _) => (disk || is_on_disk(key), true),
        Action::Pop(_) | Action::Score(..) | Action::Memo(..) | Action::Forget(..) => (disk, true),
    })
}

fn perform(keys: &mut Keyspace<'_>, action: &Action) {
    match action {
        Action::Set(key, value) => {
            let (key, value) = (key.as_bytes(), value.as_bytes());
            if let found @ Found::List(_) = keys.find_to_change(key).unwrap() {
                keys.delete(key, &found).unwrap();
            }
            keys.put_string(key, value, 0).unwrap();
        }
        Action::Memo(key, field) => {
            let (key, field) = (key.as_bytes(), field.as_bytes());
            keys.change_in_memory(key, |ops| ops.put_fields(key, [(field, field)].into_iter())).unwrap();
        }
        Action::Forget(key, field) => {
            let (key, field) = (key.as_bytes(), field.as_bytes());
            keys.change_in_memory(key, |ops| ops.remove_fields(key, [field].into_iter())).unwrap();
        }
        Action::Field(key, field) => {
            let (key, field) = (key.as_bytes(), field.as_bytes());
            let mut hash = match keys.find_to_change(key).unwrap() {
                Found::Collection(hash) => hash,
                _ => Collection::new(DiskType::Hash, keys.new_generation()),
            };
            hash.count += u64::from(!keys.has_element(key, &hash, field).unwrap());
            keys.put_elements(key, &hash, std::iter::once((field, field))).unwrap();
            keys.put_collection(key, &hash).unwrap();
        }
        Action::Push(key, element) => {
            let (key, element) = (key.as_bytes(), element.as_bytes());
            if let found @ Found::String(_) = keys.find_to_change(key).unwrap() {
                keys.delete(key, &found).unwrap();
            }
            keys.change_in_memory(key, |ops| ops.push_back(key, [element].into_iter())).unwrap();
        }
        Action::Pop(key) => keys.change_in_memory(key.as_bytes(), |ops| ops.pop_front(key.as_bytes(), 1)).unwrap(),
        Action::Score(key, member, score) => {
            let pair = (member.as_bytes(), *score);
            keys.change_in_memory(key.as_bytes(), |ops| ops.set_scores(key.as_bytes(), [pair].into_iter())).unwrap();
        }
    }
}

/// Returns the content of the engines.
pub(crate) fn observe(disk: &Disk, memory: &Memory) -> State {
    let mut state = State::new();
    let mut add = |key: &[u8], value| assert!(state.insert(key.to_vec(), value).is_none(), "{key:?} lives twice");
    let committed = Watermark::new(Csn(u64::MAX));
    let keys = Keyspace::reading(disk, memory, 0, &committed);
    let mut scan = keys.disk_keys(0..SLOTS);
    while let Some(pair) = scan.next().unwrap() {
        let (key, _) = scanned_key(pair).unwrap();
        match keys.find(key).unwrap() {
            Found::String(value) => add(key, Value::String(value.bytes().to_vec())),
            Found::Collection(hash) => {
                let mut fields = BTreeMap::new();
                let insert = |field: &[u8], value: &[u8]| fields.insert(field.to_vec(), value.to_vec()).is_none();
                keys.walk_elements(key, &hash, b"", insert).unwrap();
                assert_eq!(fields.len() as u64, hash.count, "{key:?}");
                add(key, Value::Hash(fields));
            }
            _ => panic!("{key:?} is neither a string nor a collection"),
        }
    }
    for slot in memory.cut().iter() {
        add(slot.key(), value_in_memory(slot));
    }
    state
}

fn value_in_memory(slot: &Slot) -> Value {
    if let Some(hash) = slot.as_hash() {
        let field = |(field, value): (&[u8], &[u8])| {
            assert_eq!(field, value);
            field.to_vec()
        };
        return Value::Memo(hash.iter_from(0).map(|element| element.with(field)).collect());
    }
    if let Some(zset) = slot.as_zset() {
        return Value::Zset(zset.iter_from(0).map(|(member, score)| (member.to_vec(), score)).collect());
    }
    let list = slot.as_list().expect("no action makes a string or a set in memory");
    Value::List(list.iter_from(0).map(<[u8]>::to_vec).collect())
}

/// Records the groups that a committer wrote.
#[derive(Default)]
pub(crate) struct Groups(Mutex<Vec<Group>>);

impl CommitSink for Groups {
    fn committed(&self, group: Group) {
        self.0.lock().push(group);
    }
}

/// The recovered logs and engines of a directory.
pub(crate) struct Opened {
    pub disk: Arc<Disk>,
    pub oplog: OpLog,
    pub memory: Memory,
    pub recovered: Recovered,
}

/// A memory image: its position, and the ops of its commits.
#[derive(Clone, Default)]
pub(crate) struct Image {
    pub at: CutPoint,
    pub commits: Arc<[CommitRecord]>,
}

/// Opens and recovers the data directory at `root`.
pub(crate) fn open(root: &Path, image: &Image, missing: Option<&dyn MissingCommits>) -> Result<Opened> {
    let options = DiskOptions { cache_bytes: 1 << 20, ..DiskOptions::default() };
    let disk = Arc::new(Disk::open(&root.join("db"), &root.join("wal"), options)?);
    let mut oplog = OpLog::open(Arc::new(StdIo), &root.join("oplog"), SEGMENT_BYTES)?;
    let memory = Memory::new();
    image.commits.iter().try_for_each(|commit| memory.apply_commit(commit))?;
    // Kept in a file, as the identity of a data directory keeps it. The value never decreases, although the cuts of
    // these tests also remove data that a recovery has synced.
    let intact = root.join("intact");
    let intact_until = std::fs::read_to_string(&intact).ok().map(|text| Csn(text.parse().unwrap()));
    let mut note = |csn: Csn| std::fs::write(&intact, csn.to_string()).map_err(Error::io("write", &intact));
    let losses = Losses { intact_until, note: &mut note };
    let recovered = recovery::recover(&disk, &mut oplog, &memory, image.at, missing, losses)?;
    Ok(Opened { disk, oplog, memory, recovered })
}

/// A committer over an opened directory.
pub(crate) struct Node {
    pub committer: Committer,
    groups: Arc<Groups>,
}

impl Node {
    /// Starts committing after the recovered position.
    pub(crate) fn start(root: &Path, opened: Opened, image: CutPoint) -> Self {
        let io: Arc<dyn Io> = Arc::new(StdIo);
        let gate = Arc::new(Gate::default());
        let (durable_file, _) = DurableFile::open(Arc::clone(&io), &root.join("oplog")).unwrap();
        let Opened { disk, oplog, memory, recovered } = opened;
        let wal = Arc::clone(&disk);
        let start = Start { disk, oplog, memory, position: recovered.position, known: vec![image.log_cursor()] };
        let committer = Committer::new(start, Arc::clone(&gate), |_, watermarks| {
            Syncer::start(AppendFsync::No, wal, io, durable_file, Arc::clone(watermarks), gate)
        });
        let groups = Arc::new(Groups::default());
        committer.attach(Arc::<Groups>::clone(&groups));
        Self { committer, groups }
    }

    /// Writes these commits as one group; returns the last csn.
    pub(crate) fn commit(&self, commits: &[Actions]) -> Csn {
        let mut turn = self.committer.lock_logs();
        for actions in commits {
            commit_one(&mut turn, actions);
        }
        turn.write().unwrap().expect("a group with effects")
    }

    /// Returns the content of the engines.
    pub(crate) fn observe(&self) -> State {
        let _turn = self.committer.lock_logs();
        observe(self.committer.disk(), self.committer.memory())
    }

    /// Closes everything; returns the written groups.
    pub(crate) fn stop(self) -> Vec<Group> {
        self.committer.syncer.stop();
        drop(self.committer);
        std::mem::take(&mut *self.groups.0.lock())
    }
}

fn commit_one(turn: &mut LogsGuard<'_>, actions: &[Action]) {
    let mut keys = turn.keyspace(0);
    actions.iter().for_each(|action| perform(&mut keys, action));
    turn.commit().expect("a commit with effects");
}

/// Returns groups of commits that contain every sequence of kinds (disk only, memory only, cross-engine).
pub(crate) fn groups() -> Vec<Vec<Actions>> {
    let sizes = [1, 1, 3, 1, 2, 1, 1, 4, 1, 1, 2, 1, 5, 1, 1, 1, 2, 3, 1, 1, 1, 2, 1, 1];
    let mut nth = 0;
    let mut next = || {
        nth += 1;
        actions(nth)
    };
    sizes.iter().map(|&size| (0..size).map(|_| next()).collect()).collect()
}

/// Returns the actions of commit `nth`.
pub(crate) fn actions(nth: usize) -> Actions {
    let text = |what: &str| format!("{what} {nth:03} {}", "x".repeat(nth * 7 % 50));
    let set = || Action::Set(["string a", "string b", "string c"][nth % 3], text("value"));
    let field = || Action::Field("hash", text("field"));
    let push = || Action::Push(["list a", "list b"][nth % 2], text("element"));
    let score = || Action::Score("zset", format!("member {}", nth % 5), nth as f64);
    let memo = |nth: usize| format!("memo {nth:03}");
    match nth % 13 {
        0 | 7 => vec![set()],
        1 | 8 => vec![Action::Push("queue", text("element")), Action::Memo("memos", memo(nth))],
        2 | 10 => vec![set(), push(), score()],
        3 => vec![score()],
        4 => vec![field(), Action::Pop("queue"), push(), Action::Forget("memos", memo(nth - 3))],
        9 => vec![field(), Action::Pop("queue"), push(), Action::Forget("memos", memo(nth - 1))],
        5 => vec![push(), field()],
        6 => vec![Action::Push("turns", text("element"))],
        12 => vec![Action::Set("turns", text("was a list"))],
        11 => vec![score(), push(), Action::Pop(["list a", "list b"][nth % 2])],
        _ => unreachable!("a rest of 13"),
    }
}

/// Returns the bytes of a commit's effects, for comparison.
pub(crate) fn effects(commit: &CommitRecord) -> [Bytes; 2] {
    [commit.disk.clone(), commit.memory.clone()]
}
