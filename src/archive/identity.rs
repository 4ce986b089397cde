//! The identity of an archive's cluster: `walferry.json`.
//!
//! Guarantees: the identity is written once, create-only; a cluster never writes into another cluster's archive.

use super::digested;
use super::layout::ObjectName;
use super::store::{Archive, Creation};
pub use crate::cluster::ClusterId;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Version of the archive's layout and of its JSON records.
pub const ARCHIVE_FORMAT: u32 = 2;

/// Content of `walferry.json`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Identity {
    /// See [`ARCHIVE_FORMAT`].
    format: u32,
    /// The cluster that the archive belongs to.
    cluster: ClusterId,
}

/// Returns the cluster that the archive belongs to, or `None` if no cluster has claimed it.
pub async fn read(archive: &Archive) -> Result<Option<ClusterId>> {
    let identity: Option<Identity> = digested::read(archive, &ObjectName::Identity, ARCHIVE_FORMAT).await?;
    Ok(identity.map(|identity| identity.cluster))
}

/// Returns the cluster that the archive belongs to, for readers; an error if the location is not an archive.
pub async fn require(archive: &Archive) -> Result<ClusterId> {
    read(archive).await?.ok_or_else(|| Error::Identity {
        what: archive.url().to_owned(),
        detail: "walferry.json is missing: this is not an archive, or no primary has started with it. Check the bucket and the prefix"
            .to_owned(),
    })
}

/// Claims the archive for cluster `own` if no cluster has claimed it; refuses the archive of another cluster.
pub async fn establish(archive: &Archive, own: ClusterId) -> Result<()> {
    let found = match read(archive).await {
        Ok(Some(found)) => found,
        // A missing bucket belongs to no cluster. Some servers create the bucket at the first put; the other servers
        // answer the put with the same error.
        Ok(None) | Err(Error::Store { source: object_store::Error::NotFound { .. }, .. }) => {
            create(archive, own).await?
        }
        Err(error) => return Err(error),
    };
    if found == own {
        return Ok(());
    }
    Err(Error::Identity {
        what: archive.url().to_owned(),
        detail: format!(
            "the archive belongs to cluster {found}, this data directory to cluster {own}. Give this cluster another \
             prefix, or restore from the archive into an empty directory"
        ),
    })
}

/// Writes `own` and returns the cluster that is stored afterwards: another primary may have been faster.
async fn create(archive: &Archive, own: ClusterId) -> Result<ClusterId> {
    let identity = Identity { format: ARCHIVE_FORMAT, cluster: own };
    match digested::create(archive, &ObjectName::Identity, &identity).await? {
        Creation::Created => Ok(own),
        Creation::Exists => require(archive).await,
    }
}
