//! Brings a local base into the archive.
//!
//! Guarantees: the manifest is written last, create-only, when every object it refers to was confirmed; a crash at any
//! step leaves nothing that counts as a base, only objects nothing refers to. An SST the archive has is not sent again.
//! Does not: decide when, or remove older bases.

use super::base::{LocalBase, LocalFile};
use super::manifest::{MANIFEST_BYTES_MAX, Manifest};
use crate::archive::layout::{BaseName, ObjectName};
use crate::archive::pins;
use crate::archive::store::{Archive, Creation};
use crate::error::{Error, Result};
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::HashSet;
use std::time::Duration;

/// Objects of a base on their way at once.
pub const UPLOADS_IN_FLIGHT_MAX: usize = 4;

/// Publishes the bases of one node.
#[derive(Debug)]
pub struct Publisher {
    archive: Archive,
    /// SSTs of the last base published: looked for only after the manifest is there.
    known: HashSet<ObjectName>,
}

/// What publishing a base brought and cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Which base.
    pub base: BaseName,
    /// Bytes sent, without the manifest.
    pub bytes_new: u64,
    /// Bytes of SSTs that were there.
    pub bytes_shared: u64,
    /// Objects sent, with the manifest.
    pub objects: u64,
    /// How long writers waited for the cut.
    pub cut_pause: Duration,
    /// From the beginning of the cut to the confirmed manifest.
    pub took: Duration,
}

impl Publisher {
    /// Publishes into this archive.
    #[must_use]
    pub fn new(archive: Archive) -> Self {
        Self { archive, known: HashSet::new() }
    }

    /// Publishes a base and removes it from the local disk, also if that fails; `None` if the archive has a base at
    /// this csn already.
    pub async fn publish(&mut self, base: LocalBase) -> Result<Option<Published>> {
        let outcome = self.upload(&base).await;
        let removed = tokio::task::spawn_blocking(move || drop(base)).await;
        removed.expect("removing files does not panic");
        outcome
    }

    async fn upload(&mut self, base: &LocalBase) -> Result<Option<Published>> {
        let name = base.manifest().base();
        if self.archive.head(&ObjectName::BaseManifest(name)).await?.is_some() {
            return Ok(None);
        }
        let (ssts, own) = base.files();
        let sent_ssts = self.send_missing(&ssts, &self.known).await?;
        let sent_own = self.send_all(&own).await?;
        let mut manifest = base.manifest().clone();
        manifest.bytes_shared = manifest.bytes() - sent_ssts.bytes - sent_own.bytes;
        manifest.bytes_new = sent_ssts.bytes + sent_own.bytes;
        manifest.took_ms = base.age().as_millis() as u64;
        if !self.create_manifest(&manifest).await? {
            return Ok(None);
        }
        // Before the manifest was there, the archive could be pruned of SSTs that only older bases referred to, and of what
        // was sent so long ago that it seemed abandoned. A prune that has not seen the manifest is seen here.
        pins::wait_for_prunes(&self.archive).await?;
        let all: Vec<LocalFile> = ssts.iter().chain(&own).cloned().collect();
        let lost = self.send_missing(&all, &HashSet::new()).await?;
        self.known = ssts.into_iter().map(|sst| sst.object).collect();
        let published = Published {
            base: name,
            bytes_new: manifest.bytes_new,
            bytes_shared: manifest.bytes_shared,
            objects: sent_ssts.objects + sent_own.objects + lost.objects + 1,
            cut_pause: base.cut_pause(),
            took: base.age(),
        };
        tracing::info!(csn = %name.csn, epoch = %name.epoch, new = published.bytes_new, shared = published.bytes_shared, "base published");
        Ok(Some(published))
    }

    async fn create_manifest(&self, manifest: &Manifest) -> Result<bool> {
        let name = ObjectName::BaseManifest(manifest.base());
        let body = manifest.encode();
        if body.len() > MANIFEST_BYTES_MAX {
            let reason = format!("the manifest of {} has {} bytes, more than {MANIFEST_BYTES_MAX}", name, body.len());
            return Err(Error::Refused { reason });
        }
        match self.archive.put_new(&name, body.clone().into()).await? {
            Creation::Created => Ok(true),
            // Another node's; or this one's, by an attempt whose answer was lost.
            Creation::Exists => Ok(self.archive.get(&name).await?.is_some_and(|found| found == body)),
        }
    }

    /// Sends those files that are neither in `known` nor in the archive.
    async fn send_missing(&self, files: &[LocalFile], known: &HashSet<ObjectName>) -> Result<Sent> {
        let unknown = files.iter().filter(|file| !known.contains(&file.object));
        send(unknown.map(|file| send_if_missing(self.archive.clone(), file.clone())).collect()).await
    }

    async fn send_all(&self, files: &[LocalFile]) -> Result<Sent> {
        send(files.iter().map(|file| send_file(self.archive.clone(), file.clone())).collect()).await
    }
}

async fn send_if_missing(archive: Archive, file: LocalFile) -> Result<Sent> {
    match archive.head(&file.object).await? {
        Some(bytes) if bytes == file.bytes => Ok(Sent::default()),
        _ => send_file(archive, file).await,
    }
}

async fn send_file(archive: Archive, file: LocalFile) -> Result<Sent> {
    let bytes = archive.put_file_verified(&file.object, &file.path).await?;
    assert_eq!(bytes, file.bytes, "a base does not change: {}", file.path.display());
    Ok(Sent { objects: 1, bytes })
}

/// Runs the uploads, some at a time. The first error ends it.
async fn send(uploads: Vec<impl Future<Output = Result<Sent>>>) -> Result<Sent> {
    let mut sum = Sent::default();
    let mut sending = stream::iter(uploads).buffer_unordered(UPLOADS_IN_FLIGHT_MAX);
    while let Some(sent) = sending.try_next().await? {
        sum.objects += sent.objects;
        sum.bytes += sent.bytes;
    }
    Ok(sum)
}

/// What was sent.
#[derive(Clone, Copy, Default)]
struct Sent {
    objects: u64,
    bytes: u64,
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
