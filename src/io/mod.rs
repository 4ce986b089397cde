//! Local files: the only code that touches log segments, memory images and spooled chunks on disk.
//!
//! One trait, [`Io`], with two backends: [`StdIo`] (system calls on the calling thread) and [`Uring`] (an io_uring on a
//! thread of its own). [`Backends::select`] picks one for the logs and one for bulk use; `auto` measures first.
//!
//! Guarantees, the same for both backends:
//! - a write or a read is whole or it is an error; short transfers are continued;
//! - a failed sync is never retried, and fails for good on that file: what the page cache holds afterwards is unknown;
//! - [`Io::write_file`] and [`Io::create_zeroed`] make a file appear under its name only when it is whole and durable;
//! - every error names the operation and the file.
//!
//! The methods a backend must bring are the three that move bytes. All others have a body here, and the composed ones
//! (`write_file`, `create_zeroed`, `read_file`) call nothing but the trait: a backend that injects faults overrides the
//! single steps and thereby reaches every step of the composed ones.
//!
//! Not here: file formats, names, retention, locking of the data directory, RocksDB's own files. One process writes a
//! directory, and one thread at a time writes a given path.

mod backends;
mod calibrate;
#[cfg(test)]
pub(crate) mod faults;
mod pending;
mod std_backend;
mod stream;
#[cfg(test)]
mod tests;
mod uring;

pub use backends::{Backends, Choice};
pub use pending::Pending;
pub use std_backend::StdIo;
pub use uring::Uring;

use crate::error::{Error, Result};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Size of one request of a bulk transfer.
pub const BULK_PIECE_BYTES: usize = 256 * 1024;

/// Requests of one bulk transfer under way at a time: bounds its memory to 4 MiB beside the caller's own part.
pub const BULK_IN_FLIGHT: usize = 16;

/// Ending of a file that is still being written; what a crash leaves behind carries it.
pub const UNFINISHED_SUFFIX: &str = ".tmp";

/// An open file. Clones share the descriptor, which is closed with the last of them.
#[derive(Clone, Debug)]
pub struct LogFile {
    file: Arc<File>,
    path: Arc<Path>,
    /// Whether a sync failed. Held while one is under way: the kernel tells only one of two callers of a failure.
    sync_failed: Arc<Mutex<bool>>,
}

impl LogFile {
    /// Wraps an open file; `path` is what messages call it.
    #[must_use]
    pub fn new(file: File, path: &Path) -> Self {
        Self { file: Arc::new(file), path: path.into(), sync_failed: Arc::default() }
    }

    /// The path it was opened under.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The descriptor, for a backend.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The error of a failed operation on this file; costs nothing until there is one.
    fn failed(&self, action: &'static str, source: std::io::Error) -> Error {
        Error::io(action, &self.path)(source)
    }
}

/// File operations of the logs, the spool and the images. Blocking; for plain threads.
pub trait Io: Send + Sync + fmt::Debug {
    /// "std" or "uring": what INFO shows.
    fn name(&self) -> &'static str;

    /// Begins to write all of `bytes` at `offset`. Writes under way at once must not overlap, and
    /// [`sync_data`](Io::sync_data) covers only those that were waited for.
    fn start_write(&self, file: &LogFile, offset: u64, bytes: Bytes) -> Pending<()>;

    /// Begins to fill all of `buffer` from `offset` on; gives the buffer back. A file that ends before is an error.
    fn start_read(&self, file: &LogFile, offset: u64, buffer: BytesMut) -> Pending<BytesMut>;

    /// One fdatasync. For [`sync_data`](Io::sync_data) alone.
    fn try_sync(&self, file: &LogFile) -> Result<()>;

    /// Makes the bytes written so far, and the length, durable. Once that failed it fails for good, whoever holds a clone
    /// of the file: the kernel has dropped what it could not write, and would call the next sync a success.
    fn sync_data(&self, file: &LogFile) -> Result<()> {
        let mut failed = file.sync_failed.lock();
        if *failed {
            let reason = "a sync of it failed before, so that its content is unknown until a restart";
            return Err(file.failed("sync", std::io::Error::other(reason)));
        }
        let synced = self.try_sync(file);
        *failed = synced.is_err();
        synced
    }

    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, file: &LogFile, offset: u64, bytes: Bytes) -> Result<()> {
        self.start_write(file, offset, bytes).wait()
    }

    /// Reads exactly `len` bytes, in pieces of which several are under way.
    fn read_at(&self, file: &LogFile, offset: u64, len: usize) -> Result<Bytes> {
        stream::read(self, file, offset, len)
    }

    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> Result<LogFile> {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(Error::io("open", path))?;
        Ok(LogFile::new(file, path))
    }

    /// Opens an existing file for reading.
    fn open_read(&self, path: &Path) -> Result<LogFile> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        Ok(LogFile::new(file, path))
    }

    /// A new empty file, or the existing one emptied. Its name is durable after [`sync_dir`](Io::sync_dir).
    fn create(&self, path: &Path) -> Result<LogFile> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .map_err(Error::io("create", path))?;
        Ok(LogFile::new(file, path))
    }

    /// Length in bytes.
    fn len(&self, file: &LogFile) -> Result<u64> {
        file.file().metadata().map(|meta| meta.len()).map_err(|e| file.failed("stat", e))
    }

    /// Cuts or extends a file (with a hole); durable after [`sync_data`](Io::sync_data).
    fn set_len(&self, file: &LogFile, len: u64) -> Result<()> {
        file.file().set_len(len).map_err(|e| file.failed("set the length of", e))
    }

    /// Renames within a file system, replacing `to`; durable after [`sync_dir`](Io::sync_dir).
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(Error::io("rename", from))
    }

    /// Removes a file; durable after [`sync_dir`](Io::sync_dir).
    fn remove(&self, path: &Path) -> Result<()> {
        fs::remove_file(path).map_err(Error::io("remove", path))
    }

    /// Makes creations, renames and removals in a directory durable.
    fn sync_dir(&self, dir: &Path) -> Result<()> {
        File::open(dir).and_then(|d| d.sync_all()).map_err(Error::io("sync directory", dir))
    }

    /// A directory and the missing ones above it; the last name made durable.
    fn create_dir(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).map_err(Error::io("create directory", dir))?;
        self.sync_dir(parent_of(dir))
    }

    /// Names of all entries of a directory, unfinished files included, sorted.
    fn list_all(&self, dir: &Path) -> Result<Vec<OsString>> {
        let entries = fs::read_dir(dir).map_err(Error::io("list", dir))?;
        let names: std::io::Result<Vec<_>> = entries.map(|entry| entry.map(|e| e.file_name())).collect();
        let mut names = names.map_err(Error::io("list", dir))?;
        names.sort();
        Ok(names)
    }

    /// Names of the finished entries of a directory, sorted.
    fn list(&self, dir: &Path) -> Result<Vec<OsString>> {
        let mut names = self.list_all(dir)?;
        names.retain(|name| !is_unfinished(name));
        Ok(names)
    }

    /// Removes what crashes left half written in a directory; returns how many files. For start-up.
    fn remove_unfinished(&self, dir: &Path) -> Result<usize> {
        let names: Vec<_> = self.list_all(dir)?.into_iter().filter(|name| is_unfinished(name)).collect();
        for name in &names {
            self.remove(&dir.join(name))?;
        }
        Ok(names.len())
    }

    /// The whole content of a file.
    fn read_file(&self, path: &Path) -> Result<Bytes> {
        let file = self.open_read(path)?;
        let len = self.len(&file)?;
        self.read_at(&file, 0, len as usize)
    }

    /// A file made of `parts`, whole and durable when it appears under `path`, replacing what was there: written under
    /// an unfinished name, synced, renamed, directory synced. Returns its length. Parts may have any size; they are
    /// taken one by one and regrouped, so that memory stays bounded. The first error removes the unfinished file.
    fn write_file(&self, path: &Path, parts: &mut dyn Iterator<Item = Result<Bytes>>) -> Result<u64> {
        let unfinished = unfinished_name(path);
        let renamed = self.create(&unfinished).and_then(|file| {
            let len = stream::write(self, &file, parts)?;
            self.sync_data(&file)?;
            self.rename(&unfinished, path)?;
            Ok(len)
        });
        match renamed {
            Ok(len) => {
                self.sync_dir(parent_of(path))?;
                Ok(len)
            }
            Err(error) => {
                // The first error is the one to report; what stays behind is removed at the next start.
                let _ = self.remove(&unfinished);
                Err(error)
            }
        }
    }

    /// A new durable file of `len` written zero bytes (no hole and no unwritten extent, so that syncing a later append
    /// changes no file-system metadata). Fails if the path exists.
    fn create_zeroed(&self, path: &Path, len: u64) -> Result<LogFile> {
        match path.try_exists() {
            Ok(false) => {}
            Ok(true) => return Err(Error::io("create", path)(std::io::ErrorKind::AlreadyExists.into())),
            Err(e) => return Err(Error::io("create", path)(e)),
        }
        self.write_file(path, &mut stream::zeroes(len))?;
        self.open(path)
    }
}

/// The name a file has while it is written.
fn unfinished_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED_SUFFIX);
    name.into()
}

fn is_unfinished(name: &OsStr) -> bool {
    name.as_encoded_bytes().ends_with(UNFINISHED_SUFFIX.as_bytes())
}

/// The directory that holds `path`'s name.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
