//! Programs that run to their end: the binary under test as a tool, and clients of other projects.
//!
//! Guarantees: input and output go through files, so that no pipe can fill up; a program that does not end is killed.

use super::process::{Environment, READY_WITHIN};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How a process ended, and its output.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// All of standard output; empty for a server.
    pub stdout: String,
    /// All of standard error; for a server, its log.
    pub stderr: String,
}

impl Finished {
    /// Fails the test if the exit code differs, or if the process panicked.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        self.expect_any(&[code])
    }

    /// Does [`Self::expect`] where more than one exit code is right.
    #[track_caller]
    pub(crate) fn expect_any(self, codes: &[i32]) -> Self {
        let fits = self.code.is_some_and(|code| codes.contains(&code));
        let Self { code, stdout, stderr } = &self;
        assert!(fits, "expected exit code {codes:?}, found {code:?}\nstdout: {stdout}\nstderr: {stderr}");
        assert!(!stderr.contains("panicked at"), "the process panicked\n{stderr}");
        self
    }

    /// Fails the test unless standard output or standard error contains the words.
    #[track_caller]
    pub(crate) fn says(self, words: &str) -> Self {
        let Self { stdout, stderr, .. } = &self;
        let found = stdout.contains(words) || stderr.contains(words);
        assert!(found, "expected the words {words:?}\nstdout: {stdout}\nstderr: {stderr}");
        self
    }

    /// Parses standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not JSON: {error}\nstdout: {}\nstderr: {}", self.stdout, self.stderr))
    }
}

/// Runs the binary under test as a tool, to its end.
#[track_caller]
pub(crate) fn walferry(arguments: &[&str], environment: &Environment) -> Finished {
    run(binary(environment).args(arguments), "")
}

/// Runs the binary under test as a tool and sends it a signal (KILL, INT) once `is_time` holds, unless it ends
/// earlier. Returns its process id and how it ended.
#[track_caller]
pub(crate) fn walferry_stopped(
    arguments: &[&str],
    environment: &Environment,
    signal: &str,
    is_time: impl Fn() -> bool,
) -> (u32, ExitStatus) {
    let mut command = binary(environment);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the binary under test starts");
    let pid = child.id();
    let deadline = Instant::now() + READY_WITHIN;
    let mut is_sent = false;
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return (pid, status);
        }
        assert!(Instant::now() < deadline, "{arguments:?} did not end within {READY_WITHIN:?}");
        if !is_sent && is_time() {
            is_sent = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status().is_ok();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs any program to its end with text on its standard input.
#[track_caller]
pub(crate) fn run(command: &mut Command, input: &str) -> Finished {
    let (mut stdin, mut stdout, mut stderr) = (scratch(), scratch(), scratch());
    stdin.write_all(input.as_bytes()).expect("a scratch file can be written");
    stdin.rewind().expect("a scratch file can be rewound");
    let handle = |file: &File| Stdio::from(file.try_clone().expect("a second handle"));
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command.stdin(stdin).stdout(handle(&stdout)).stderr(handle(&stderr)).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("cannot run {name}: {error}"));
    let deadline = Instant::now() + READY_WITHIN;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{name} did not end within {READY_WITHIN:?}: {}", read_back(&mut stderr));
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    Finished { code: status.code(), stdout: read_back(&mut stdout), stderr: read_back(&mut stderr) }
}

/// Returns a command for the binary under test with environment variables set.
pub(crate) fn binary(environment: &Environment) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walferry"));
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command
}

/// Returns a command for the binary under test, started by a shell that first runs `prelude`.
pub(crate) fn prepared(prelude: &str, environment: &Environment) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{prelude}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_walferry")]);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command
}

fn scratch() -> File {
    tempfile::tempfile().expect("a scratch file")
}

fn read_back(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().expect("a scratch file can be rewound");
    file.read_to_end(&mut bytes).expect("a scratch file can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}
