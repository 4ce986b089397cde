//! Separate file systems on loop devices, which can be filled or lose their power. Needs root.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Message of a test that cannot mount a device.
pub(crate) const SKIPPED: &str = "SKIPPED: no loop device can be mounted here (it takes root): nothing was checked";

/// Bytes of ballast per write.
const BALLAST_PIECE: usize = 1 << 20;

/// A mounted file system on a loop device, unmounted when dropped.
pub(crate) struct Mounted {
    image: PathBuf,
    /// Where it is mounted.
    pub dir: PathBuf,
}

impl Mounted {
    /// Mounts an image; `None` where mounting is not allowed.
    pub(crate) fn mount(image: &Path, dir: &Path) -> Option<Self> {
        std::fs::create_dir_all(dir).expect("a directory");
        let mounted = Self { image: image.to_owned(), dir: dir.to_owned() };
        run("mount", &["-o", "loop", text(image), text(dir)]).then_some(mounted)
    }

    /// Creates and mounts a new ext4 file system.
    pub(crate) fn new(image: &Path, bytes: u64, dir: &Path) -> Option<Self> {
        let file = File::create(image).expect("an image file");
        file.set_len(bytes).expect("room for an image");
        // Without the blocks reserved for root, because the tests run as root.
        let made = run("mkfs.ext4", &["-q", "-F", "-m", "0", text(image)]);
        assert!(made, "mkfs.ext4 (package e2fsprogs) makes a file system");
        Self::mount(image, dir)
    }

    /// Copies the data that reached the device at one moment: copies until two copies in a row are equal.
    pub(crate) fn cut(&self, to: &Path) {
        let copy = || std::fs::read(&self.image).expect("the image can be read");
        let mut last = copy();
        loop {
            let next = copy();
            if next == last {
                return write_sparse(to, &next);
            }
            last = next;
        }
    }

    /// Fills the file system until no byte is free.
    pub(crate) fn fill(&self) {
        let mut ballast = File::create(self.ballast()).expect("a file for the ballast");
        for piece in [BALLAST_PIECE, 4096, 1] {
            while ballast.write_all(&vec![1; piece]).is_ok() {}
        }
        let _ = ballast.sync_all();
    }

    /// Frees the space that [`Self::fill`] took.
    pub(crate) fn empty(&self) {
        std::fs::remove_file(self.ballast()).expect("the ballast is there");
    }

    fn ballast(&self) -> PathBuf {
        self.dir.join("ballast")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &["-l", text(&self.dir)]);
    }
}

/// Creates a temporary directory for images of devices, in memory if the machine has `/dev/shm`.
pub(crate) fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let root = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    root.expect("a temporary directory")
}

/// Writes a file in which blocks of zeroes take no space.
fn write_sparse(path: &Path, content: &[u8]) {
    const BLOCK: usize = 64 << 10;
    let file = File::create(path).expect("a file for the copy");
    file.set_len(content.len() as u64).expect("room for the copy");
    for (nth, block) in content.chunks(BLOCK).enumerate().filter(|(_, block)| block.iter().any(|byte| *byte != 0)) {
        file.write_all_at(block, (nth * BLOCK) as u64).expect("the copy can be written");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

/// Makes a data directory forget the boot in which it was opened, as if the machine had rebooted since.
pub(crate) fn forget_boot(dir: &Path) {
    let path = dir.join("walferry.json");
    let mut identity: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).expect("an identity")).expect("JSON");
    assert!(identity["boot"].is_string(), "{identity}");
    identity["boot"] = "another boot".into();
    std::fs::write(&path, identity.to_string()).expect("the identity can be written");
}
