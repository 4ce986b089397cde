//! Devices that can be taken away: a file system on a loop device, whose backing file is copied as a power cut would
//! leave it. It needs root.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A temporary directory in memory where there is one: devices and their copies are large and short-lived.
pub fn in_memory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let root = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    root.expect("a temporary directory")
}

/// A mounted file system on a loop device, unmounted when dropped.
pub struct Mounted {
    image: PathBuf,
    /// Where it is mounted.
    pub dir: PathBuf,
}

impl Mounted {
    /// Mounts an image; `None` where that is not allowed.
    pub fn mount(image: &Path, dir: &Path) -> Option<Self> {
        std::fs::create_dir_all(dir).expect("a directory");
        let mounted = Self { image: image.to_owned(), dir: dir.to_owned() };
        run("mount", &["-o", "loop", text(image), text(dir)]).then_some(mounted)
    }

    /// A new file system on a device of `bytes`; `None` where mounting is not allowed.
    pub fn new(image: &Path, dir: &Path, bytes: u64) -> Option<Self> {
        let file = std::fs::File::create(image).expect("an image file");
        file.set_len(bytes).expect("room for an image");
        assert!(run("mkfs.ext4", &["-q", "-F", text(image)]), "mkfs.ext4 (package e2fsprogs) makes a file system");
        Self::mount(image, dir)
    }

    /// Copies what has reached the device, at one moment: until two copies in a row are the same.
    pub fn cut(&self, to: &Path) {
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
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &["-l", text(&self.dir)]);
    }
}

/// Writes a file in which zeroes take no room.
fn write_sparse(path: &Path, content: &[u8]) {
    const BLOCK: usize = 64 << 10;
    let file = std::fs::File::create(path).expect("a file for the copy");
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

/// The machine came up again since: the directory must not take this for the boot that it was opened in.
pub fn forget_boot(dir: &Path) {
    let path = dir.join("walferry.json");
    let mut identity: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).expect("an identity")).expect("JSON");
    assert!(identity["boot"].is_string(), "{identity}");
    identity["boot"] = "another boot".into();
    std::fs::write(&path, identity.to_string()).expect("the identity can be written");
}
