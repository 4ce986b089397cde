//! A wall clock that a test sets, for the processes started with it.
//!
//! Needs `cc`. A small library, built once for each test binary, is preloaded into the process; see `clock.c`. All
//! other clocks, timers and the times of files are the machine's.

use super::process::Environment;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

/// A day.
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);
/// Ten years.
pub(crate) const DECADE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A clock, which shows the machine's time until it is set.
pub(crate) struct Clock {
    offset: PathBuf,
    _dir: TempDir,
}

/// The library to preload.
static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(&dir).expect("a directory for what tests build");
    let (source, built) = (dir.join("clock.c"), dir.join(format!("clock-{}.so", std::process::id())));
    std::fs::write(&source, include_str!("clock.c")).expect("a source file");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O2", "-Wall", "-Wno-nonnull-compare", "-o"]).arg(&built).arg(&source).arg("-ldl");
    assert!(cc.status().is_ok_and(|status| status.success()), "cc builds the clock");
    built
});

impl Clock {
    /// Creates a clock.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let offset = dir.path().join("offset");
        std::fs::write(&offset, 0_i64.to_ne_bytes()).expect("a file");
        Self { offset, _dir: dir }
    }

    /// Sets the clock ahead of the machine's clock, at once, for all processes started with it.
    pub(crate) fn set_ahead(&self, ahead: Duration) {
        self.set(i64::try_from(ahead.as_nanos()).expect("less than three centuries"));
    }

    /// Sets the clock behind the machine's clock.
    pub(crate) fn set_behind(&self, behind: Duration) {
        self.set(-i64::try_from(behind.as_nanos()).expect("less than three centuries"));
    }

    /// Sets the offset in one write, which readers see as a whole.
    fn set(&self, nanoseconds: i64) {
        let file = std::fs::File::options().write(true).open(&self.offset).expect("the file is there");
        file.write_all_at(&nanoseconds.to_ne_bytes(), 0).expect("a number is written");
    }

    /// Returns the environment that starts a process with this clock.
    pub(crate) fn environment(&self) -> Environment {
        let text = |path: &PathBuf| path.to_str().expect("a test directory has a UTF-8 name").to_owned();
        vec![("LD_PRELOAD".to_owned(), text(&LIBRARY)), ("WALFERRY_TEST_CLOCK".to_owned(), text(&self.offset))]
    }
}

/// Microseconds since the Unix epoch by the machine's clock.
pub(crate) fn now_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_micros() as u64
}
