//! Files whose steps fail on demand: for tests of what the logs, the spool and the images make of it.
//!
//! A step is one call of [`Io`] that changes something on a disk. The composed calls are made of steps, so that each of
//! theirs can fail, too. [`each_step`] runs a scenario once for every step it has and every fault there is, so that
//! nothing is sampled. A file whose sync failed is watched: syncing it again is a defect, because the second sync may
//! succeed although pages are gone.

use super::{Io, LogFile, Pending, StdIo};
use crate::error::{Error, Result};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use rustix::io::Errno;
use std::collections::HashSet;
use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// Kinds of steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Create,
    Write,
    SetLen,
    Sync,
    Rename,
    Remove,
    CreateDir,
    SyncDir,
}

/// What becomes of a step that fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// Nothing of it happened.
    Undone,
    /// Half of the bytes of a write got there; any other step did not happen.
    Torn,
    /// It happened, and the error came all the same.
    Done,
}

/// A way to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fault {
    pub error: Errno,
    pub fate: Fate,
    /// Whether every later step fails, too.
    pub lasts: bool,
}

impl Fault {
    const fn new(error: Errno, fate: Fate, lasts: bool) -> Self {
        Self { error, fate, lasts }
    }

    /// A full file system still removes.
    fn is_possible(self, step: Step) -> bool {
        self.error != Errno::NOSPC || step != Step::Remove
    }
}

/// The faults that every step is tried with.
pub(crate) const FAULTS: [Fault; 6] = [
    Fault::new(Errno::IO, Fate::Undone, false),
    Fault::new(Errno::IO, Fate::Torn, true),
    Fault::new(Errno::IO, Fate::Done, false),
    Fault::new(Errno::IO, Fate::Done, true),
    Fault::new(Errno::NOSPC, Fate::Undone, false),
    Fault::new(Errno::NOSPC, Fate::Torn, true),
];

/// Which steps fail.
#[derive(Clone, Copy, Debug)]
enum Aim {
    /// The one with this number, from 0 on; those behind it if the fault lasts.
    Nth(u64),
    /// All of a kind, once so many more of them were carried out.
    Every(Step, u64),
}

#[derive(Debug, Default)]
struct State {
    aim: Option<(Aim, Fault)>,
    /// Steps so far.
    steps: u64,
    /// Whether the step aimed at was there.
    is_reached: bool,
    /// The first step that failed.
    struck: Option<(Step, PathBuf)>,
    /// Device and inode of files whose sync failed.
    unsynced: HashSet<(u64, u64)>,
    /// Files that were synced again after that.
    synced_again: Vec<PathBuf>,
}

/// Plain files whose steps fail as told.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<State>);

impl Faults {
    /// Files of which the `nth` step fails.
    pub fn at(nth: u64, fault: Fault) -> Self {
        Self(Mutex::new(State { aim: Some((Aim::Nth(nth), fault)), ..State::default() }))
    }

    /// From now on every step of a kind fails and does not happen.
    pub fn fail(&self, step: Step, error: Errno) {
        self.fail_after(step, 0, error);
    }

    /// The same, once `more` of them were carried out.
    pub fn fail_after(&self, step: Step, more: u64, error: Errno) {
        self.0.lock().aim = Some((Aim::Every(step, more), Fault::new(error, Fate::Undone, true)));
    }

    /// From now on nothing fails.
    pub fn heal(&self) {
        self.0.lock().aim = None;
    }

    /// Whether any step failed.
    pub fn has_struck(&self) -> bool {
        self.0.lock().struck.is_some()
    }

    /// What kind of step failed first.
    pub fn struck(&self) -> Option<Step> {
        self.0.lock().struck.as_ref().map(|(step, _)| *step)
    }

    /// Whether the first step that failed was a sync of a file whose name ends so.
    pub fn left_unsynced(&self, suffix: &str) -> bool {
        let struck = &self.0.lock().struck;
        matches!(struck, Some((Step::Sync, path)) if path.to_string_lossy().ends_with(suffix))
    }

    /// Counts a step; tells how it fails if it does.
    fn fault(&self, step: Step, path: &Path) -> Option<(Fate, Error)> {
        let mut state = self.0.lock();
        let number = state.steps;
        state.steps += 1;
        let (aim, fault) = state.aim.as_mut()?;
        let fault = *fault;
        let is_hit = match aim {
            Aim::Nth(nth) => number == *nth || (fault.lasts && number > *nth),
            Aim::Every(kind, _) if *kind != step => false,
            Aim::Every(_, 0) => true,
            Aim::Every(_, more) => {
                *more -= 1;
                false
            }
        };
        state.is_reached |= is_hit;
        if !is_hit || !fault.is_possible(step) {
            return None;
        }
        state.struck.get_or_insert_with(|| (step, path.to_owned()));
        let error = Error::io("carry out a step on", path)(fault.error.into());
        Some((fault.fate, error))
    }

    /// A step that happens, or does not, as a whole.
    fn whole<T>(&self, step: Step, path: &Path, run: impl FnOnce() -> Result<T>) -> Result<T> {
        match self.fault(step, path) {
            None => run(),
            Some((Fate::Done, error)) => run().and(Err(error)),
            Some((Fate::Undone | Fate::Torn, error)) => Err(error),
        }
    }

    /// A file made anew, or removed, is another one.
    fn forget(&self, path: &Path) {
        if let Ok(meta) = std::fs::metadata(path) {
            self.0.lock().unsynced.remove(&id(&meta));
        }
    }
}

fn id(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

impl Io for Faults {
    fn name(&self) -> &'static str {
        "faults"
    }

    fn start_write(&self, file: &LogFile, offset: u64, bytes: Bytes) -> Pending<()> {
        match self.fault(Step::Write, file.path()) {
            None => StdIo.start_write(file, offset, bytes),
            Some((fate, error)) => {
                let kept = match fate {
                    Fate::Undone => 0,
                    Fate::Torn => bytes.len() / 2,
                    Fate::Done => bytes.len(),
                };
                Pending::done(StdIo.start_write(file, offset, bytes.slice(..kept)).wait().and(Err(error)))
            }
        }
    }

    fn start_read(&self, file: &LogFile, offset: u64, buffer: BytesMut) -> Pending<BytesMut> {
        StdIo.start_read(file, offset, buffer)
    }

    fn try_sync(&self, file: &LogFile) -> Result<()> {
        let id = id(&file.file().metadata().expect("an open file can be asked"));
        let synced = self.whole(Step::Sync, file.path(), || StdIo.try_sync(file));
        let mut state = self.0.lock();
        if state.unsynced.contains(&id) {
            state.synced_again.push(file.path().to_owned());
        }
        if synced.is_err() {
            state.unsynced.insert(id);
        }
        drop(state);
        synced
    }

    fn create(&self, path: &Path) -> Result<LogFile> {
        let created = self.whole(Step::Create, path, || StdIo.create(path));
        self.forget(path);
        created
    }

    fn set_len(&self, file: &LogFile, len: u64) -> Result<()> {
        self.whole(Step::SetLen, file.path(), || StdIo.set_len(file, len))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.whole(Step::Rename, from, || StdIo.rename(from, to))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.whole(Step::Remove, path, || {
            self.forget(path);
            StdIo.remove(path)
        })
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.whole(Step::SyncDir, dir, || StdIo.sync_dir(dir))
    }

    fn create_dir(&self, dir: &Path) -> Result<()> {
        self.whole(Step::CreateDir, dir, || StdIo.create_dir(dir))
    }
}

/// A directory in memory, where there is such a place: thousands of cases need not wait for a disk.
pub(crate) fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    dir.expect("a temporary directory")
}

/// One run of a scenario: which step fails, and how.
pub(crate) struct Case {
    pub io: Arc<Faults>,
    nth: u64,
    pub fault: Fault,
}

impl Case {
    /// The files, as those who use them want them.
    pub fn io(&self) -> Arc<dyn Io> {
        Arc::<Faults>::clone(&self.io)
    }

    /// Whether every step behind the first that failed does, too.
    pub fn is_over(&self) -> bool {
        self.fault.lasts && self.io.has_struck()
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { io, nth, fault } = self;
        write!(f, "step {nth} with {fault:?}, which was {:?}", io.0.lock().struck)
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the case that failed: {self}");
        } else {
            let again = &self.io.0.lock().synced_again;
            assert!(again.is_empty(), "synced again after a sync failed: {again:?}");
        }
    }
}

/// Runs a scenario with each of its steps failing in each way of `faults`, until it has no such step any more.
pub(crate) fn each_step(faults: &[Fault], scenario: impl Fn(&Case)) {
    for &fault in faults {
        let mut nth = 0;
        loop {
            let case = Case { io: Arc::new(Faults::at(nth, fault)), nth, fault };
            scenario(&case);
            if !case.io.0.lock().is_reached {
                break;
            }
            nth += 1;
        }
        assert!(nth > 0, "the scenario has no step");
        eprintln!("{fault:?}: each of {nth} steps failed once");
    }
}
