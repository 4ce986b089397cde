//! Servers under measurement: this program and redis-server, on free loopback ports. A server is stopped when dropped.

use crate::cleanup;
use crate::client::{Answer, Client, LOOPBACK, info_fields, text};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait until a server serves, or has ended.
const PATIENCE: Duration = Duration::from_secs(600);
/// Pause between two checks during such a wait.
const LOOK: Duration = Duration::from_millis(5);

/// Program of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Program {
    /// This program.
    Walferry,
    /// Debian's redis-server.
    Redis,
}

impl Program {
    /// Returns the program's name in reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Walferry => "walferry",
            Self::Redis => "redis",
        }
    }
}

/// Reports whether redis-server is installed.
pub(super) fn has_redis() -> bool {
    Command::new("redis-server").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Program, arguments and directory with which a server is started.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    program: Program,
    arguments: Vec<String>,
    dir: PathBuf,
    /// Port for clients.
    pub port: u16,
    /// Port for replicas; walferry only.
    pub repl_port: u16,
}

impl Launch {
    /// Prepares a primary, or a redis-server with an append-only file; `appendfsync` says when the logs are synced.
    pub(super) fn primary(program: Program, dir: &Path, appendfsync: &str) -> Answer<Self> {
        let [port, repl_port] = free_ports()?;
        let mut launch = Self { program, arguments: Vec::new(), dir: dir.to_owned(), port, repl_port };
        match program {
            Program::Walferry => {
                launch.add(&["primary", "--port", &port.to_string(), "--repl-port", &repl_port.to_string(), "--dir"]);
                launch.add(&[&dir.display().to_string(), "--set", &format!("appendfsync={appendfsync}")]);
            }
            Program::Redis => {
                launch.add(&["--port", &port.to_string(), "--appendonly", "yes", "--appendfsync", appendfsync]);
                launch.add(&["--save", "", "--dir", &dir.display().to_string()]);
                // Without this option redis would wait five seconds for further replicas when one connects.
                launch.add(&["--repl-diskless-sync-delay", "0"]);
            }
        }
        Ok(launch)
    }

    /// Prepares a replica of a server.
    pub(super) fn replica_of(primary: &Self, dir: &Path) -> Answer<Self> {
        let [port, repl_port] = free_ports()?;
        let mut launch = Self { program: primary.program, arguments: Vec::new(), dir: dir.to_owned(), port, repl_port };
        match primary.program {
            Program::Walferry => {
                let address = format!("127.0.0.1:{}", primary.repl_port);
                launch.add(&["replica", "--port", &port.to_string(), "--primary", &address, "--dir"]);
                launch.add(&[&dir.display().to_string()]);
            }
            Program::Redis => {
                launch.add(&["--port", &port.to_string(), "--appendonly", "yes", "--save", "", "--replicaof"]);
                launch.add(&["127.0.0.1", &primary.port.to_string(), "--dir", &dir.display().to_string()]);
            }
        }
        Ok(launch)
    }

    fn add(&mut self, arguments: &[&str]) {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
    }

    /// Appends arguments.
    #[must_use]
    pub(super) fn with(mut self, arguments: &[&str]) -> Self {
        self.add(arguments);
        self
    }

    /// Starts the server and waits until it serves; also returns this start-up time.
    pub(super) fn start(self) -> Answer<(Server, Duration)> {
        let failed = |error: std::io::Error| format!("cannot start {}: {error}", self.program.name());
        std::fs::create_dir_all(&self.dir).map_err(failed)?;
        let log = self.dir.with_extension("log");
        let out = std::fs::OpenOptions::new().create(true).append(true).open(&log).map_err(failed)?;
        let program = match self.program {
            Program::Walferry => std::env::current_exe().map_err(failed)?,
            Program::Redis => "redis-server".into(),
        };
        let started = Instant::now();
        let both = out.try_clone().map_err(failed)?;
        let mut command = Command::new(program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(out).stderr(both);
        let child = cleanup::spawn(&mut command);
        let mut server = Server { child: child.map_err(failed)?, launch: self };
        while started.elapsed() < PATIENCE {
            // Redis answers PING with an error while it loads its data.
            if Client::connect(LOOPBACK, server.launch.port).and_then(|mut client| client.call(&["PING"])).is_ok() {
                return Ok((server, started.elapsed()));
            }
            if let Ok(Some(status)) = server.child.try_wait() {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                return Err(format!("{} ended with {status}:\n{log}", server.launch.program.name()));
            }
            std::thread::sleep(LOOK);
        }
        Err(format!("{} did not serve within {} s", server.launch.program.name(), PATIENCE.as_secs()))
    }
}

/// A running server.
pub(super) struct Server {
    child: Child,
    /// The launch that started the server.
    pub launch: Launch,
}

impl Drop for Server {
    fn drop(&mut self) {
        cleanup::end(&mut self.child);
    }
}

impl Server {
    /// Opens a connection to the server.
    pub(super) fn client(&self) -> Answer<Client> {
        Client::connect(LOOPBACK, self.launch.port)
    }

    /// Returns a field of INFO; empty if the field is missing.
    pub(super) fn info(&self, field: &str) -> Answer<String> {
        let info = text(&self.client()?.call(&["INFO"])?);
        let value = info_fields(&info).into_iter().find(|(name, _)| name == field);
        Ok(value.map(|(_, value)| value).unwrap_or_default())
    }

    /// Returns a field of INFO as a number; 0 if the field is missing.
    pub(super) fn number(&self, field: &str) -> Answer<f64> {
        Ok(self.info(field)?.parse().unwrap_or(0.0))
    }

    /// Returns the CPU seconds of the process, over all threads.
    pub(super) fn cpu_seconds(&self) -> f64 {
        let stat = self.proc("stat");
        let after_name: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |nth: usize| after_name.get(nth).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0);
        (ticks(11) + ticks(12)) / rustix::param::clock_ticks_per_second() as f64
    }

    /// Returns the peak memory of the process, in bytes.
    pub(super) fn peak_rss_bytes(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) << 10
    }

    /// Resets the peak memory to the current value.
    pub(super) fn reset_peak_rss(&self) {
        let _ = std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5");
    }

    fn proc(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).unwrap_or_default()
    }

    /// Returns the bytes of the server's directory.
    pub(super) fn disk_bytes(&self) -> u64 {
        bytes_below(&self.launch.dir)
    }

    /// Ends the server with SIGKILL, like a crash; returns the launch for a restart.
    pub(super) fn kill(self) -> Launch {
        // Dropping the server kills it.
        self.launch.clone()
    }

    /// Ends the server cleanly; returns the launch for a restart.
    pub(super) fn stop(mut self) -> Answer<Launch> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            // The connection ends before a reply comes. Only redis replies, with a refusal, while it writes its first
            // append-only file.
            let _ = self.client().and_then(|mut client| client.call(&["SHUTDOWN"]));
            let ended = self.child.try_wait();
            if ended.map_err(|error| format!("cannot wait for {}: {error}", self.launch.program.name()))?.is_some() {
                return Ok(self.launch.clone());
            }
            std::thread::sleep(LOOK);
        }
        Err(format!("{} did not end within {} s", self.launch.program.name(), PATIENCE.as_secs()))
    }
}

/// Returns the bytes of all files below a directory.
pub(super) fn bytes_below(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

fn free_ports<const N: usize>() -> Answer<[u16; N]> {
    let bind = |_| TcpListener::bind("127.0.0.1:0");
    let listeners: Vec<TcpListener> =
        (0..N).map(bind).collect::<Result<_, _>>().map_err(|error| format!("no free port: {error}"))?;
    let ports: Vec<u16> = listeners.iter().filter_map(|listener| Some(listener.local_addr().ok()?.port())).collect();
    ports.try_into().map_err(|_| "no free ports".to_owned())
}
