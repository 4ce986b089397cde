//! The node's own memory images: with the logs behind the newest one, a restart is bounded.
//!
//! Guarantees: an image appears whole or not at all; the newest one is used, and if it does not read, that is an error
//! that names it, never a silent fall back to an older state.

use super::image::{read_image_file, write_image};
use crate::csn::Csn;
use crate::engine::memory::{Memory, MemoryCut};
use crate::error::Result;
use crate::io::Io;
use crate::log::recovery::ImagePosition;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

const SUFFIX: &str = ".image";

/// Path of the image cut at a csn.
#[must_use]
pub fn path(dir: &Path, csn: Csn) -> PathBuf {
    dir.join(format!("{}{SUFFIX}", csn.padded()))
}

fn parse_name(name: &OsStr) -> Option<Csn> {
    name.to_str()?.strip_suffix(SUFFIX)?.parse().ok().map(Csn)
}

fn list(io: &dyn Io, dir: &Path) -> Result<Vec<Csn>> {
    let mut images: Vec<_> = io.list(dir)?.iter().filter_map(|name| parse_name(name)).collect();
    images.sort_unstable();
    Ok(images)
}

/// Writes an image durably, in a directory that is created if it is missing; returns its length.
pub fn write(io: &dyn Io, dir: &Path, cut: &MemoryCut, at: ImagePosition) -> Result<u64> {
    io.create_dir(dir)?;
    write_image(io, &path(dir, at.position.csn), cut, at)
}

/// The newest image of a directory; `None` if there is none.
pub fn newest(io: &dyn Io, dir: &Path) -> Result<Option<(Memory, ImagePosition)>> {
    match list(io, dir)?.last() {
        Some(csn) => read_image_file(io, &path(dir, *csn)).map(Some),
        None => Ok(None),
    }
}

/// Removes the images older than the one cut at `keep`.
pub fn purge(io: &dyn Io, dir: &Path, keep: Csn) -> Result<()> {
    for csn in list(io, dir)?.into_iter().filter(|csn| *csn < keep) {
        io.remove(&path(dir, csn))?;
    }
    Ok(())
}
