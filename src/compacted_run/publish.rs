//! Uploads a local compacted run into the archive.
//!
//! Guarantees: the manifest is written last and create-only, once every file that it refers to was confirmed. A crash
//! at any step leaves nothing that counts as a run. A damaged manifest in the archive is replaced. Two builders of the
//! same run never overwrite each other's files.

use super::builder::LocalRun;
use super::manifest::RunManifest;
use crate::archive::layout::{ObjectName, RunName, as_text};
use crate::archive::store::{Archive, Creation};
use crate::error::{Error, Result};
use crate::snapshot::manifest::require_storable;
use crate::snapshot::mover::{Origin, Part, send};
use bytes::Bytes;
use serde::Serialize;

/// The outcome of publishing a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct PublishedRun {
    /// The run.
    #[serde(serialize_with = "as_text")]
    pub run: RunName,
    /// Number of the run's files.
    pub files: u64,
    /// Bytes of the run's files.
    pub bytes: u64,
    /// Uncompressed bytes of the effects of the run's commits.
    pub raw_bytes: u64,
    /// Whether this call published the run; false if the archive had it already.
    pub is_new: bool,
}

/// Publishes a compacted run, unless the archive has it already.
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
    require_storable(&name, &body, "Make smaller runs")?;
    let part = |(path, object, bytes)| Part { object, bytes, origin: Origin::File(path) };
    send(archive, local.files().map(part), &|_| {}).await?;
    if let Some(Err(error)) = found {
        // No reader can use a damaged manifest, so replacing it loses nothing.
        tracing::warn!(run = %published.run, %error, "the manifest of a run is damaged and is replaced");
        archive.put_verified(&name, body.into()).await?;
        published.is_new = true;
        return Ok(published);
    }
    published.is_new = match archive.put_new(&name, body.clone().into()).await? {
        Creation::Created => true,
        // Another node created it, or an earlier attempt of this node whose reply was lost.
        Creation::Exists => archive.get(&name).await?.is_some_and(|found| found == body),
    };
    tracing::info!(run = %published.run, bytes = published.bytes, raw = published.raw_bytes, "run published");
    Ok(published)
}
