//! Where a node's data and archives may lie.

use crate::archive::config::ArchiveUrl;
use crate::config::Config;
use crate::error::Result;
use std::path::Path;
use std::str::FromStr;

/// Refuses archives that lie in the data directory `root` or in each other, or the other way round. Before either of them
/// is touched.
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
