//! Stores a chunk under a name that may be taken: by an earlier attempt, by another process that moved the same chunk,
//! or by other commits.
//!
//! The uploader, a merge and a copy store chunks in this way only. Guarantees: a chunk that is there with the same
//! commits counts as stored; a torn chunk is replaced; a whole chunk with other commits is never replaced. An object is
//! judged only if two reads return the same content, because a wrong answer of the store would not be repeated.

use super::layout::ObjectName;
use super::put::SINGLE_PUT_BYTES_MAX;
use super::store::Archive;
use crate::chunk::Chunk;
use crate::error::{Error, Result};
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Result of comparing a chunk with the object that is already there under its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comparison {
    /// The same commits. Their bytes may differ, because a chunk can be cut again after a restart.
    Same,
    /// Other commits: another process writes this epoch.
    Other,
    /// Not a whole chunk: a torn upload, or a wrong answer of the store.
    Unreadable,
}

/// The outcome of an attempt to put a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Placed {
    /// The archive holds the chunk's commits under its name, in an object of so many bytes.
    There(u64),
    /// The archive holds other commits under the chunk's name, in an object of so many bytes; nothing was stored.
    Taken(u64),
}

/// Compares one chunk's commits with another's.
#[must_use]
pub fn compare_commits(own: &Bytes, found: &Bytes) -> Comparison {
    let commits = |bytes: &Bytes| Chunk::open(bytes.clone(), "chunk")?.commits().collect::<Result<Vec<_>>>();
    if own == found {
        return Comparison::Same;
    }
    match (commits(own), commits(found)) {
        (Ok(own), Ok(found)) if own == found => Comparison::Same,
        (_, Err(Error::Corrupt { .. })) => Comparison::Unreadable,
        _ => Comparison::Other,
    }
}

impl Archive {
    /// Makes one attempt to store a chunk. `created` is true if an earlier attempt of the caller took the name: the
    /// object there is then this chunk, possibly torn, and is overwritten without a comparison. `compare` compares
    /// `body` with the object that is there.
    pub(crate) async fn put_chunk(
        &self,
        name: &ObjectName,
        body: &Bytes,
        created: &AtomicBool,
        compare: impl Fn(&Bytes, &Bytes) -> Comparison,
    ) -> Result<Placed> {
        let bytes = body.len() as u64;
        let single = bytes <= SINGLE_PUT_BYTES_MAX;
        // A multipart upload cannot be create-only.
        if created.load(Relaxed) || !single && self.head(name).await?.is_none() {
            created.store(true, Relaxed);
            return self.put_verified(name, body.clone()).await.map(|()| Placed::There(bytes));
        }
        if single && let Some(put) = self.create(name, body.clone()).await? {
            created.store(true, Relaxed);
            return self.confirm(name, bytes, &put).await.map(|()| Placed::There(bytes));
        }
        let broken = |detail: String| Error::StoreContract { url: self.url().to_owned(), detail };
        let Some(found) = self.lying_there(name).await? else {
            let detail = format!("refused to create {name} as an existing object, but does not return the object");
            return Err(broken(detail));
        };
        let found_bytes = found.as_ref().map_or(0, Bytes::len) as u64;
        let comparison = found.as_ref().map_or(Comparison::Unreadable, |found| compare(body, found));
        if comparison == Comparison::Same {
            return Ok(Placed::There(found_bytes));
        }
        if self.lying_there(name).await? != Some(found) {
            return Err(broken(format!("returned two different contents for {name}")));
        }
        if comparison == Comparison::Other {
            return Ok(Placed::Taken(found_bytes));
        }
        tracing::warn!(%name, found = found_bytes, own = bytes, "the incomplete object of an interrupted \
                upload is replaced");
        self.put_verified(name, body.clone()).await.map(|()| Placed::There(bytes))
    }

    /// Returns the archive's object of this name: `None` if there is none, `Some(None)` if it cannot be decrypted.
    async fn lying_there(&self, name: &ObjectName) -> Result<Option<Option<Bytes>>> {
        match self.get(name).await {
            Err(Error::Corrupt { .. }) => Ok(Some(None)),
            found => Ok(found?.map(Some)),
        }
    }
}
