//! The node's own memory images. A restart begins with the newest image, so that it need not replay the whole op-log.
//!
//! Guarantees: an image is whole and durable when it appears under its name, `<csn:020>.image`; older images stay
//! until they are purged. A damaged newest image is an error and is never skipped, because the logs may have been
//! purged up to it. Non-goals: deciding when to write an image, and purging the logs.

use super::image::{read_image_file, write_image};
use crate::csn::Csn;
use crate::engine::memory::{Memory, MemoryCut};
use crate::error::{Error, Result};
use crate::io::Io;
use crate::log::recovery::CutPoint;
use std::path::{Path, PathBuf};

/// File name extension of an image.
const SUFFIX: &str = ".image";

/// Writes `cut`, made at `at`, as an image into `dir`; returns the image's length in bytes.
pub fn write(io: &dyn Io, dir: &Path, cut: &MemoryCut, at: CutPoint) -> Result<u64> {
    io.create_dir(dir)?;
    write_image(io, &path(dir, at.position.csn), cut, at)
}

/// Reads the newest image; returns its content and position, or `None` if there is no image.
pub fn newest(io: &dyn Io, dir: &Path) -> Result<Option<(Memory, CutPoint)>> {
    let Some(csn) = list(io, dir)?.pop() else { return Ok(None) };
    let path = path(dir, csn);
    let (memory, at) = read_image_file(io, &path)?;
    if at.position.csn != csn {
        let detail = format!("its name states csn {csn}, but it contains csn {}", at.position.csn);
        return Err(Error::corrupt(path.display().to_string(), "byte 16", detail));
    }
    Ok(Some((memory, at)))
}

/// Removes all images but the newest, and unfinished files; returns the number of files removed. Must not run while an
/// image is being written.
pub fn purge(io: &dyn Io, dir: &Path) -> Result<usize> {
    let mut older = list(io, dir)?;
    if older.pop().is_none() {
        return Ok(0);
    }
    for csn in &older {
        io.remove(&path(dir, *csn))?;
    }
    let removed = older.len() + io.remove_unfinished(dir)?;
    io.sync_dir(dir)?;
    Ok(removed)
}

fn path(dir: &Path, csn: Csn) -> PathBuf {
    dir.join(csn.padded() + SUFFIX)
}

/// Returns the csns of the images in `dir`, ascending. Ignores other files.
fn list(io: &dyn Io, dir: &Path) -> Result<Vec<Csn>> {
    if !dir.try_exists().map_err(Error::io("look for", dir))? {
        return Ok(Vec::new());
    }
    let names = io.list(dir)?;
    let csn =
        |name: &str| Some(Csn(name.strip_suffix(SUFFIX)?.parse().ok()?)).filter(|csn| csn.padded() + SUFFIX == name);
    let mut csns: Vec<Csn> = names.iter().filter_map(|name| csn(name.to_str()?)).collect();
    csns.sort_unstable();
    Ok(csns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csn::WalSeq;
    use crate::engine::memory::{Change, LargeValue, List, Slot};
    use crate::io::StdIo;
    use crate::io::testing::{FAULTS, each_step};

    fn at(csn: u64) -> CutPoint {
        let mut at = CutPoint { wal_seq: WalSeq(csn), ..CutPoint::default() };
        at.position.csn = Csn(csn);
        at
    }

    fn memory(element: &[u8]) -> Memory {
        let memory = Memory::new();
        let mut list = List::new();
        list.push_back(element);
        memory.insert(Slot::large(b"k", 0, LargeValue::List(list)), Change { csn: Csn(1), hidden: None });
        memory
    }

    fn element(memory: &Memory) -> Vec<u8> {
        let slot = memory.get(b"k").expect("the list is there");
        slot.as_list().and_then(|list| list.get(0)).expect("the list has an element").to_vec()
    }

    #[test]
    fn the_newest_image_counts_and_stays() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("image");
        assert!(newest(&StdIo, &dir).unwrap().is_none());
        for (csn, text) in [(9, b"nine"), (10, b"ten ")] {
            write(&StdIo, &dir, &memory(text).cut(), at(csn)).unwrap();
        }
        std::fs::write(dir.join("00000000000000000011.image.tmp"), b"half").unwrap();
        std::fs::write(dir.join("12.image"), b"foreign").unwrap();
        let (found, position) = newest(&StdIo, &dir).unwrap().unwrap();
        assert_eq!((element(&found), position), (b"ten ".to_vec(), at(10)));
        assert_eq!(purge(&StdIo, &dir).unwrap(), 2);
        assert_eq!(list(&StdIo, &dir).unwrap(), [Csn(10)]);
        assert_eq!(purge(&StdIo, &dir).unwrap(), 0);
    }

    /// Goal: whichever step of writing an image and purging the older images fails, the newest image is whole, and the
    /// new image exists if its write was reported as done.
    #[test]
    fn the_newest_image_is_whole_whichever_step_fails() {
        each_step(&FAULTS, |case| {
            let root = tempfile::tempdir().unwrap();
            let dir = root.path().join("image");
            write(&StdIo, &dir, &memory(b"old").cut(), at(9)).unwrap();
            let written = write(&*case.io, &dir, &memory(b"new").cut(), at(10));
            let purged = written.as_ref().is_ok_and(|_| purge(&*case.io, &dir).is_ok());
            assert_eq!(purged, !case.io.has_struck());
            StdIo.remove_unfinished(&dir).unwrap();
            let (found, position) = newest(&StdIo, &dir).unwrap().unwrap();
            let is_new = position == at(10);
            assert_eq!(element(&found), if is_new { b"new" } else { b"old" });
            assert!(is_new || (written.is_err() && position == at(9)));
            write(&StdIo, &dir, &memory(b"last").cut(), at(11)).unwrap();
            purge(&StdIo, &dir).unwrap();
            assert_eq!(list(&StdIo, &dir).unwrap(), [Csn(11)]);
        });
    }

    #[test]
    fn a_damaged_newest_image_is_named_and_not_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path();
        write(&StdIo, dir, &memory(b"old").cut(), at(9)).unwrap();
        write(&StdIo, dir, &memory(b"new").cut(), at(10)).unwrap();
        let path = path(dir, Csn(10));
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let error = newest(&StdIo, dir).err().expect("a damaged image").to_string();
        assert!(error.contains("00000000000000000010.image"), "{error}");
        std::fs::write(dir.join("00000000000000000011.image"), &whole).unwrap();
        let error = newest(&StdIo, dir).err().expect("an image of another csn").to_string();
        assert!(error.contains("its name states csn 11"), "{error}");
    }
}
