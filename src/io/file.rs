//! An open file of the logs, the spool or an image.

use crate::error::Error;
use parking_lot::Mutex;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// An open file. Clones share the descriptor, which is closed when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct LogFile {
    file: Arc<File>,
    path: Arc<Path>,
    /// Whether a sync failed. Locked during a sync: the kernel reports a failure to only one of two concurrent
    /// callers.
    pub(super) sync_failed: Arc<Mutex<bool>>,
}

impl LogFile {
    /// Wraps an open file; `path` names the file in messages.
    #[must_use]
    pub fn new(file: File, path: &Path) -> Self {
        Self { file: Arc::new(file), path: path.into(), sync_failed: Arc::default() }
    }

    /// Returns the path under which the file was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the descriptor, for a backend.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns the error of a failed operation on this file.
    pub(super) fn failed(&self, action: &'static str, source: std::io::Error) -> Error {
        Error::io(action, &self.path)(source)
    }
}
