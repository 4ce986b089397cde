//! Brings a local run into the archive.
//!
//! Guarantees: the manifest is written last, create-only, when every file it refers to was confirmed; a crash at any
//! step leaves nothing that counts as a run. One that is there and damaged is replaced. Two builders of the same run never overwrite each other's files.

use super::builder::LocalRun;
use super::manifest::RunManifest;
use crate::archive::layout::{ObjectName, RunName};
use crate::archive::store::{Archive, Creation};
use crate::error::{Error, Result};
use crate::snapshot::manifest::MANIFEST_BYTES_MAX;
use crate::snapshot::publish::UPLOADS_IN_FLIGHT_MAX;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Serialize, Serializer};

/// What publishing a run brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct PublishedRun {
    /// Which run.
    #[serde(serialize_with = "as_text")]
    pub run: RunName,
    /// Number of its files.
    pub files: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Bytes of the effects of its commits, uncompressed.
    pub raw_bytes: u64,
    /// Whether it is new: else somebody else had published it.
    pub is_new: bool,
}

fn as_text<S: Serializer>(run: &RunName, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(run)
}

/// Publishes a run.
pub async fn publish(archive: &Archive, local: &LocalRun) -> Result<PublishedRun> {
    let manifest = local.manifest();
    let name = ObjectName::RunManifest(manifest.run());
    let mut published = PublishedRun {
        run: manifest.run(),
        files: manifest.files(),
        bytes: manifest.bytes(),
        raw_bytes: manifest.raw_bytes,
        is_new: false,
    };
    let decode = |found: &Bytes| RunManifest::decode(found, &name.to_string());
    let found = archive.get_sensible(&name, |found| decode(found).is_ok()).await?.map(|found| decode(&found));
    if !matches!(found, None | Some(Err(Error::Corrupt { .. }))) {
        return Ok(published);
    }
    let body = manifest.encode();
    if body.len() > MANIFEST_BYTES_MAX {
        let reason = format!("the manifest of {name} has {} bytes, more than {MANIFEST_BYTES_MAX}", body.len());
        return Err(Error::Refused { reason: format!("{reason}: make smaller runs") });
    }
    let uploads = local.files().map(|(path, object)| {
        let archive = archive.clone();
        async move { archive.put_file_verified(&object, &path).await }
    });
    let uploads: Vec<_> = uploads.collect();
    stream::iter(uploads).buffer_unordered(UPLOADS_IN_FLIGHT_MAX).try_collect::<Vec<u64>>().await?;
    if let Some(Err(error)) = found {
        // Nobody can use it, so nobody loses anything.
        tracing::warn!(run = %published.run, %error, "the manifest of a run is damaged and is replaced");
        archive.put_verified(&name, body.into()).await?;
        published.is_new = true;
        return Ok(published);
    }
    published.is_new = match archive.put_new(&name, body.clone().into()).await? {
        Creation::Created => true,
        // Another node's; or this one's, by an attempt whose answer was lost.
        Creation::Exists => archive.get(&name).await?.is_some_and(|found| found == body),
    };
    tracing::info!(run = %published.run, bytes = published.bytes, raw = published.raw_bytes, "run published");
    Ok(published)
}
