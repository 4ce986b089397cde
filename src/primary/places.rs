//! Rules for the locations of a node's data and archives.

use crate::archive::config::ArchiveUrl;
use crate::config::Config;
use crate::error::Result;
use std::path::Path;
use std::str::FromStr;

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
