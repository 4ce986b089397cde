//! Servers under measurement: this program and redis-server, on free loopback ports, stopped when dropped.

use crate::cleanup;
use crate::client::{Answer, Client, LOOPBACK, info_fields, text};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to come up, or to end.
const PATIENCE: Duration = Duration::from_secs(600);
/// Pause between two looks whether it has.
const LOOK: Duration = Duration::from_millis(5);

/// Which program a server is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    /// This one.
    Walferry,
    /// Debian's redis-server.
    Redis,
}

impl Program {
    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Walferry => "walferry",
            Self::Redis => "redis",
        }
    }
}

/// Whether redis-server is there to be compared with.
pub fn has_redis() -> bool {
    Command::new("redis-server").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Launch {
    program: Program,
    arguments: Vec<String>,
    dir: PathBuf,
    /// Port for clients.
    pub port: u16,
    /// Port for replicas; walferry only.
    pub repl_port: u16,
}

impl Launch {
    /// A primary, or a redis-server with its append-only file, that syncs as `appendfsync` says.
    pub fn primary(program: Program, dir: &Path, appendfsync: &str) -> Answer<Self> {
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
                // A replica that comes would wait five seconds for others.
                launch.add(&["--repl-diskless-sync-delay", "0"]);
            }
        }
        Ok(launch)
    }

    /// A replica of a server.
    pub fn replica_of(primary: &Self, dir: &Path) -> Answer<Self> {
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

    /// Adds arguments.
    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.add(arguments);
        self
    }

    /// Starts the server and waits until it serves. How long that took is its start-up time.
    pub fn start(self) -> Answer<(Server, Duration)> {
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
            // Redis answers PING with an error while it loads.
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
pub struct Server {
    child: Child,
    /// How it was started.
    pub launch: Launch,
}

impl Drop for Server {
    fn drop(&mut self) {
        cleanup::end(&mut self.child);
    }
}

impl Server {
    /// A new connection.
    pub fn client(&self) -> Answer<Client> {
        Client::connect(LOOPBACK, self.launch.port)
    }

    /// A field of INFO; empty if it is not there.
    pub fn info(&self, field: &str) -> Answer<String> {
        let info = text(&self.client()?.call(&["INFO"])?);
        let value = info_fields(&info).into_iter().find(|(name, _)| name == field);
        Ok(value.map(|(_, value)| value).unwrap_or_default())
    }

    /// A field of INFO as a number; 0 if it is not there.
    pub fn number(&self, field: &str) -> Answer<f64> {
        Ok(self.info(field)?.parse().unwrap_or(0.0))
    }

    /// CPU seconds of the process, all threads.
    pub fn cpu_seconds(&self) -> f64 {
        let stat = self.proc("stat");
        let after_name: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |nth: usize| after_name.get(nth).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0);
        (ticks(11) + ticks(12)) / rustix::param::clock_ticks_per_second() as f64
    }

    /// The most memory the process had, in bytes.
    pub fn peak_rss_bytes(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) << 10
    }

    /// Forgets the peak so far.
    pub fn reset_peak_rss(&self) {
        let _ = std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5");
    }

    fn proc(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).unwrap_or_default()
    }

    /// Bytes of its directory.
    pub fn disk_bytes(&self) -> u64 {
        bytes_below(&self.launch.dir)
    }

    /// Ends it as a crash would: SIGKILL. How it was started, to start it again.
    pub fn kill(self) -> Launch {
        // Being dropped ends it so.
        self.launch.clone()
    }

    /// Ends it in good order. How it was started, to start it again.
    pub fn stop(mut self) -> Answer<Launch> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            // The connection ends before a reply comes, unless redis writes its first append-only file: then it refuses.
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

/// Bytes of all files below a directory.
pub fn bytes_below(dir: &Path) -> u64 {
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
