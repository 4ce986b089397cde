//! Local files: the only code that accesses log segments, memory images and spooled chunks on disk.
//!
//! One trait, [`Io`], has two backends: [`StdIo`] (system calls on the calling thread) and [`Uring`] (an io_uring on a
//! thread of its own). [`Backends::select`] picks one for the logs and one for bulk use; `auto` measures first.
//!
//! Guarantees of both backends:
//! - A write or a read is whole, or there is an error; short transfers are continued.
//! - A failed sync is never retried, and later syncs of that file fail: the content of the page cache is unknown.
//! - [`Io::write_file`] and [`Io::create_zeroed`] make a file appear under its name only when it is whole and durable.
//! - Every error names the operation and the file.
//!
//! A backend must implement [`Io::name`], [`Io::start_write`], [`Io::start_read`] and [`Io::try_sync`]. All other
//! methods have a body here. The composed ones (`write_file`, `create_zeroed`, `read_file`) call only methods of the
//! trait: a backend that injects faults overrides the single steps, and so reaches every step of the composed ones.
//!
//! Not here: file formats, names, retention, locking of the data directory, RocksDB's own files. One process writes to
//! a directory, and one thread at a time writes to a given path.

mod backends;
mod calibrate;
mod file;
mod pending;
mod std_backend;
mod stream;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod uring;

pub use backends::{Backends, Choice};
pub use file::LogFile;
pub use pending::Pending;
pub use std_backend::StdIo;
pub use stream::{BULK_IN_FLIGHT, BULK_PIECE_BYTES};
pub use uring::Uring;

use crate::error::{Error, Result};
use bytes::{Bytes, BytesMut};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

/// Suffix of a file that is being written. A file with this suffix after a crash is incomplete.
pub const UNFINISHED_SUFFIX: &str = ".tmp";

/// File operations of the logs, the spool and the images. All of them block: they are for plain threads.
pub trait Io: Send + Sync + fmt::Debug {
    /// Returns "std" or "uring", as INFO shows it.
    fn name(&self) -> &'static str;

    /// Begins to write all of `bytes` at `offset`. Writes that are under way at the same time must not overlap.
    /// [`sync_data`](Io::sync_data) covers only writes that the caller has waited for.
    fn start_write(&self, file: &LogFile, offset: u64, bytes: Bytes) -> Pending<()>;

    /// Begins to fill all of `buffer` from `offset`, and returns the buffer. It is an error if the file ends before.
    fn start_read(&self, file: &LogFile, offset: u64, buffer: BytesMut) -> Pending<BytesMut>;

    /// Does one fdatasync. To be called by [`sync_data`](Io::sync_data) only.
    fn try_sync(&self, file: &LogFile) -> Result<()>;

    /// Makes the bytes written before the call, and the file's length, durable. After one failure every later call
    /// fails, on all clones of the file: the kernel has dropped the pages that it could not write, and would report
    /// success for the next sync.
    fn sync_data(&self, file: &LogFile) -> Result<()> {
        let mut failed = file.sync_failed.lock();
        if *failed {
            let reason = "an earlier sync of the file failed, so its content on the disk is unknown until a restart";
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

    /// Reads exactly `len` bytes, in several pieces at the same time.
    fn read_at(&self, file: &LogFile, offset: u64, len: usize) -> Result<Bytes> {
        stream::read(|at, piece| self.start_read(file, at, piece), offset, len)
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

    /// Creates an empty file, or empties an existing one. Its name is durable after [`sync_dir`](Io::sync_dir).
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

    /// Returns the length in bytes.
    fn len(&self, file: &LogFile) -> Result<u64> {
        file.file().metadata().map(|meta| meta.len()).map_err(|e| file.failed("stat", e))
    }

    /// Renames within a file system, replacing `to`. Durable after [`sync_dir`](Io::sync_dir).
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(Error::io("rename", from))
    }

    /// Removes a file. Durable after [`sync_dir`](Io::sync_dir).
    fn remove(&self, path: &Path) -> Result<()> {
        fs::remove_file(path).map_err(Error::io("remove", path))
    }

    /// Makes creations, renames and removals in a directory durable.
    fn sync_dir(&self, dir: &Path) -> Result<()> {
        File::open(dir).and_then(|d| d.sync_all()).map_err(Error::io("sync directory", dir))
    }

    /// Creates a directory and the missing ones above it. The name of `dir` itself is made durable.
    fn create_dir(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).map_err(Error::io("create directory", dir))?;
        self.sync_dir(parent_of(dir))
    }

    /// Returns the names of all entries of a directory, unfinished files included, sorted.
    fn list_all(&self, dir: &Path) -> Result<Vec<OsString>> {
        let entries = fs::read_dir(dir).map_err(Error::io("list", dir))?;
        let names: std::io::Result<Vec<_>> = entries.map(|entry| entry.map(|e| e.file_name())).collect();
        let mut names = names.map_err(Error::io("list", dir))?;
        names.sort();
        Ok(names)
    }

    /// Returns the names of the entries of a directory without unfinished files, sorted.
    fn list(&self, dir: &Path) -> Result<Vec<OsString>> {
        let mut names = self.list_all(dir)?;
        names.retain(|name| !is_unfinished(name));
        Ok(names)
    }

    /// Removes the unfinished files that crashes left in a directory. Returns their number. For start-up.
    fn remove_unfinished(&self, dir: &Path) -> Result<usize> {
        let names: Vec<_> = self.list_all(dir)?.into_iter().filter(|name| is_unfinished(name)).collect();
        for name in &names {
            self.remove(&dir.join(name))?;
        }
        Ok(names.len())
    }

    /// Reads the whole content of a file.
    fn read_file(&self, path: &Path) -> Result<Bytes> {
        let file = self.open_read(path)?;
        let len = self.len(&file)?;
        self.read_at(&file, 0, len as usize)
    }

    /// Writes a file that consists of `parts`, replacing any file at `path`. The file is whole and durable when it
    /// appears under `path`: it is written under an unfinished name, synced and renamed, and the directory is synced.
    /// Returns its length. Parts may have any size; they are taken one by one and regrouped, so that memory stays
    /// bounded. On an error the unfinished file is removed.
    fn write_file(&self, path: &Path, parts: &mut dyn Iterator<Item = Result<Bytes>>) -> Result<u64> {
        let unfinished = unfinished_name(path);
        let renamed = self.create(&unfinished).and_then(|file| {
            let len = stream::write(|at, piece| self.start_write(&file, at, piece), parts)?;
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
                // The first error is the one to report. If the removal fails, the next start removes the file.
                let _ = self.remove(&unfinished);
                Err(error)
            }
        }
    }

    /// Creates a durable file of `len` written zero bytes. The file has no hole and no unwritten extent, so that
    /// syncing a later append changes no file-system metadata. Fails if the path exists.
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

/// Returns the name that a file has while it is written.
fn unfinished_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED_SUFFIX);
    name.into()
}

fn is_unfinished(name: &OsStr) -> bool {
    name.as_encoded_bytes().ends_with(UNFINISHED_SUFFIX.as_bytes())
}

/// Returns the directory that contains `path`.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
