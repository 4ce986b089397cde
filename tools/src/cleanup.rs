//! What neither a benchmark nor the demo leaves behind, also when a signal stops it: servers, their children, and their data.

use rustix::process::{Pid, Signal, kill_process_group};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What is there now.
struct Left {
    servers: Vec<Pid>,
    directories: Vec<PathBuf>,
}

static LEFT: Mutex<Left> = Mutex::new(Left { servers: Vec::new(), directories: Vec::new() });

fn left() -> MutexGuard<'static, Left> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory for the servers' data, removed when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new one, in `parent` or the system's temporary directory.
    pub fn create(parent: Option<&Path>) -> std::io::Result<Self> {
        let mut left = left();
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let dir = tempfile::Builder::new().prefix("walferry-bench-").tempdir_in(parent)?.keep();
        left.directories.push(dir.clone());
        Ok(Self(dir))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.0);
        left().directories.retain(|dir| *dir != self.0);
    }
}

/// A process that was killed may still create the file it was about to create: removing is tried again.
fn remove(dir: &Path) {
    for _ in 0..100 {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => std::thread::sleep(Duration::from_millis(20)),
            _ => return,
        }
    }
    eprintln!("walferry: cannot remove {}, remove it by hand", dir.display());
}

/// Starts a server as the leader of a process group of its own: redis-server has children that rewrite its files.
pub fn spawn(command: &mut Command) -> std::io::Result<Child> {
    let mut left = left();
    let child = command.process_group(0).spawn()?;
    left.servers.push(Pid::from_child(&child));
    Ok(child)
}

/// Ends a server and its children as a crash would, unless it has ended already.
pub fn end(child: &mut Child) {
    let mut left = left();
    let pid = Pid::from_child(child);
    // A process that was not waited for keeps its number, so that no other group is meant.
    if matches!(child.try_wait(), Ok(None)) {
        let _ = kill_process_group(pid, Signal::KILL);
        let _ = child.wait();
    }
    left.servers.retain(|server| *server != pid);
}

/// Ends and removes everything. Whoever would start or create more waits for the end of the process.
pub fn end_all() {
    let left = left();
    for &server in &left.servers {
        let _ = kill_process_group(server, Signal::KILL);
    }
    left.directories.iter().for_each(|dir| remove(dir));
    std::mem::forget(left);
}
