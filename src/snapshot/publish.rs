//! Uploads a local base into the archive.
//!
//! Guarantees: the manifest is written last and create-only, once every object that it refers to was confirmed and the
//! archive's chunks reach its csn. A crash at any step leaves nothing that counts as a base, only objects that nothing
//! refers to. A torn manifest is no base: it is overwritten. An SST that the archive has is not sent a second time.
//! Several nodes may publish at once, also at the same csn: files are named by their content, and of two manifests
//! with one name the first stays. Non-goals: deciding when to publish, and removing older bases.

use super::base::{LocalBase, LocalFile};
use super::manifest::{Level, Manifest};
use super::mover::{Origin, Part, create_manifest, is_whole, send, send_missing};
use crate::archive::layout::{BaseName, ObjectName};
use crate::archive::listing::BaseStart;
use crate::archive::pins;
use crate::archive::store::Archive;
use crate::csn::Csn;
use crate::error::Result;
use std::collections::HashSet;
use std::time::Duration;

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
        let parts: Vec<Part> = ssts.iter().chain(&own).map(part_of).collect();
        let unknown = parts.iter().filter(|part| !self.known.contains(&part.object)).cloned();
        let sent = send(&self.archive, unknown, &|_| {}).await?;
        covered.await?;
        let mut manifest = base.manifest().clone();
        manifest.bytes_shared = manifest.bytes() - sent.bytes;
        manifest.bytes_new = sent.bytes;
        manifest.took_ms = base.age().as_millis() as u64;
        if !create_manifest(&self.archive, &manifest).await? {
            return Ok(None);
        }
        pins::wait_for_prunes(&self.archive).await?;
        let lost = send_missing(&self.archive, parts).await?;
        self.known = ssts.into_iter().map(|sst| sst.object).collect();
        let mut published = Published::of(&manifest);
        published.objects = sent.objects + lost.objects + 1;
        (published.cut_pause, published.took) = (base.cut_pause(), base.age());
        let (name, level) = (published.base, published.level);
        tracing::info!(csn = %name.csn, epoch = %name.epoch, %level, new = published.bytes_new, shared = published.bytes_shared, "base published");
        Ok(Some(published))
    }
}

fn part_of(file: &LocalFile) -> Part {
    Part { object: file.object.clone(), bytes: file.bytes, origin: Origin::File(file.path.clone()) }
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

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
