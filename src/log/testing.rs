//! What the tests of the logs and of the committer share: commits of each kind, and files whose operations fail.

use crate::csn::{CommitTime, Csn, Epoch};
use crate::engine::batch::{self, Family};
use crate::engine::key;
use crate::engine::memory::ListEncoder;
use crate::engine::meta;
use crate::error::{Error, Result};
use crate::io::{Io, LogFile, Pending, StdIo};
use crate::record::CommitRecord;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use std::io::ErrorKind;
use std::path::Path;

/// An operation that can fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Create,
    Write,
    Sync,
    Rename,
    SyncDir,
}

/// Plain files, of which one kind of operation fails while it is told to.
#[derive(Debug, Default)]
pub(crate) struct Flaky {
    failing: Mutex<Option<(Step, ErrorKind)>>,
}

impl Flaky {
    pub fn fail(&self, step: Step, kind: ErrorKind) {
        *self.failing.lock() = Some((step, kind));
    }

    pub fn heal(&self) {
        *self.failing.lock() = None;
    }

    fn step(&self, step: Step, path: &Path) -> Result<()> {
        match *self.failing.lock() {
            Some((failing, kind)) if failing == step => Err(Error::io("carry out a step on", path)(kind.into())),
            _ => Ok(()),
        }
    }
}

impl Io for Flaky {
    fn name(&self) -> &'static str {
        "flaky"
    }

    fn start_write(&self, file: &LogFile, offset: u64, bytes: Bytes) -> Pending<()> {
        match self.step(Step::Write, file.path()) {
            Ok(()) => StdIo.start_write(file, offset, bytes),
            Err(error) => Pending::done(Err(error)),
        }
    }

    fn start_read(&self, file: &LogFile, offset: u64, buffer: BytesMut) -> Pending<BytesMut> {
        StdIo.start_read(file, offset, buffer)
    }

    fn sync_data(&self, file: &LogFile) -> Result<()> {
        self.step(Step::Sync, file.path()).and_then(|()| StdIo.sync_data(file))
    }

    fn create(&self, path: &Path) -> Result<LogFile> {
        self.step(Step::Create, path).and_then(|()| StdIo.create(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.step(Step::Rename, from).and_then(|()| StdIo.rename(from, to))
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.step(Step::SyncDir, dir).and_then(|()| StdIo.sync_dir(dir))
    }
}

/// A commit without effects.
pub(crate) fn no_op(csn: u64) -> CommitRecord {
    CommitRecord { csn: Csn(csn), epoch: Epoch(1), time: CommitTime(1000 + csn), ..CommitRecord::default() }
}

/// Pushes an element to a list.
pub(crate) fn on_list(csn: u64) -> CommitRecord {
    let mut lists = Vec::new();
    ListEncoder(&mut lists).push_back(b"list", [format!("element {csn}").as_bytes()].into_iter());
    CommitRecord { lists: lists.into(), ..no_op(csn) }
}

/// Sets a string.
pub(crate) fn on_disk(csn: u64) -> CommitRecord {
    let mut disk = Vec::new();
    let value = meta::encode_string(format!("value {csn}").as_bytes(), 0);
    batch::push_put(&mut disk, Family::Default, &key::meta(b"string"), &value);
    CommitRecord { disk: disk.into(), disk_ops: 1, ..no_op(csn) }
}

/// Does both.
pub(crate) fn on_both(csn: u64) -> CommitRecord {
    CommitRecord { lists: on_list(csn).lists, ..on_disk(csn) }
}
