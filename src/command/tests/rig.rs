//! A node without a network, and its client.

use super::super::args::OwnedArgs;
use super::super::client::Client;
use super::super::client_card::ClientCard;
use super::super::host::{Host, InfoSection, MarkCard, Role, Task, TaskReply, WatermarkReport};
use super::super::reply::Out;
use super::super::session::{Outcome, Session};
use super::super::table::TABLE;
use crate::commit::committer::{Committer, Start};
use crate::commit::gate::Gate;
use crate::commit::sync::Syncer;
use crate::config::{AppendFsync, Config};
use crate::csn::Csn;
use crate::engine::disk::{Disk, DiskOptions};
use crate::engine::keyspace::Keyspace;
use crate::engine::memory::Memory;
use crate::error::Result;
use crate::io::{Io, StdIo};
use crate::log::durable::DurableFile;
use crate::log::oplog::OpLog;
use crate::position::Position;
use arc_swap::Guard;
use futures::future::BoxFuture;
use std::sync::Arc;
use tempfile::TempDir;

/// A node without a network: a database and one client.
pub(crate) struct Node {
    committer: Option<Arc<Committer>>,
    host: TestHost,
    /// The client that runs the requests.
    pub client: Client,
    /// Directory of the database.
    pub dir: TempDir,
}

impl Node {
    /// Makes a node with an empty database.
    pub(crate) fn new() -> Self {
        Self::with(Arc::new(StdIo), Config::default())
    }

    /// Makes a node with an empty database on these files and with these settings.
    pub(crate) fn with(io: Arc<dyn Io>, config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let disk = Arc::new(Disk::open(&path("db"), &path("wal"), DiskOptions::default()).unwrap());
        let oplog = OpLog::open(Arc::clone(&io), &path("oplog"), 1 << 20).unwrap();
        let (durable_file, _) = DurableFile::open(Arc::clone(&io), dir.path()).unwrap();
        let gate = Arc::new(Gate::default());
        let start = Start {
            disk: Arc::clone(&disk),
            oplog,
            memory: Memory::new(),
            position: Position::default(),
            known: Vec::new(),
        };
        let committer = Committer::new(start, Arc::clone(&gate), |_, watermarks| {
            Syncer::start(AppendFsync::No, disk, io, durable_file, Arc::clone(watermarks), gate)
        });
        let client = Client::new(1, String::new(), String::new(), false);
        Self { committer: Some(Arc::new(committer)), host: TestHost(Arc::new(config)), client, dir }
    }

    /// Returns the committer.
    pub(crate) fn committer(&self) -> &Arc<Committer> {
        self.committer.as_ref().expect("present until drop")
    }

    /// Changes keys directly, as one commit.
    pub(crate) fn change(&self, now_ms: u64, change: impl FnOnce(&mut Keyspace<'_>)) {
        let mut turn = self.committer().lock_logs();
        change(&mut turn.keyspace(now_ms));
        turn.commit();
        turn.write().unwrap();
    }

    /// Returns the last commit.
    pub(crate) fn last(&self) -> Csn {
        self.committer().lock_logs().position().csn
    }

    /// Runs requests as one pipeline. Returns the replies with line ends shown as `|`.
    pub(crate) fn pipeline(&mut self, requests: &[OwnedArgs]) -> String {
        self.pipeline_of_commits(requests).0
    }

    /// Does what [`Self::pipeline`] does. Returns also the last commit that the replies depend on.
    pub(crate) fn pipeline_of_commits(&mut self, requests: &[OwnedArgs]) -> (String, Option<Csn>) {
        let committer = self.committer.as_ref().expect("present until drop");
        let mut out = Out::new(self.client.protocol);
        let mut session = Session::new(committer, &self.host, &mut self.client, &mut out);
        for request in requests {
            session.run(TABLE.call(request.as_args()));
        }
        let Outcome { open, mut depends_on, .. } = session.finish();
        if let Some(open) = open {
            committer.write_open_group();
            let outcome = committer.groups.outcome(open.group).expect("its group was written");
            if let Err(error) = outcome {
                depends_on = open.fail(&committer.groups, &error, &mut out);
            }
        }
        let replies = out.as_bytes().escape_ascii().to_string().replace("\\r\\n", "|").replace("\\'", "'");
        (replies, depends_on)
    }

    /// Runs one request, whose words are separated by blanks; `""` is an empty word.
    pub(crate) fn run(&mut self, request: &str) -> String {
        self.pipeline(&[words(request)])
    }

    /// Runs requests one by one and checks their replies.
    pub(crate) fn check(&mut self, exchanges: &[(&str, &str)]) {
        for (request, reply) in exchanges {
            assert_eq!(self.run(request), *reply, "{request}");
        }
    }

    /// Runs requests as one transaction. Returns the reply of EXEC.
    pub(crate) fn transaction(&mut self, requests: &[&str]) -> String {
        self.run("MULTI");
        for request in requests {
            assert_eq!(self.run(request), "+QUEUED|", "{request}");
        }
        self.run("EXEC")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(committer) = self.committer.take() {
            committer.stop_log_thread();
            committer.syncer.stop();
        }
    }
}

pub(super) fn words(request: &str) -> OwnedArgs {
    request.split_whitespace().map(|word| if word == "\"\"" { "" } else { word }).collect()
}

struct TestHost(Arc<Config>);

impl Host for TestHost {
    fn config(&self) -> Guard<Arc<Config>> {
        Guard::from_inner(Arc::clone(&self.0))
    }

    fn reconfigure(&self, _: &[(String, String)]) -> Result<()> {
        Ok(())
    }

    fn watermarks(&self) -> WatermarkReport {
        WatermarkReport::default()
    }

    fn info(&self) -> Vec<InfoSection> {
        Vec::new()
    }

    fn marks(&self) -> Result<Vec<MarkCard>> {
        Ok(Vec::new())
    }

    fn role(&self) -> Role {
        Role::Primary { committed: Csn::ZERO, replicas: Vec::new() }
    }

    fn clients(&self) -> Vec<ClientCard> {
        Vec::new()
    }

    fn start_snapshot(&self) -> Result<()> {
        Ok(())
    }

    fn last_save(&self) -> u64 {
        0
    }

    fn known_key_count(&self) -> u64 {
        1_000_000
    }

    fn is_memory_full(&self) -> bool {
        false
    }

    fn count_command(&self) {}

    fn archive_acknowledged(&self, _: Csn) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn run(&self, _: Task) -> BoxFuture<'_, Result<TaskReply>> {
        Box::pin(async { Ok(TaskReply::Ok) })
    }
}
