//! Archives, and the states restored from them.

use super::client::{Client, Watermarks};
use super::dump::{Dump, dump};
use super::process::{Environment, Launch, Node};
use super::tool::{Finished, walferry, walferry_stopped};
use super::weed::Weed;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use tempfile::TempDir;

/// The URL of an archive, and the environment that a process needs to reach it.
#[derive(Clone)]
pub(crate) struct Archive {
    /// The URL, for `--archive`.
    pub url: String,
    /// Environment variables for every process that uses the archive.
    pub environment: Environment,
}

impl Archive {
    /// Creates an archive in a local directory.
    pub(crate) fn directory(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("a directory for the archive");
        Self { url: format!("file://{}", dir.display()), environment: Vec::new() }
    }

    /// Returns a new prefix on the S3 server of this test binary.
    pub(crate) fn s3() -> Self {
        let weed = Weed::shared();
        Self { url: weed.new_url(), environment: weed.environment() }
    }

    /// Runs a subcommand on this archive.
    #[track_caller]
    pub(crate) fn tool(&self, subcommand: &str, arguments: &[&str]) -> Finished {
        let mut all = vec![subcommand, "--archive", &self.url];
        all.extend_from_slice(arguments);
        walferry(&all, &self.environment)
    }

    /// Runs a subcommand on this archive and sends it a signal once `is_time` holds, as [`walferry_stopped`] does.
    #[track_caller]
    pub(crate) fn tool_stopped(
        &self,
        subcommand: &str,
        arguments: &[&str],
        signal: &str,
        is_time: impl Fn() -> bool,
    ) -> (u32, ExitStatus) {
        let mut all = vec![subcommand, "--archive", &self.url];
        all.extend_from_slice(arguments);
        walferry_stopped(&all, &self.environment, signal, is_time)
    }

    /// Runs `walferry restore` into `dir`.
    #[track_caller]
    pub(crate) fn restore_into(&self, dir: &Path, arguments: &[&str]) -> Finished {
        let mut all = vec!["--dir", dir.to_str().expect("a test directory has a UTF-8 name")];
        all.extend_from_slice(arguments);
        self.tool("restore", &all)
    }

    /// Restores to a target and serves the result, without an archive.
    #[track_caller]
    pub(crate) fn restored(&self, arguments: &[&str]) -> Restored {
        let root = tempfile::tempdir().expect("a temporary directory");
        let dir = root.path().join("restored");
        self.restore_into(&dir, arguments).expect(0);
        let node = Launch::primary(&dir).set("appendfsync", "no").start();
        Restored { node, _root: root }
    }
}

/// A server on a restored directory.
pub(crate) struct Restored {
    /// The server.
    pub node: Node,
    _root: TempDir,
}

impl Restored {
    /// Opens a connection to the server.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        self.node.client()
    }

    /// Returns the server's watermarks and data.
    #[track_caller]
    pub(crate) fn state(&self) -> (Watermarks, Dump) {
        let mut client = self.node.client();
        (client.watermarks(), dump(&mut client))
    }
}

/// Returns the files below a directory whose names end with `suffix`, sorted.
pub(crate) fn files_below(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().ends_with(suffix) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Formats a time as RFC 3339 in UTC with microseconds, which is the form that `--to time:` accepts.
pub(crate) fn rfc3339(micros: u64) -> String {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to a civil date: Howard Hinnant, "chrono-compatible low-level date algorithms", civil_from_days.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:06}Z")
}
