//! One machine of a simulation: its server, its disk and its part of the network.
//!
//! Each machine has its own file system on a loop device where mounting is allowed, otherwise a directory. An action
//! on a machine does not wait for its server to answer; [`Machine::bring_up`] does.

use super::super::client::{Client, Command, cmd, error_text, info_fields};
use super::super::device::Mounted;
use super::super::process::{Node, READY_WITHIN, SETTLED_WITHIN, wait_until};
use super::super::tool::Finished;
use super::network::Network;
use redis::Value;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

/// Time limit for a reply of a server that may be stopped or starting.
const PATIENCE: Duration = Duration::from_secs(2);

/// How a start ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Start {
    /// The server answers.
    Serves,
    /// The server refuses to serve: it is a replica with commits that its primary lacks.
    Diverged,
}

/// One machine.
pub(super) struct Machine {
    /// Name of the machine in messages.
    pub name: String,
    /// The server on the machine.
    pub node: Node,
    /// The network between the primary and this machine, while it is a replica.
    pub network: Network,
    /// Directory of the machine's files.
    pub home: PathBuf,
    /// The device mounted at `home`; `None` where mounting is not allowed.
    pub device: Option<Mounted>,
    /// Whether the server is stopped by SIGSTOP.
    pub is_frozen: bool,
    /// Whether the server was asked to end.
    is_stopping: bool,
    /// Whether the directory was never served: a replica that is interrupted during its bootstrap starts with an empty
    /// one.
    pub is_new: bool,
    /// Whether the server was started while the archive was bad, so that it may have refused to serve.
    pub is_excused: bool,
}

impl Machine {
    /// Creates a machine whose server runs without data.
    pub(super) fn new(number: usize, node: Node, network: Network, home: PathBuf, device: Option<Mounted>) -> Self {
        let [is_frozen, is_stopping, is_new, is_excused] = [false; 4];
        Self {
            name: format!("machine {number}"),
            node,
            network,
            home,
            device,
            is_frozen,
            is_stopping,
            is_new,
            is_excused,
        }
    }

    /// Connects to the server, if it answers within [`PATIENCE`].
    pub(super) fn client(&self) -> Option<Client> {
        if self.is_frozen { None } else { Client::connect_within(self.node.launch.port, PATIENCE).ok() }
    }

    /// Sends a command, if the server answers within [`PATIENCE`].
    pub(super) fn tell(&self, command: &Command) -> Option<Value> {
        self.client()?.try_call(command).ok()
    }

    /// Returns INFO, if the server answers within [`PATIENCE`].
    pub(super) fn info(&self) -> Option<BTreeMap<String, String>> {
        let reply = self.tell(&cmd!("INFO"))?;
        error_text(&reply).is_none().then(|| info_fields(&reply))
    }

    /// Starts a primary that was killed before another node was promoted, and asserts that it does not write.
    pub(super) fn assert_kept_out(&mut self) {
        match self.node.try_restart() {
            Err(ended) => drop(ended.expect(5)),
            Ok(()) => wait_until("the old primary is fenced", SETTLED_WITHIN, || self.is_fenced().then_some(())),
        }
    }

    /// Reports whether the server refuses writes because a newer epoch exists.
    pub(super) fn is_fenced(&self) -> bool {
        self.info().is_some_and(|info| info["writes_refused"].starts_with("FENCED"))
    }

    /// Reports whether the server refuses writes until it is restarted.
    pub(super) fn needs_restart(&self) -> bool {
        self.info().is_some_and(|info| info["writes_refused"].contains("until a restart"))
    }

    /// Sends SIGKILL.
    pub(super) fn kill(&mut self) {
        self.node.kill();
        (self.is_frozen, self.is_stopping) = (false, false);
    }

    /// Sends SIGSTOP.
    pub(super) fn freeze(&mut self) {
        if self.node.is_running() {
            self.node.signal("STOP");
            self.is_frozen = true;
        }
    }

    /// Sends SIGCONT.
    pub(super) fn thaw(&mut self) {
        if std::mem::take(&mut self.is_frozen) {
            self.node.signal("CONT");
        }
    }

    /// Sends SIGTERM.
    pub(super) fn stop(&mut self) {
        self.thaw();
        if self.node.is_running() {
            self.node.signal("TERM");
            self.is_stopping = true;
        }
    }

    /// Starts the server, unless it runs.
    pub(super) fn start(&mut self) {
        self.await_orderly_end();
        if !self.node.is_running() {
            self.node.begin_again();
        }
    }

    /// Starts the server, unless it runs, and waits until it answers. Restarts a server that could not reach the
    /// archive.
    pub(super) fn bring_up(&mut self) -> Start {
        self.thaw();
        self.start();
        wait_until(&format!("{} answers", self.name), READY_WITHIN, || {
            if let Some(ended) = self.node.ended() {
                if ended.stderr.lines().rev().take(3).any(|line| line.contains("belongs to another history")) {
                    return Some(Start::Diverged);
                }
                self.try_again(&ended);
            }
            let reply = self.tell(&cmd!("PING"))?;
            self.is_new &= error_text(&reply).is_some();
            error_text(&reply).is_none().then_some(Start::Serves)
        })
    }

    /// Restarts a server that ended for a reason that may have passed.
    fn try_again(&mut self, ended: &Finished) {
        if self.is_new {
            self.wipe();
        } else {
            let Finished { code, stderr, .. } = ended;
            let is_excused = std::mem::take(&mut self.is_excused);
            assert!(is_excused || *code == Some(6), "{} ended with {code:?} instead of serving\n{stderr}", self.name);
        }
        self.node.begin_again();
    }

    /// Waits until a server that was asked to end has ended.
    pub(super) fn await_orderly_end(&mut self) {
        if std::mem::take(&mut self.is_stopping) {
            let name = &self.name;
            let ended = wait_until("the server ends after SIGTERM", SETTLED_WITHIN, || self.node.ended());
            // A server that was starting may also end because it cannot start.
            assert!(
                matches!(ended.code, Some(0 | 6) | None),
                "{name} ended with {:?} after SIGTERM\n{}",
                ended.code,
                ended.stderr
            );
        }
    }

    /// Changes a setting for the next starts.
    pub(super) fn set(&mut self, key: &str, value: &str) {
        self.node.launch = self.node.launch.clone().set(key, value);
    }

    /// Returns the data directory.
    pub(super) fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// Returns the path of the file that fills the disk.
    pub(super) fn ballast(&self) -> PathBuf {
        self.home.join("ballast")
    }

    /// Kills the server and removes its directory.
    pub(super) fn wipe(&mut self) {
        self.kill();
        self.is_new = true;
        match std::fs::remove_dir_all(self.data()) {
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("{}: {error}", self.data().display()),
            _ => {}
        }
    }
}
