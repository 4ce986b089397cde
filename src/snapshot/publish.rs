//! Uploads a local base into the archive.
//!
//! Guarantees: the manifest is written last and create-only, once every object that it refers to was confirmed and the
//! archive's chunks reach its csn. A crash at any step leaves nothing that counts as a base, only objects that nothing
//! refers to. A torn manifest is no base: it is overwritten. An SST that the archive has is not sent a second time.
//! Several nodes may publish at once, also at the same csn: files are named by their content, and of two manifests
//! with one name the first stays. Non-goals: deciding when to publish, and removing older bases.

use super::base::{LocalBase, LocalFile};
use super::manifest::{Level, MANIFEST_BYTES_MAX, Manifest};
use crate::archive::layout::{BaseName, ObjectName};
use crate::archive::listing::BaseStart;
use crate::archive::pins;
use crate::archive::store::{Archive, Creation};
use crate::csn::Csn;
use crate::error::{Error, Result};
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::HashSet;
use std::time::Duration;

/// Largest number of a base's objects that are uploaded in parallel.
pub const UPLOADS_IN_FLIGHT_MAX: usize = 4;

/// Publishes the bases of one node.
#[derive(Debug)]
pub struct Publisher {
    archive: Archive,
    /// SSTs of the last base published. These are not looked up in the archive before the manifest is written, only
    /// after.
    known: HashSet<ObjectName>,
}

/// The outcome of publishing a base: the objects written, and their cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The base.
    pub base: BaseName,
    /// The commit after which a restore from the base needs chunks.
    pub after: Csn,
    /// The level of the base.
    pub level: Level,
    /// Commit time between the cuts of the base, in microseconds.
    pub skew_us: u64,
    /// Number of commits between the cuts of the base.
    pub skew_commits: u64,
    /// Bytes sent, without the manifest.
    pub bytes_new: u64,
    /// Bytes of SSTs that the archive had already.
    pub bytes_shared: u64,
    /// Number of objects sent, with the manifest; 0 if another node published the base.
    pub objects: u64,
    /// How long writers waited for the cut.
    pub cut_pause: Duration,
    /// Time from the begin of the cut to the confirmed manifest.
    pub took: Duration,
}

impl Publisher {
    /// Creates a publisher into `archive`.
    #[must_use]
    pub fn new(archive: Archive) -> Self {
        Self { archive, known: HashSet::new() }
    }

    /// Returns the archive.
    #[must_use]
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Publishes a base and removes it from the local disk, also if publishing fails. Returns `None` if the archive
    /// has a base of this name that needs no more chunks than this one. `covered` completes when the archive's chunks
    /// reach the base's csn: a base beyond the archive's chunks might hold commits that a promotion abandons.
    /// `covered` is awaited once the files are uploaded, before the manifest is written.
    pub async fn publish(
        &mut self,
        base: LocalBase,
        covered: impl Future<Output = Result<()>>,
    ) -> Result<Option<Published>> {
        let outcome = self.publish_kept(&base, covered).await;
        let removed = tokio::task::spawn_blocking(move || drop(base)).await;
        removed.expect("removing files does not panic");
        outcome
    }

    /// Publishes a base as [`Publisher::publish`] does, but leaves it on the local disk, for a further archive.
    pub async fn publish_kept(
        &mut self,
        base: &LocalBase,
        covered: impl Future<Output = Result<()>>,
    ) -> Result<Option<Published>> {
        let start = base.manifest().start();
        for start in HashSet::from([start, BaseStart::whole(start.base)]) {
            let found = self.archive.get_sensible(&start.manifest(), |found| is_whole(found)).await?;
            if found.is_some_and(|found| is_whole(&found)) {
                return Ok(None);
            }
        }
        let (ssts, own) = base.files();
        let sent_ssts = self.send_missing(&ssts, &self.known).await?;
        let sent_own = self.send_all(&own).await?;
        covered.await?;
        let mut manifest = base.manifest().clone();
        manifest.bytes_shared = manifest.bytes() - sent_ssts.bytes - sent_own.bytes;
        manifest.bytes_new = sent_ssts.bytes + sent_own.bytes;
        manifest.took_ms = base.age().as_millis() as u64;
        if !create_manifest(&self.archive, &manifest).await? {
            return Ok(None);
        }
        // Before the manifest existed, a prune could remove SSTs that only older bases referred to, and uploaded files
        // that were old enough to count as orphans. So this waits for every prune that may have listed the archive
        // without the manifest, and then sends what is missing.
        pins::wait_for_prunes(&self.archive).await?;
        let all: Vec<LocalFile> = ssts.iter().chain(&own).cloned().collect();
        let lost = self.send_missing(&all, &HashSet::new()).await?;
        self.known = ssts.into_iter().map(|sst| sst.object).collect();
        let mut published = Published::of(&manifest);
        published.objects = sent_ssts.objects + sent_own.objects + lost.objects + 1;
        (published.cut_pause, published.took) = (base.cut_pause(), base.age());
        let (name, level) = (published.base, published.level);
        tracing::info!(csn = %name.csn, epoch = %name.epoch, %level, new = published.bytes_new, shared = published.bytes_shared, "base published");
        Ok(Some(published))
    }

    /// Sends the files that are neither in `known` nor in the archive.
    async fn send_missing(&self, files: &[LocalFile], known: &HashSet<ObjectName>) -> Result<Sent> {
        let unknown = files.iter().filter(|file| !known.contains(&file.object));
        send(unknown.map(|file| send_if_missing(self.archive.clone(), file.clone())).collect()).await
    }

    async fn send_all(&self, files: &[LocalFile]) -> Result<Sent> {
        send(files.iter().map(|file| send_file(self.archive.clone(), file.clone())).collect()).await
    }
}

impl Published {
    /// Returns what the manifest says about a base that was published before or by another node; `objects` and
    /// `cut_pause` are 0.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Self {
        Self {
            base: manifest.base(),
            after: manifest.start().after,
            level: manifest.level,
            skew_us: manifest.cut.skew_us,
            skew_commits: manifest.cut.skew_commits,
            bytes_new: manifest.bytes_new,
            bytes_shared: manifest.bytes_shared,
            objects: 0,
            cut_pause: Duration::ZERO,
            took: Duration::from_millis(manifest.took_ms),
        }
    }
}

/// Creates a manifest; returns false if another whole manifest has its name.
pub(crate) async fn create_manifest(archive: &Archive, manifest: &Manifest) -> Result<bool> {
    let name = manifest.start().manifest();
    let body = manifest.encode();
    if body.len() > MANIFEST_BYTES_MAX {
        return Err(Error::OverLimit {
            what: format!("the manifest {name}"),
            found: body.len(),
            limit: MANIFEST_BYTES_MAX,
            advice: "The base is not published",
        });
    }
    if archive.put_new(&name, body.clone().into()).await? == Creation::Created {
        return Ok(true);
    }
    match archive.get_sensible(&name, |found| is_whole(found)).await? {
        // An earlier attempt of this node created it, and the reply was lost.
        Some(found) if found == body => Ok(true),
        // Another node created it.
        Some(found) if is_whole(&found) => Ok(false),
        // Only a part of an earlier attempt arrived: it is no base, and it blocks the name.
        _ => archive.put_verified(&name, body.into()).await.map(|()| true),
    }
}

/// Reports whether these bytes are a whole manifest. A manifest of a later version counts as whole.
pub(crate) fn is_whole(manifest: &[u8]) -> bool {
    !matches!(Manifest::decode(manifest, "manifest"), Err(Error::Corrupt { .. }))
}

async fn send_if_missing(archive: Archive, file: LocalFile) -> Result<Sent> {
    match archive.head(&file.object).await? {
        Some(bytes) if bytes == file.bytes => Ok(Sent::default()),
        _ => send_file(archive, file).await,
    }
}

async fn send_file(archive: Archive, file: LocalFile) -> Result<Sent> {
    let bytes = archive.put_file_verified(&file.object, &file.path).await?;
    assert_eq!(bytes, file.bytes, "a file of a base does not change after its cut: {}", file.path.display());
    Ok(Sent { objects: 1, bytes })
}

/// Runs the uploads, [`UPLOADS_IN_FLIGHT_MAX`] at a time. The first error stops the uploads.
async fn send(uploads: Vec<impl Future<Output = Result<Sent>>>) -> Result<Sent> {
    let mut sum = Sent::default();
    let mut sending = stream::iter(uploads).buffer_unordered(UPLOADS_IN_FLIGHT_MAX);
    while let Some(sent) = sending.try_next().await? {
        sum.objects += sent.objects;
        sum.bytes += sent.bytes;
    }
    Ok(sum)
}

/// Number and bytes of the objects sent.
#[derive(Clone, Copy, Default)]
struct Sent {
    objects: u64,
    bytes: u64,
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
