//! The data directory: the place of each file, the identity of the node that owns the directory, and the lock on it.
//!
//! ```text
//! walferry.json   identity: cluster, node, epoch and how the epoch began
//! LOCK            held while a process has the directory open
//! RESTORING       present while a restore is under way: a directory with it is never opened
//! db/             RocksDB          wal/       its WAL files, archived ones in wal/archive
//! oplog/          op-log segments  image/     memory images
//! spool/          sealed chunks that wait for the archive
//! base/           a base being cut            bootstrap/  a base that a primary sends
//! run/            a compacted run being built
//! ```
//!
//! Guarantees: one process at a time; the identity is replaced as a whole or not at all.

use crate::cluster::ClusterId;
use crate::csn::{Csn, Epoch, HistoryHash, Incarnation};
use crate::error::{Error, Result};
use crate::io::{Io, StdIo, UNFINISHED_SUFFIX};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Version of the directory's layout that this build reads and writes.
const FORMAT: u32 = 2;
/// Name of the directory for a base that a primary sends.
const BOOTSTRAP: &str = "bootstrap";
/// Name of the file that marks a restore under way.
const RESTORING: &str = "RESTORING";

/// Paths in a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDir {
    root: PathBuf,
}

/// Lock on a data directory. A process holds it as long as it has the directory open.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

/// Role of a node when it last wrote its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LastRole {
    /// The node took writes.
    Primary,
    /// The node followed a primary.
    Replica,
    /// A restore made the directory, and no node has opened it since. Its first start as a primary begins a new epoch.
    Restored,
}

/// A generation of the writer in the history of this directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochStart {
    /// Number of the generation.
    pub epoch: Epoch,
    /// Random number that the generation's writer drew. It distinguishes two nodes that took the same number.
    pub incarnation: Incarnation,
    /// Last commit that the generation shares with the one before; 0 for the first generation.
    pub fork: Csn,
    /// History hash after the commit at `fork`.
    pub hash: HistoryHash,
}

impl EpochStart {
    /// Makes a generation with a new incarnation that continues after the commit at `fork`.
    pub fn draw(epoch: Epoch, fork: Csn, hash: HistoryHash) -> Result<Self> {
        Ok(Self { epoch, incarnation: Incarnation::draw()?, fork, hash })
    }

    /// Makes a generation without an incarnation and a hash, for tests that look at numbers only.
    #[cfg(test)]
    #[must_use]
    pub fn unhashed(epoch: Epoch, fork: Csn) -> Self {
        Self { epoch, incarnation: Incarnation::default(), fork, hash: HistoryHash::ZERO }
    }
}

/// Identity of a data directory, as `walferry.json` stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Version of the directory's layout.
    pub format: u32,
    /// The cluster that the directory belongs to.
    pub cluster: ClusterId,
    /// Random name of this node; it never changes.
    pub node: String,
    /// Role of the node when it last wrote the directory.
    pub role: LastRole,
    /// Generations that made this directory's commits, oldest first; never empty. The last is the current one.
    pub history: Vec<EpochStart>,
    /// The machine's boot during which the directory was last opened. Another boot means that the page cache was lost.
    pub boot: String,
    /// Whether the directory was closed in good order after it was last opened.
    pub is_clean: bool,
    /// Whether commits that this history once had may be missing. If so, a primary must begin a new epoch before it
    /// serves, and a replica must start from an empty directory. The flag is set before a recovery that could find a
    /// loss, and cleared if the recovery finds none.
    #[serde(default)]
    pub may_lack_commits: bool,
    /// Last commit that is known to be unchanged, if later ones may have been replaced because no node and no archive
    /// had them; `None` if all commits are unchanged. The next generation forks at this commit: a node that has the
    /// lost commits has another history.
    #[serde(default)]
    pub intact_until: Option<Csn>,
    /// The last start as a writer to an archive that this directory claimed, or was about to claim.
    #[serde(default)]
    pub start: Option<WriterStart>,
    /// The newer generation that fenced this node; `None` if the node was not fenced, or has rejoined since.
    #[serde(default)]
    pub fenced_by: Option<FencedBy>,
    /// Place of the directory when it was last opened; a copy has another place. `None` before the directory was first
    /// opened.
    #[serde(default)]
    pub place: Option<Place>,
}

/// One start of a writer, as its data directory stores it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WriterStart {
    /// Epoch that the writer writes under.
    pub epoch: Epoch,
    /// Number of the start under the epoch, from 1.
    pub number: u32,
    /// Random number of this start.
    pub incarnation: Incarnation,
}

/// The generation that fenced a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FencedBy {
    /// Number of the generation.
    pub epoch: Epoch,
    /// Node that claimed the generation.
    pub node: String,
}

/// A file's place on its file system. A restart does not change the place; a copy has another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Inode of the file.
    pub inode: u64,
    /// Time at which the inode was made, in nanoseconds since the Unix epoch; 0 if the file system does not tell.
    pub made_ns: u64,
}

impl Identity {
    /// Returns an error if a newer epoch fenced this directory. A restored directory starts a new epoch, so it is not
    /// fenced.
    pub fn require_unfenced(&self) -> Result<()> {
        match &self.fenced_by {
            Some(FencedBy { epoch, node }) if self.role != LastRole::Restored => {
                Err(Error::Fenced { own: self.epoch(), newer: *epoch, node: node.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Makes the identity of a new directory.
    pub fn new(cluster: ClusterId, role: LastRole) -> Result<Self> {
        let node = ClusterId::generate()?.to_string()[..16].to_owned();
        let history = vec![EpochStart::draw(Epoch(1), Csn::ZERO, HistoryHash::ZERO)?];
        Ok(Self {
            format: FORMAT,
            cluster,
            node,
            role,
            history,
            boot: current_boot(),
            is_clean: true,
            may_lack_commits: false,
            intact_until: None,
            start: None,
            fenced_by: None,
            place: None,
        })
    }

    /// Returns the number of the current generation.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.current().epoch
    }

    /// Returns the current generation.
    #[must_use]
    pub fn current(&self) -> EpochStart {
        *self.history.last().expect("a history is never empty")
    }

    /// Returns the last csn that generation `epoch` shares with this directory's history: `Csn(u64::MAX)` for the
    /// current generation, `None` for a generation outside the history.
    #[must_use]
    pub fn shared_until(&self, epoch: Epoch) -> Option<Csn> {
        let at = self.history.iter().position(|start| start.epoch == epoch)?;
        Some(self.history.get(at + 1).map_or(Csn(u64::MAX), |next| next.fork))
    }

    /// Reports whether `history` has the same generations as this directory.
    #[must_use]
    pub fn is_same_history(&self, history: &[EpochStart]) -> bool {
        self.history == history
    }

    /// Returns why this directory, at `csn`, cannot follow a primary with `history`; `None` if it can.
    #[must_use]
    pub fn fault_in(&self, history: &[EpochStart], csn: Csn) -> Option<String> {
        let Some(newest) = history.last().map(|start| start.epoch) else {
            return Some("it has no epoch".to_owned());
        };
        if !history.windows(2).all(|pair| pair[0].epoch < pair[1].epoch && pair[0].fork <= pair[1].fork) {
            return Some(format!("its epochs do not follow each other: {history:?}"));
        }
        if newest < self.epoch() {
            return Some(format!("it ends with epoch {newest}, but this directory knows epoch {}", self.epoch()));
        }
        let (own, theirs) = (makers(&self.history, csn), makers(history, csn));
        (own != theirs).then(|| format!("the commits up to csn {csn} belong to {own:?} here, but to {theirs:?} there"))
    }

    /// Returns the commit at which a generation forks that begins after the commit `committed`.
    #[must_use]
    pub fn fork_at(&self, committed: Csn) -> Csn {
        self.intact_until.map_or(committed, |intact| intact.min(committed))
    }

    /// Begins a generation. Known generations that fork after the new one are dropped: none of their commits is in this
    /// directory.
    pub fn begin_epoch(&mut self, start: EpochStart) {
        assert!(start.epoch > self.epoch(), "epochs go upwards");
        self.history.retain(|known| known.fork <= start.fork);
        self.history.push(start);
    }

    /// Reports whether the machine may have lost its page cache since the directory was last open.
    #[must_use]
    pub fn may_have_lost_a_tail(&self) -> bool {
        !self.is_clean && self.boot != current_boot()
    }
}

/// Returns the generations that made the commits up to `csn`, without the generations that made none.
fn makers(history: &[EpochStart], csn: Csn) -> Vec<EpochStart> {
    let until = |nth: usize| history.get(nth + 1).map_or(csn, |next| next.fork.min(csn));
    history.iter().enumerate().filter(|(nth, start)| start.fork < until(*nth)).map(|(_, start)| *start).collect()
}

/// Returns the kernel's id of the present boot. The text is empty where the kernel gives none, and then never equals a
/// stored id.
#[must_use]
pub fn current_boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

impl DataDir {
    /// Makes the paths below `root`. The file system is not touched.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Returns the directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the directory of RocksDB.
    #[must_use]
    pub fn db(&self) -> PathBuf {
        self.root.join("db")
    }

    /// Returns the directory of RocksDB's WAL files.
    #[must_use]
    pub fn wal(&self) -> PathBuf {
        self.root.join("wal")
    }

    /// Returns the directory of op-log segments.
    #[must_use]
    pub fn oplog(&self) -> PathBuf {
        self.root.join("oplog")
    }

    /// Returns the directory of memory images.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.root.join("image")
    }

    /// Returns the directory of sealed chunks.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    /// Returns the directory of a base that is being cut.
    #[must_use]
    pub fn base(&self) -> PathBuf {
        self.root.join("base")
    }

    /// Returns the directory of a compacted run that is being built.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// Returns the directory of a base that a primary sends; the base stays there until it is restored. A data
    /// directory that holds nothing else counts as empty.
    #[must_use]
    pub fn bootstrap(&self) -> PathBuf {
        self.root.join(BOOTSTRAP)
    }

    fn identity_path(&self) -> PathBuf {
        self.root.join("walferry.json")
    }

    fn restoring_path(&self) -> PathBuf {
        self.root.join(RESTORING)
    }

    /// Reports whether the directory holds nothing or does not exist. Leftovers of a first start that failed (for
    /// example on a full disk) do not count: the `LOCK`, an identity that was not written to its end, and a part of a
    /// base that a primary sent.
    pub fn is_empty(&self) -> Result<bool> {
        let counts_not = ["LOCK".to_owned(), format!("walferry.json{UNFINISHED_SUFFIX}"), BOOTSTRAP.to_owned()];
        let counts = |path: &PathBuf| !counts_not.iter().any(|name| path.file_name() == Some(OsStr::new(name)));
        Ok(!self.entries()?.iter().any(counts))
    }

    /// Returns the paths in the directory; none if it does not exist. The `lost+found` at the root of a file system
    /// does not count.
    fn entries(&self) -> Result<Vec<PathBuf>> {
        let listed = match std::fs::read_dir(&self.root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            listed => listed.map_err(Error::io("list", &self.root))?,
        };
        let mut paths = Vec::new();
        for entry in listed {
            let entry = entry.map_err(Error::io("list", &self.root))?;
            let is_lost_and_found = entry.file_name() == "lost+found" && entry.file_type().is_ok_and(|t| t.is_dir());
            if !is_lost_and_found {
                paths.push(entry.path());
            }
        }
        Ok(paths)
    }

    /// Removes everything in the directory except a base that a primary sent. No process may be using the directory.
    pub fn clear(&self) -> Result<()> {
        self.clear_but(&[BOOTSTRAP])
    }

    fn clear_but(&self, stays: &[&str]) -> Result<()> {
        for path in self.entries()? {
            if stays.iter().any(|name| path.file_name() == Some(OsStr::new(name))) {
                continue;
            }
            let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(Error::io("remove", &path))?;
        }
        Ok(())
    }

    /// Syncs the file system of the directory: everything that was written to it survives a power cut.
    pub fn sync_file_system(&self) -> Result<()> {
        let dir = File::open(&self.root).map_err(Error::io("open", &self.root))?;
        rustix::fs::syncfs(&dir).map_err(|error| Error::io("sync the file system of", &self.root)(error.into()))
    }

    /// Returns the place of the directory, which is that of its lock file.
    pub fn place(&self) -> Result<Place> {
        let path = self.root.join("LOCK");
        let found = std::fs::metadata(&path).map_err(Error::io("inspect", &path))?;
        let made = found.created().ok().and_then(|made| made.duration_since(std::time::UNIX_EPOCH).ok());
        let made_ns = made.map_or(0, |made| made.as_nanos() as u64);
        Ok(Place { inode: std::os::unix::fs::MetadataExt::ino(&found), made_ns })
    }

    /// Creates the directory if needed and locks it. Returns an error if another process holds the lock.
    pub fn lock(&self) -> Result<DirLock> {
        std::fs::create_dir_all(&self.root).map_err(Error::io("create directory", &self.root))?;
        let path = self.root.join("LOCK");
        let mut file = File::options().create(true).append(true).open(&path).map_err(Error::io("open", &path))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            let holder = std::fs::read_to_string(&path).unwrap_or_default();
            let detail = format!("is in use by another process (pid {}). Stop that process first", holder.trim());
            Error::Identity { what: format!("data directory {}", self.root.display()), detail }
        })?;
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(Error::io("write", &path))?;
        Ok(DirLock { _file: file })
    }

    /// Returns the identity of the directory; `None` if the directory is new. Returns an error while a restore is under
    /// way, or if the identity is corrupt or has another version.
    pub fn identity(&self) -> Result<Option<Identity>> {
        let marker = self.restoring_path();
        if marker.exists() {
            let detail = "holds an unfinished restore. Remove it and restore again into an empty directory".to_owned();
            return Err(Error::Identity { what: format!("data directory {}", self.root.display()), detail });
        }
        let path = self.identity_path();
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let corrupt = |detail: String| Error::corrupt(path.display().to_string(), "content", detail);
        let identity: Identity = serde_json::from_slice(&text).map_err(|error| corrupt(error.to_string()))?;
        if identity.format != FORMAT {
            return Err(Error::Version { what: path.display().to_string(), found: identity.format, known: FORMAT });
        }
        if identity.history.is_empty() {
            return Err(corrupt("has no epoch".to_owned()));
        }
        Ok(Some(identity))
    }

    /// Replaces the identity, durably.
    pub fn write_identity(&self, identity: &Identity) -> Result<()> {
        self.replace_identity(&StdIo, identity)
    }

    fn replace_identity(&self, io: &dyn Io, identity: &Identity) -> Result<()> {
        let text = serde_json::to_vec_pretty(identity).expect("an identity is plain data");
        io.write_file(&self.identity_path(), &mut std::iter::once(Ok(text.into()))).map(drop)
    }

    /// Marks a restore as under way.
    pub fn begin_restore(&self) -> Result<()> {
        let path = self.restoring_path();
        File::create(&path).and_then(|file| file.sync_all()).map_err(Error::io("create", &path))?;
        self.sync()
    }

    /// Removes the files that an unfinished restore has made; its mark stays.
    pub fn clear_restore(&self) -> Result<()> {
        assert!(self.restoring_path().exists(), "only an unfinished restore is undone");
        for path in [self.db(), self.wal(), self.oplog(), self.image(), self.base()] {
            match std::fs::remove_dir_all(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", &path)(error));
                }
                _ => {}
            }
        }
        self.sync()
    }

    /// Removes the mark of the restore. The directory may be opened from then on.
    pub fn end_restore(&self) -> Result<()> {
        let path = self.restoring_path();
        std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        self.sync()
    }

    /// Removes the files and the mark of an unfinished restore, so that the directory is empty. Does nothing if there
    /// is no unfinished restore. Returns an error if another process uses the directory.
    pub fn abandon_restore(&self) -> Result<()> {
        if !self.restoring_path().exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        self.clear_but(&["LOCK", RESTORING])?;
        // The mark is removed last, so that a removal that stops half-way leaves a directory that cannot be opened.
        self.end_restore()
    }

    fn sync(&self) -> Result<()> {
        File::open(&self.root).and_then(|dir| dir.sync_all()).map_err(Error::io("sync directory", &self.root))
    }
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
