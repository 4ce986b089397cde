//! Moves the objects of a base or a run into an archive: from the local disk, when a node publishes to its archives, or
//! from another archive, when a backup is copied.
//!
//! Guarantees: an object counts as moved once the archive confirmed its length; an object from another archive also has
//! its BLAKE3 hash checked, is decrypted with the keys of its archive, and is encrypted with those of the target. The
//! caller stores the manifest after the files, with [`create_manifest`], and then calls [`wait_for_prunes`] and sends
//! what a prune removed in the meantime: before the manifest existed, a prune could remove SSTs that only older bases
//! referred to, and files that were old enough to count as orphans.
//!
//! [`wait_for_prunes`]: crate::archive::pins::wait_for_prunes

use super::manifest::{DbFile, Manifest, require_storable};
use crate::archive::layout::ObjectName;
use crate::archive::store::{Archive, Creation};
use crate::error::{Error, Result};
use futures::{StreamExt, TryStreamExt, stream};
use std::path::PathBuf;

/// Largest number of objects that are uploaded in parallel.
pub const UPLOADS_IN_FLIGHT_MAX: usize = 4;

/// An object to move.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Name of the object, which derives from its content.
    pub object: ObjectName,
    /// Length in bytes.
    pub bytes: u64,
    /// The place of the object's bytes.
    pub origin: Origin,
}

/// The place of an object's bytes: a local file or another archive.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// In a local file, which does not change.
    File(PathBuf),
    /// In another archive, under the same name, with this content.
    Archive { from: Archive, blake3: blake3::Hash },
}

/// Number and bytes of the objects sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Sent {
    pub objects: u64,
    pub bytes: u64,
}

impl Part {
    /// Returns the objects of a base of the archive `from`, without its manifest.
    pub(crate) fn of_archive(from: &Archive, manifest: &Manifest) -> Vec<Self> {
        let base = manifest.base();
        let own = manifest.memory.files.iter().chain(&manifest.completion);
        let own = own.map(|file| (file.object(base), file.bytes, file.blake3));
        let disk = manifest.disk.files.iter().map(|file: &DbFile| (file.object(base), file.bytes, file.blake3));
        let origin = |blake3| Origin::Archive { from: from.clone(), blake3 };
        disk.chain(own).map(|(object, bytes, blake3)| Self { object, bytes, origin: origin(blake3) }).collect()
    }

    /// Sends the object and replaces one that is there.
    async fn send(self, to: &Archive) -> Result<Sent> {
        match &self.origin {
            Origin::File(path) => {
                let bytes = to.put_file_verified(&self.object, path).await?;
                assert_eq!(bytes, self.bytes, "a file of a base does not change after its cut: {}", path.display());
            }
            Origin::Archive { from, blake3 } => to.put_from_verified(from, &self.object, self.bytes, *blake3).await?,
        }
        Ok(Sent { objects: 1, bytes: self.bytes })
    }

    async fn send_if_missing(self, to: &Archive) -> Result<Sent> {
        match to.head(&self.object).await? {
            Some(bytes) if bytes == self.bytes => Ok(Sent::default()),
            _ => self.send(to).await,
        }
    }
}

/// Sends the parts; SSTs, which bases share, only if the archive does not have them. Passes the bytes of each part that
/// is done to `done`. The first error stops the uploads.
pub(crate) async fn send(
    to: &Archive,
    parts: impl IntoIterator<Item = Part>,
    done: &(dyn Fn(u64) + Sync),
) -> Result<Sent> {
    let is_shared = |part: &Part| matches!(part.object, ObjectName::Sst(_));
    send_by(to, parts, is_shared, done).await
}

/// Sends the parts that the archive does not have.
pub(crate) async fn send_missing(to: &Archive, parts: impl IntoIterator<Item = Part>) -> Result<Sent> {
    send_by(to, parts, |_| true, &|_| {}).await
}

async fn send_by(
    to: &Archive,
    parts: impl IntoIterator<Item = Part>,
    asks_first: impl Fn(&Part) -> bool,
    done: &(dyn Fn(u64) + Sync),
) -> Result<Sent> {
    let uploads = parts.into_iter().map(|part| {
        let (to, bytes, asks_first) = (to.clone(), part.bytes, asks_first(&part));
        async move {
            let sent = if asks_first { part.send_if_missing(&to).await } else { part.send(&to).await };
            sent.inspect(|_| done(bytes))
        }
    });
    let uploads: Vec<_> = uploads.collect();
    let mut sum = Sent::default();
    let mut sending = stream::iter(uploads).buffer_unordered(UPLOADS_IN_FLIGHT_MAX);
    while let Some(sent) = sending.try_next().await? {
        sum.objects += sent.objects;
        sum.bytes += sent.bytes;
    }
    Ok(sum)
}

/// Creates a manifest; returns false if another whole manifest has its name.
pub(crate) async fn create_manifest(archive: &Archive, manifest: &Manifest) -> Result<bool> {
    let name = manifest.start().manifest();
    let body = manifest.encode();
    require_storable(&name, &body, "The base is not published")?;
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
