//! Servers under control: the binary under test as primary and as replica.
//!
//! Guarantees: all ports are free loopback ports; a server is killed when its handle is dropped; its log goes to a
//! file, which is shown when the test fails; every wait has a deadline.

use super::archive::Archive;
use super::client::{Client, cmd, error_text};
use super::clock::Clock;
use super::tool::{Finished, binary, prepared};
use redis::Value;
use std::collections::HashSet;
use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Time limit from a server's start to its first PONG, and for a tool to end.
pub(crate) const READY_WITHIN: Duration = Duration::from_secs(60);
/// Time limit for replication, uploads and takeovers.
pub(crate) const SETTLED_WITHIN: Duration = Duration::from_secs(30);

/// Names and values of a child's environment variables.
pub(crate) type Environment = Vec<(String, String)>;

/// Polls until `probe` returns a value; fails the test at the deadline.
#[track_caller]
pub(crate) fn wait_until<T>(what: &str, within: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "after {within:?} still waiting until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Returns a free loopback port, each port once per test binary.
pub(crate) fn free_port() -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap();
    let given = given.get_or_insert_default();
    loop {
        let socket = TcpListener::bind(("127.0.0.1", 0)).expect("a free loopback port");
        let port = socket.local_addr().expect("a bound socket has an address").port();
        if given.insert(port) {
            return port;
        }
    }
}

/// Tells a load thread to stop when dropped, also if the test fails earlier: a scope waits for its threads.
pub(crate) struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The arguments and environment with which a server is started.
#[derive(Clone)]
pub(crate) struct Launch {
    arguments: Vec<String>,
    environment: Environment,
    /// Shell commands that run in the process before it becomes the server.
    prelude: Option<String>,
    /// The log file; `None` is a file beside the data directory, never in it.
    log: Option<PathBuf>,
    /// The data directory.
    pub dir: PathBuf,
    /// Port for clients.
    pub port: u16,
    /// Port for replicas of a primary; unused by a replica.
    pub repl_port: u16,
}

impl Launch {
    fn new(role: &str, dir: &Path, port: u16, repl_port: u16) -> Self {
        let mut launch = Self {
            arguments: vec![role.into()],
            environment: Vec::new(),
            prelude: None,
            log: None,
            dir: dir.to_owned(),
            port,
            repl_port,
        };
        let text = launch.dir.to_str().expect("a test directory has a UTF-8 name").to_owned();
        launch.arguments.extend(["--dir".into(), text, "--port".into(), port.to_string()]);
        // No key moves to memory by itself, because many tests account for each csn.
        launch.set("move-bandwidth", "0")
    }

    /// Returns a primary on `dir`.
    pub(crate) fn primary(dir: &Path) -> Self {
        Self::primary_on(dir, free_port(), free_port())
    }

    /// Returns a primary on `dir` with these ports for clients and for replicas.
    pub(crate) fn primary_on(dir: &Path, port: u16, repl_port: u16) -> Self {
        let launch = Self::new("primary", dir, port, repl_port);
        let port = launch.repl_port.to_string();
        launch.flag("--repl-port", &port)
    }

    /// Returns a replica on `dir` that follows the primary with the replication port `repl_port`.
    pub(crate) fn replica(dir: &Path, repl_port: u16) -> Self {
        Self::new("replica", dir, free_port(), free_port()).flag("--primary", &format!("127.0.0.1:{repl_port}"))
    }

    /// Returns a replica on `dir` with this port for clients that follows `primary`, given as on the command line.
    pub(crate) fn following(dir: &Path, port: u16, primary: &str) -> Self {
        Self::new("replica", dir, port, free_port()).flag("--primary", primary)
    }

    /// Adds a flag with a value.
    pub(crate) fn flag(mut self, name: &str, value: &str) -> Self {
        self.arguments.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// Adds a configuration setting.
    pub(crate) fn set(self, key: &str, value: &str) -> Self {
        self.flag("--set", &format!("{key}={value}"))
    }

    /// Adds an archive and the environment needed to reach it.
    pub(crate) fn archive(mut self, archive: &Archive) -> Self {
        self.environment.extend(archive.environment.iter().cloned());
        self.flag("--archive", &archive.url)
    }

    /// Starts the process with a wall clock that the test can set.
    pub(crate) fn clock(mut self, clock: &Clock) -> Self {
        self.environment.extend(clock.environment());
        self
    }

    /// Starts the process with a soft limit of open files.
    pub(crate) fn open_files(mut self, soft: u64) -> Self {
        self.prelude = Some(format!("ulimit -Sn {soft}"));
        self
    }

    /// Starts the process so that a write beyond the file size limit fails instead of ending the process.
    pub(crate) fn outlives_file_limit(mut self) -> Self {
        self.prelude = Some("trap '' XFSZ".to_owned());
        self
    }

    /// Writes the log to `file` instead of the file beside the data directory.
    pub(crate) fn log_to(mut self, file: &Path) -> Self {
        self.log = Some(file.to_owned());
        self
    }

    /// Returns the path of the log file.
    pub(crate) fn log(&self) -> PathBuf {
        self.log.clone().unwrap_or_else(|| self.dir.with_extension("log"))
    }

    fn spawn(&self) -> Child {
        std::fs::create_dir_all(self.dir.parent().expect("a data directory lies in another")).expect("a directory");
        let log = OpenOptions::new().create(true).append(true).open(self.log()).expect("a log file");
        let mut command = match &self.prelude {
            Some(prelude) => prepared(prelude, &self.environment),
            None => binary(&self.environment),
        };
        command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the binary under test starts")
    }

    /// Starts the server and waits until it answers.
    #[track_caller]
    pub(crate) fn start(self) -> Node {
        let mut node = self.begin();
        node.await_ready();
        node
    }

    /// Starts the server without waiting for it.
    pub(crate) fn begin(self) -> Node {
        Node { child: self.spawn(), launch: self }
    }

    /// Starts a server that must refuse to start, and returns how it ended. Fails the test if the server answers a
    /// client.
    #[track_caller]
    pub(crate) fn refused(self) -> Finished {
        let mut node = Node { child: self.spawn(), launch: self };
        let status = wait_until("the server refuses to start", READY_WITHIN, || {
            if let Ok(mut client) = Client::connect(node.launch.port) {
                let reply = client.try_call(&cmd!("PING"));
                assert!(!matches!(reply, Ok(Value::SimpleString(_))), "served a client instead of refusing to start");
            }
            node.child.try_wait().expect("a child can be waited for")
        });
        let log = std::fs::read_to_string(node.launch.log()).unwrap_or_default();
        Finished { code: status.code(), stdout: String::new(), stderr: log }
    }
}

/// A running server.
pub(crate) struct Node {
    child: Child,
    /// The launch that started the server.
    pub launch: Launch,
}

impl Node {
    /// Waits until the server answers.
    #[track_caller]
    pub(crate) fn await_ready(&mut self) {
        let port = self.launch.port;
        wait_until("the server answers PING", READY_WITHIN, || {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                panic!("the server ended with {status} instead of serving\n{}", self.log_tail());
            }
            let reply = Client::connect(port).ok()?.try_call(&cmd!("PING")).ok()?;
            match error_text(&reply) {
                None => Some(()),
                Some(error) if error.starts_with("LOADING") => None,
                // The server serves clients that know the password.
                Some(error) if error.starts_with("NOAUTH") => Some(()),
                Some(error) => panic!("PING was answered with {error}"),
            }
        });
    }

    /// Opens a new connection.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.launch.port).expect("the server accepts a connection")
    }

    /// Ends the process with SIGKILL.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends SIGTERM and waits until the process ended.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        wait_until("the server ends after SIGTERM", SETTLED_WITHIN, || {
            self.child.try_wait().expect("a child can be waited for")
        })
    }

    /// Sends a signal by name: TERM, STOP, CONT.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot send SIG{name}");
    }

    /// Starts the process a second time with the same arguments, ports and directory; kills it if it runs.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.begin_again();
        self.await_ready();
    }

    /// Does [`Self::restart`] without waiting until the server answers.
    pub(crate) fn begin_again(&mut self) {
        self.kill();
        self.child = self.launch.spawn();
    }

    /// Returns how the process ended; `None` while it runs.
    pub(crate) fn ended(&mut self) -> Option<Finished> {
        let status = self.child.try_wait().expect("a child can be waited for")?;
        Some(Finished { code: status.code(), stdout: String::new(), stderr: self.log_tail() })
    }

    /// Starts the process a second time where it may refuse; `Err` contains how it ended.
    #[track_caller]
    pub(crate) fn try_restart(&mut self) -> Result<(), Finished> {
        self.begin_again();
        let ended = wait_until("the server serves or refuses", READY_WITHIN, || {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return Some(Some(status));
            }
            Client::connect(self.launch.port).ok()?.try_call(&cmd!("PING")).ok()?;
            Some(None)
        });
        match ended {
            None => Ok(()),
            Some(status) => Err(Finished { code: status.code(), stdout: String::new(), stderr: self.log_tail() }),
        }
    }

    /// Reports whether the process runs.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Returns the process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns everything that the process logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.launch.log()).unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read(self.launch.log()).unwrap_or_default();
        let lines: Vec<_> = String::from_utf8_lossy(&log).lines().map(str::to_owned).collect();
        let tail = lines[lines.len().saturating_sub(60)..].join("\n");
        format!("--- end of {}\n{tail}\n---", self.launch.log().display())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
    }
}
