//! Cleanup after a benchmark or the demo, also when a signal stops it: servers, their children, and their data are
//! removed.

use rustix::process::{Pid, Signal, kill_process_group};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Servers and directories that have to be removed.
struct Left {
    servers: Vec<Pid>,
    directories: Vec<PathBuf>,
}

static LEFT: Mutex<Left> = Mutex::new(Left { servers: Vec::new(), directories: Vec::new() });

fn left() -> MutexGuard<'static, Left> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory for the servers' data. Dropping it removes the directory.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Creates a directory in `parent` or in the system's temporary directory.
    pub(crate) fn create(parent: Option<&Path>) -> std::io::Result<Self> {
        let mut left = left();
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let dir = tempfile::Builder::new().prefix("walferry-bench-").tempdir_in(parent)?.keep();
        left.directories.push(dir.clone());
        Ok(Self(dir))
    }

    /// Returns the path of the directory.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.0);
        left().directories.retain(|dir| *dir != self.0);
    }
}

/// Removes a directory. A killed process may still create a file at that moment, so the removal is retried.
fn remove(dir: &Path) {
    for _ in 0..100 {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => std::thread::sleep(Duration::from_millis(20)),
            _ => return,
        }
    }
    eprintln!("walferry: cannot remove {}. Remove it by hand", dir.display());
}

/// Starts a server as the leader of its own process group, because redis-server has children that rewrite its files.
pub(crate) fn spawn(command: &mut Command) -> std::io::Result<Child> {
    let mut left = left();
    let child = command.process_group(0).spawn()?;
    left.servers.push(Pid::from_child(&child));
    Ok(child)
}

/// Kills a server and its children, as a crash would, unless the server has already ended.
pub(crate) fn end(child: &mut Child) {
    let mut left = left();
    let pid = Pid::from_child(child);
    // A process that was not waited for keeps its number, so the number cannot belong to another group.
    if matches!(child.try_wait(), Ok(None)) {
        let _ = kill_process_group(pid, Signal::KILL);
        let _ = child.wait();
    }
    left.servers.retain(|server| *server != pid);
}

/// Kills all servers and removes all directories. The lock stays held, so that a thread that wants to start or create
/// more waits until the process ends.
pub(crate) fn end_all() {
    let left = left();
    for &server in &left.servers {
        let _ = kill_process_group(server, Signal::KILL);
    }
    left.directories.iter().for_each(|dir| remove(dir));
    std::mem::forget(left);
}
