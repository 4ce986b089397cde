//! Selects the backends: the key `io-backend` decides which backend serves the logs and which serves bulk use.
//!
//! A refused ring is never an error, because system calls do the same work. The refusal is logged once, and kept for
//! INFO.

use super::calibrate::{PerUse, calibrate};
use super::{Io, StdIo, Uring};
use crate::error::{Error, Result};
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// Value of the key `io-backend`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Choice {
    /// Measures on the data directory and takes the faster backend, for the logs and for bulk use separately.
    #[default]
    Auto,
    /// Takes io_uring for both uses, as far as the system allows it.
    Uring,
    /// Takes system calls for both uses.
    Std,
}

impl FromStr for Choice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "uring" => Ok(Self::Uring),
            "std" => Ok(Self::Std),
            other => Err(Error::Config {
                key: "io-backend".into(),
                detail: format!("expected auto, uring or std, found {other:?}"),
            }),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Std => "std",
        })
    }
}

/// The selected backends.
#[derive(Clone, Debug)]
pub struct Backends {
    /// Backend for log segments: small appends, each followed by a sync.
    pub log: Arc<dyn Io>,
    /// Backend for images, chunks and bases: megabytes that are written or read in sequence.
    pub bulk: Arc<dyn Io>,
    /// Text for INFO, such as "log=std bulk=uring".
    pub description: String,
    /// Reason of the selection: the setting, the measured numbers, or the refusal of the ring.
    pub reason: String,
}

impl Backends {
    /// Selects the backends for the data directory `dir`, which must exist. `auto` takes about 100 ms.
    pub fn select(dir: &Path, choice: Choice) -> Result<Self> {
        let backends = match choice {
            Choice::Std => Self::std("io-backend is std".into()),
            Choice::Uring | Choice::Auto => match Uring::start(dir) {
                Err(refusal) => Self::refused(choice, &refusal),
                Ok(ring) if choice == Choice::Uring => Self::with_ring(dir, ring, BOTH, "io-backend is uring".into()),
                Ok(ring) => {
                    let verdict = calibrate(dir, &StdIo, &ring)?;
                    Self::with_ring(dir, ring, verdict.uring, verdict.reason)
                }
            },
        };
        tracing::info!(backends = %backends.description, reason = %backends.reason, "file backends chosen");
        Ok(backends)
    }

    /// Returns system calls for both uses.
    fn std(reason: String) -> Self {
        Self::new(Arc::new(StdIo), Arc::new(StdIo), reason)
    }

    fn new(log: Arc<dyn Io>, bulk: Arc<dyn Io>, reason: String) -> Self {
        let description = format!("log={} bulk={}", log.name(), bulk.name());
        Self { log, bulk, description, reason }
    }

    fn refused(choice: Choice, refusal: &std::io::Error) -> Self {
        if choice == Choice::Uring {
            tracing::warn!(%refusal, "io-backend is uring, but the system refuses io_uring: files are accessed by \
                                      system calls");
        }
        Self::std(format!("io_uring refused: {refusal}"))
    }

    /// Returns `ring` for the uses that `uring` names. If both uses get a ring, a second one is started, so that an
    /// append never waits behind a bulk transfer in a queue.
    fn with_ring(dir: &Path, ring: Uring, uring: PerUse<bool>, mut reason: String) -> Self {
        let std = || Arc::new(StdIo) as Arc<dyn Io>;
        let (log, bulk) = match (uring.log, uring.bulk) {
            (false, false) => (std(), std()),
            (true, false) => (Arc::new(ring) as Arc<dyn Io>, std()),
            (false, true) => (std(), Arc::new(ring) as Arc<dyn Io>),
            (true, true) => match Uring::start(dir) {
                Ok(second) => (Arc::new(second) as Arc<dyn Io>, Arc::new(ring) as Arc<dyn Io>),
                Err(refusal) => {
                    reason = format!("{reason}; second ring refused: {refusal}");
                    (std(), Arc::new(ring) as Arc<dyn Io>)
                }
            },
        };
        Self::new(log, bulk, reason)
    }
}

const BOTH: PerUse<bool> = PerUse { log: true, bulk: true };
