//! One machine of a simulation: its server, its disk and its part of the network.
//!
//! Each machine has a file system of its own on a loop device where mounting is allowed, else a directory. What is done to
//! a machine does not wait for its server to answer; [`Machine::bring_up`] does.

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

/// How long a server that may be stopped or starting is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// How a start ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// The server answers.
    Serves,
    /// A replica that has commits which its primary does not have refuses to serve.
    Diverged,
}

/// One machine.
pub struct Machine {
    /// For messages.
    pub name: String,
    /// The server on it.
    pub node: Node,
    /// The network between the primary and this machine, when it is a replica.
    pub network: Network,
    /// Where its files are.
    pub home: PathBuf,
    /// What is mounted there, if mounting is allowed.
    pub device: Option<Mounted>,
    /// Whether its server is stopped by SIGSTOP.
    pub is_frozen: bool,
    /// Whether its server was asked to end.
    is_stopping: bool,
    /// Its directory has not served yet: a replica that is interrupted while it bootstraps starts anew.
    pub is_new: bool,
    /// It was started while the archive was bad: it may have refused to serve.
    pub is_excused: bool,
}

impl Machine {
    /// A machine whose server runs and has nothing yet.
    pub fn new(number: usize, node: Node, network: Network, home: PathBuf, device: Option<Mounted>) -> Self {
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

    /// A connection to its server, if that answers soon.
    pub fn client(&self) -> Option<Client> {
        if self.is_frozen { None } else { Client::connect_within(self.node.launch.port, PATIENCE).ok() }
    }

    /// Sends a command, if the server answers soon.
    pub fn tell(&self, command: &Command) -> Option<Value> {
        self.client()?.try_call(command).ok()
    }

    /// INFO, if the server answers soon.
    pub fn info(&self) -> Option<BTreeMap<String, String>> {
        let reply = self.tell(&cmd!("INFO"))?;
        error_text(&reply).is_none().then(|| info_fields(&reply))
    }

    /// Starts a primary that was killed before somebody else was promoted: it must not write.
    pub fn assert_kept_out(&mut self) {
        match self.node.try_restart() {
            Err(ended) => drop(ended.expect(5)),
            Ok(()) => wait_until("the old primary is fenced", SETTLED_WITHIN, || self.is_fenced().then_some(())),
        }
    }

    /// Whether the server refuses writes because a newer epoch exists.
    pub fn is_fenced(&self) -> bool {
        self.info().is_some_and(|info| info["writes_refused"].starts_with("FENCED"))
    }

    /// Whether the server refuses writes until it is restarted.
    pub fn needs_restart(&self) -> bool {
        self.info().is_some_and(|info| info["writes_refused"].contains("until a restart"))
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.node.kill();
        (self.is_frozen, self.is_stopping) = (false, false);
    }

    /// SIGSTOP.
    pub fn freeze(&mut self) {
        if self.node.is_running() {
            self.node.signal("STOP");
            self.is_frozen = true;
        }
    }

    /// SIGCONT.
    pub fn thaw(&mut self) {
        if std::mem::take(&mut self.is_frozen) {
            self.node.signal("CONT");
        }
    }

    /// SIGTERM.
    pub fn stop(&mut self) {
        self.thaw();
        if self.node.is_running() {
            self.node.signal("TERM");
            self.is_stopping = true;
        }
    }

    /// Starts its server, unless that runs.
    pub fn start(&mut self) {
        self.await_orderly_end();
        if !self.node.is_running() {
            self.node.begin_again();
        }
    }

    /// Starts its server, unless that runs, and waits until it answers. What could not reach the archive is started
    /// again.
    pub fn bring_up(&mut self) -> Start {
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

    /// Starts a server again that ended for a reason that may have passed.
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
    pub fn await_orderly_end(&mut self) {
        if std::mem::take(&mut self.is_stopping) {
            let name = &self.name;
            let ended = wait_until("the server ends after SIGTERM", SETTLED_WITHIN, || self.node.ended());
            // A server that was still starting may also find that it cannot.
            assert!(
                matches!(ended.code, Some(0 | 6) | None),
                "{name} ended with {:?} after SIGTERM\n{}",
                ended.code,
                ended.stderr
            );
        }
    }

    /// Changes a setting for the next starts.
    pub fn set(&mut self, key: &str, value: &str) {
        self.node.launch = self.node.launch.clone().set(key, value);
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// The file that fills the disk.
    pub fn ballast(&self) -> PathBuf {
        self.home.join("ballast")
    }

    /// Kills the server and removes its directory.
    pub fn wipe(&mut self) {
        self.kill();
        self.is_new = true;
        match std::fs::remove_dir_all(self.data()) {
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("{}: {error}", self.data().display()),
            _ => {}
        }
    }
}
