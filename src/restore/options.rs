//! The options of a restore.

use super::progress::ProgressSink;
use crate::csn::Epoch;
use crate::history::route::RouteCosts;
use crate::history::target::Target;
use crate::io::Io;
use std::path::PathBuf;
use std::sync::Arc;

/// Options of a restore.
#[derive(Clone)]
pub struct Options {
    /// The directory to create; must be empty or must not exist.
    pub dir: PathBuf,
    /// The last commit to restore.
    pub target: Target,
    /// The epoch whose line of history is followed; `None` for the newest epoch.
    pub epoch: Option<Epoch>,
    /// The costs by which the route is chosen.
    pub costs: RouteCosts,
    /// Reads and writes the files of the directory.
    pub io: Arc<dyn Io>,
    /// Receives the progress.
    pub progress: ProgressSink,
}
