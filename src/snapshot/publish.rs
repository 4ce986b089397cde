//! Publishes a base: data first, the manifest last, so that a base is visible only when it is whole.
//!
//! Guarantees: an SST that the archive has under its content hash is not uploaded again; every upload is confirmed; what
//! an interrupted attempt leaves behind is referred to by nothing.

use super::base::{LocalBase, LocalFile};
use super::manifest::Manifest;
use crate::archive::layout::{BaseName, ObjectName};
use crate::archive::store::{Archive, Creation};
use crate::csn::Csn;
use crate::error::{Error, Result};
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use std::time::Duration;

/// Files uploaded at the same time.
const IN_FLIGHT_MAX: usize = 4;

/// What publishing did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishReport {
    /// The csn every engine is at.
    pub csn: Csn,
    /// Which base it is.
    pub base: BaseName,
    /// Bytes uploaded.
    pub bytes_new: u64,
    /// Bytes of SSTs that were there already.
    pub bytes_shared: u64,
    /// Files of the base.
    pub files: usize,
    /// How long writers waited for the cut.
    pub pause: Duration,
    /// From the cut until the manifest was there.
    pub took: Duration,
}

/// Uploads a base and removes it from local disk.
pub async fn publish(archive: &Archive, mut base: LocalBase) -> Result<PublishReport> {
    let files = base.files();
    let count = files.len();
    let uploads = stream::iter(files).map(|file| upload(archive, file)).buffer_unordered(IN_FLIGHT_MAX);
    let (new, shared) = uploads.try_fold((0, 0), |sum, one| async move { Ok((sum.0 + one.0, sum.1 + one.1)) }).await?;
    base.manifest.bytes_new = new;
    base.manifest.bytes_shared = shared;
    base.manifest.took_ms = base.started.elapsed().as_millis() as u64;
    put_manifest(archive, &base.manifest).await?;
    let report = PublishReport {
        csn: base.manifest.csn,
        base: base.manifest.base(),
        bytes_new: new,
        bytes_shared: shared,
        files: count,
        pause: base.pause,
        took: base.started.elapsed(),
    };
    base.remove()?;
    Ok(report)
}

/// Uploads one file; returns bytes new and bytes shared.
async fn upload(archive: &Archive, file: LocalFile) -> Result<(u64, u64)> {
    if matches!(file.object, ObjectName::Sst(_)) && archive.head(&file.object).await? == Some(file.bytes) {
        return Ok((0, file.bytes));
    }
    let sent = archive.put_file_verified(&file.object, &file.path).await?;
    Ok((sent, 0))
}

/// The manifest is created once. One that is there already is another attempt at the same base, and as good if it reads.
async fn put_manifest(archive: &Archive, manifest: &Manifest) -> Result<()> {
    let name = ObjectName::BaseManifest(manifest.base());
    match archive.put_new(&name, Bytes::from(manifest.encode())).await? {
        Creation::Created => Ok(()),
        Creation::Exists => {
            let what = format!("{}/{name}", archive.url());
            let found = archive.get(&name).await?.ok_or_else(|| Error::corrupt(&what, "object", "is there and is not"))?;
            Manifest::decode(&found, &what).map(drop)
        }
    }
}
