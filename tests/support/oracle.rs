//! The oracle: a new redis-server of Debian, without persistence, with one database.

use super::client::{Client, cmd};
use super::process::{READY_WITHIN, free_port, wait_until};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A running redis-server; killed when dropped.
pub(crate) struct Oracle {
    child: Child,
    /// Port for clients.
    pub port: u16,
    _dir: TempDir,
}

impl Oracle {
    /// Starts a server and waits until it answers.
    #[track_caller]
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--dir"])
            .arg(dir.path())
            .args(["--save", "", "--appendonly", "no", "--databases", "1"])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (Debian package redis-server)");
        let oracle = Self { child, port, _dir: dir };
        wait_until("redis-server answers PING", READY_WITHIN, || {
            Client::connect(port).ok()?.try_call(&cmd!("PING")).ok()
        });
        oracle
    }

    /// Opens a new connection.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.port).expect("redis-server accepts a connection")
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
