//! Test support: files whose steps fail on demand, to test how the logs, the spool and the images handle failures.
//!
//! A step is one call of [`Io`] that changes something on a disk. The composed calls consist of steps, so that each of
//! their steps can fail, too. [`each_step`] runs a scenario once for every step and every fault: nothing is sampled.
//! Syncing a file again after a failed sync is recorded as a defect, because the second sync may succeed although
//! pages are lost.

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
    Sync,
    Rename,
    Remove,
    CreateDir,
    SyncDir,
}

/// How much of a failing step takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// The step has no effect.
    Undone,
    /// A write stores half of its bytes; any other step has no effect.
    Torn,
    /// The step takes full effect, and returns an error all the same.
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

    /// Reports whether a step can fail in this way: a full file system can remove files.
    fn is_possible(self, step: Step) -> bool {
        self.error != Errno::NOSPC || step != Step::Remove
    }
}

/// The faults with which every step is tried.
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
    /// The step with this number, from 0; also the later ones if the fault lasts.
    Nth(u64),
    /// All steps of a kind, after this many more of them have succeeded.
    Every(Step, u64),
}

#[derive(Debug, Default)]
struct State {
    aim: Option<(Aim, Fault)>,
    /// Steps so far.
    steps: u64,
    /// Whether a step of the aim was reached.
    is_reached: bool,
    /// The first step that failed.
    struck: Option<(Step, PathBuf)>,
    /// Device and inode of files whose sync failed.
    unsynced: HashSet<(u64, u64)>,
    /// Files that were synced again after a failed sync.
    synced_again: Vec<PathBuf>,
}

/// A backend of plain files whose steps fail on demand.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<State>);

impl Faults {
    /// Makes files of which the `nth` step fails.
    pub(crate) fn at(nth: u64, fault: Fault) -> Self {
        Self(Mutex::new(State { aim: Some((Aim::Nth(nth), fault)), ..State::default() }))
    }

    /// Lets every later step of a kind fail without effect.
    pub(crate) fn fail(&self, step: Step, error: Errno) {
        self.fail_after(step, 0, error);
    }

    /// Lets the steps of a kind fail without effect after `more` of them have succeeded.
    pub(crate) fn fail_after(&self, step: Step, more: u64, error: Errno) {
        self.0.lock().aim = Some((Aim::Every(step, more), Fault::new(error, Fate::Undone, true)));
    }

    /// Lets all later steps succeed.
    pub(crate) fn heal(&self) {
        self.0.lock().aim = None;
    }

    /// Reports whether any step failed.
    pub(crate) fn has_struck(&self) -> bool {
        self.0.lock().struck.is_some()
    }

    /// Returns the kind of the step that failed first.
    pub(crate) fn struck(&self) -> Option<Step> {
        self.0.lock().struck.as_ref().map(|(step, _)| *step)
    }

    /// Reports whether the first failed step was a sync of a file whose name ends with `suffix`.
    pub(crate) fn left_unsynced(&self, suffix: &str) -> bool {
        let struck = &self.0.lock().struck;
        matches!(struck, Some((Step::Sync, path)) if path.to_string_lossy().ends_with(suffix))
    }

    /// Counts a step. Returns how it fails, if it does.
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

    /// Runs a step that takes effect as a whole or not at all.
    fn whole<T>(&self, step: Step, path: &Path, run: impl FnOnce() -> Result<T>) -> Result<T> {
        match self.fault(step, path) {
            None => run(),
            Some((Fate::Done, error)) => run().and(Err(error)),
            Some((Fate::Undone | Fate::Torn, error)) => Err(error),
        }
    }

    /// Forgets a failed sync of the file at `path`, because the file is created anew or removed.
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

/// Makes a directory in memory if the system has such a file system, so that thousands of cases do not wait for a
/// disk.
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
    /// Returns the files as a backend.
    pub(crate) fn io(&self) -> Arc<dyn Io> {
        Arc::<Faults>::clone(&self.io)
    }

    /// Reports whether a step has failed and all later ones fail, too.
    pub(crate) fn is_over(&self) -> bool {
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

/// Runs a scenario with each of its steps failing in each way of `faults`.
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
