//! Rules for the locations of a node's data and archives.

use crate::archive::config::ArchiveUrl;
use crate::archive::identity;
use crate::archive::opening::open_second;
use crate::archive::retry_policy::RetryPolicy;
use crate::cluster::ClusterId;
use crate::config::Config;
use crate::error::{Error, Result};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

/// Retry policy of a start that asks the archive which cluster owns it.
pub const LOOK: RetryPolicy = RetryPolicy { attempts: 1, deadline: Duration::from_secs(5), ..RetryPolicy::DEFAULT };

/// Refuses an archive that lies in the data directory `root` or in the other archive, or that contains one of them.
/// Called before any of the locations is touched.
pub fn require_apart(root: &Path, config: &Config) -> Result<()> {
    let url = |text: &str| if text.is_empty() { Ok(None) } else { ArchiveUrl::from_str(text).map(Some) };
    let (first, second) = (url(&config.archive)?, url(&config.archive_2)?);
    for (name, url) in [("archive", &first), ("archive-2", &second)] {
        url.as_ref().map_or(Ok(()), |url| url.require_apart(name, root, "the data directory"))?;
    }
    match (&first, &second) {
        (Some(first), Some(second)) => second.require_apart_from("archive-2", first, "archive"),
        _ => Ok(()),
    }
}

/// Refuses a second archive that cannot belong to this cluster; `cluster` is `None` if the cluster does not exist yet.
/// An archive that does not answer does not prevent the start.
pub async fn require_own_second(config: &Config, cluster: Option<ClusterId>) -> Result<()> {
    let wrong = |detail: &str| Err(Error::Config { key: "archive-2".to_owned(), detail: detail.to_owned() });
    if config.archive_2.is_empty() {
        return Ok(());
    }
    if config.archive.is_empty() {
        return wrong("needs a first archive: set archive");
    }
    let same_url = config.archive_2.trim_end_matches('/') == config.archive.trim_end_matches('/');
    if same_url && config.archive_2_s3_endpoint.is_empty() {
        return wrong("is the same as archive. Name another place");
    }
    let found = match open_second(config) {
        Ok(Some(archive)) => identity::read(&archive.with_retry_policy(LOOK)).await,
        Ok(None) => Ok(None),
        Err(error) => Err(error),
    };
    match found {
        Ok(Some(other)) if Some(other) != cluster => {
            let own = cluster.map_or_else(|| "a new cluster".to_owned(), |own| format!("cluster {own}"));
            let detail =
                format!("belongs to cluster {other}, this data directory to {own}. Give archive-2 another prefix");
            Err(Error::Identity { what: format!("archive-2 {}", config.archive_2), detail })
        }
        Err(error) if passes(&error) => {
            tracing::warn!(archive = config.archive_2, %error, "archive-2 cannot be reached; the node serves clients \
                                                                and retries");
            Ok(())
        }
        found => found.map(drop),
    }
}

/// Reports whether a failure may pass without an operator: not if the archive belongs to another cluster or cannot be
/// opened as configured. An unreadable answer counts as a failure that may pass.
pub fn passes(error: &Error) -> bool {
    !matches!(error, Error::Identity { .. } | Error::Config { .. } | Error::Fenced { .. })
}
