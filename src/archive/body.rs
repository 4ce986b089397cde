//! The body of an upload: bytes in memory, a local file, or an object of another archive. A body is read piece by
//! piece, in order.

use super::layout::ObjectName;
use super::retry_policy::failure;
use super::store::Archive;
use crate::error::{Error, Result};
use bytes::Bytes;
use parking_lot::Mutex;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// The bytes of an object to be uploaded.
pub(super) enum Body {
    Memory(Bytes),
    File { file: Arc<File>, len: u64 },
    Remote(Remote),
}

/// An object of another archive, whose content is checked while it is copied.
pub(super) struct Remote {
    archive: Archive,
    name: ObjectName,
    len: u64,
    blake3: blake3::Hash,
    /// Hash over the bytes read since the beginning, and the number of these bytes.
    hasher: Mutex<(Box<blake3::Hasher>, u64)>,
}

impl Body {
    /// Returns a body that reads the object `name` of `archive`, which must have this length and content.
    pub(super) fn remote(archive: &Archive, name: &ObjectName, len: u64, blake3: blake3::Hash) -> Self {
        Self::Remote(Remote { archive: archive.clone(), name: name.clone(), len, blake3, hasher: Mutex::default() })
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
            Self::Remote(remote) => remote.len,
        }
    }

    /// Returns the bytes from `offset` on, at most `limit`.
    pub(super) async fn slice(&self, offset: u64, limit: u64) -> object_store::Result<Bytes> {
        let wanted = limit.min(self.len() - offset) as usize;
        match self {
            Self::Memory(bytes) => Ok(bytes.slice(offset as usize..offset as usize + wanted)),
            Self::File { file, .. } => {
                let file = Arc::clone(file);
                let read = move || {
                    let mut buffer = vec![0; wanted];
                    file.read_exact_at(&mut buffer, offset).map(|()| Bytes::from(buffer))
                };
                tokio::task::spawn_blocking(read)
                    .await?
                    .map_err(|source| failure(format!("the file to upload could not be read: {source}")))
            }
            Self::Remote(remote) => remote.slice(offset, wanted as u64).await.map_err(Error::through_store),
        }
    }
}

impl Remote {
    /// Reads the next piece. A repeated upload starts at 0. The last piece is returned only if the content of the
    /// whole object is the expected one.
    async fn slice(&self, offset: u64, wanted: u64) -> Result<Bytes> {
        let what = self.archive.full_name(&self.name);
        let bytes = match wanted {
            0 => Bytes::new(),
            _ => self.archive.get_range(&self.name, offset..offset + wanted).await?.ok_or_else(|| {
                Error::corrupt(
                    &what,
                    "the object",
                    "the object is in the listing but is missing: a prune may have removed it",
                )
            })?,
        };
        let mut hasher = self.hasher.lock();
        if offset == 0 {
            *hasher = Default::default();
        }
        assert_eq!(hasher.1, offset, "an object is read in order");
        hasher.0.update(&bytes);
        hasher.1 += wanted;
        let found = hasher.0.finalize();
        if hasher.1 == self.len && found != self.blake3 {
            let detail = format!("the BLAKE3 hash is {found}, but the manifest states {}", self.blake3);
            return Err(Error::corrupt(what, "content", detail));
        }
        Ok(bytes)
    }
}
