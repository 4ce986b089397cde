//! The backend of plain system calls: pwrite, pread and fdatasync on the calling thread. It works everywhere. For one
//! append and its sync it is the fastest backend, because it hands nothing to another thread.

use super::{Io, LogFile, Pending};
use crate::error::Result;
use bytes::{Bytes, BytesMut};
use std::os::unix::fs::FileExt;

/// The backend that makes system calls on the calling thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct StdIo;

impl Io for StdIo {
    fn name(&self) -> &'static str {
        "std"
    }

    fn start_write(&self, file: &LogFile, offset: u64, bytes: Bytes) -> Pending<()> {
        Pending::done(file.file().write_all_at(&bytes, offset).map_err(|e| file.failed("write", e)))
    }

    fn start_read(&self, file: &LogFile, offset: u64, mut buffer: BytesMut) -> Pending<BytesMut> {
        let read = file.file().read_exact_at(&mut buffer, offset);
        Pending::done(read.map(|()| buffer).map_err(|e| file.failed("read", e)))
    }

    fn try_sync(&self, file: &LogFile) -> Result<()> {
        file.file().sync_data().map_err(|e| file.failed("sync", e))
    }
}
