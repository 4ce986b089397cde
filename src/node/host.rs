//! Answers the requests of commands to the node.

use super::info;
use super::running::Node;
use crate::command::all_keys;
use crate::command::client_card::ClientCard;
use crate::command::host::{Host, InfoSection, MarkCard, Role, Task, TaskReply, WatermarkReport};
use crate::commit::marks::Mark;
use crate::config::{AppendFsync, Config};
use crate::csn::Csn;
use crate::engine::meta::Home;
use crate::error::{Error, Result};
use crate::plain_name::PlainName;
use arc_swap::Guard;
use bytes::BytesMut;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Node {
    async fn key_count(&self) -> Result<u64> {
        let counter = Arc::clone(&self.key_counter);
        let on_disk = blocking(move || counter.count()).await?;
        Ok(on_disk + self.key_counter.in_memory())
    }

    async fn matching_keys(&self, pattern: Vec<u8>) -> Result<BytesMut> {
        let committer = Arc::clone(&self.core.committer);
        let listed = blocking(move || all_keys::list(&committer, &pattern)).await?;
        let committer = &self.core.committer;
        if committer.syncer.mode() == AppendFsync::Always {
            // The listed keys may come from commits that are not synced yet.
            committer.syncer.acknowledged(committer.watermarks.committed.get()).await?;
        }
        Ok(listed)
    }

    async fn flush_archive(&self) -> Result<TaskReply> {
        let primary = self.core.primary().filter(|_| self.core.archive.is_some());
        let primary = primary.ok_or_else(|| Error::NotConfigured {
            reason: "this node does not write to an archive: none is configured, or the node is a replica".into(),
        })?;
        let watermarks = &self.core.committer.watermarks;
        primary.flush(watermarks.committed.get()).await?;
        Ok(TaskReply::Csn(watermarks.archived.get()))
    }

    /// Makes or removes a mark. Refused while this node accepts no writes.
    async fn move_key(&self, key: Vec<u8>, to: Home) -> Result<TaskReply> {
        if let Some((reason, text)) = self.core.committer.gate.refusal() {
            return Ok(TaskReply::Refused(format!("{} {text}", reason.code())));
        }
        let committer = Arc::clone(&self.core.committer);
        let moved = blocking(move || committer.move_key(&key, to, crate::clock::now_millis())).await?;
        Ok(TaskReply::Count(moved.into()))
    }

    async fn change_mark(&self, name: PlainName, is_new: bool) -> Result<TaskReply> {
        if let Some((reason, text)) = self.core.committer.gate.refusal() {
            return Ok(TaskReply::Refused(format!("{} {text}", reason.code())));
        }
        let primary = self.core.primary().expect("a node that accepts writes is a primary");
        if is_new { primary.mark(name).await } else { primary.unmark(name).await }
    }
}

impl Host for Node {
    fn config(&self) -> Guard<Arc<Config>> {
        self.core.config()
    }

    fn reconfigure(&self, pairs: &[(String, String)]) -> Result<()> {
        let mut config = Config::clone(&self.core.config());
        for (key, value) in pairs {
            config.change(key, value)?;
        }
        self.core.committer.syncer.set_mode(config.appendfsync);
        self.core.committer.configure_routing(&config);
        self.bases.bandwidth.set(config.archive_bandwidth.0);
        if let Some(primary) = self.core.primary() {
            primary.reconfigure(&config);
        }
        self.core.set_config(config);
        Ok(())
    }

    fn watermarks(&self) -> WatermarkReport {
        let watermarks = &self.core.committer.watermarks;
        WatermarkReport {
            epoch: self.core.epoch(),
            committed: watermarks.committed.get(),
            durable: watermarks.durable.get(),
            archived: watermarks.archived.get(),
        }
    }

    fn info(&self) -> Vec<InfoSection> {
        info::sections(self)
    }

    fn marks(&self) -> Result<Vec<MarkCard>> {
        let primary = self.core.primary();
        let state = |mark: &Mark| match primary.and_then(|primary| primary.mark_state(mark)) {
            Some(state) => state,
            None if self.core.archive.is_some() => "ask the primary".to_owned(),
            None => "no archive".to_owned(),
        };
        let marks = self.core.committer.marks()?;
        Ok(marks.into_iter().map(|mark| MarkCard { archived: state(&mark), name: mark.name, at: mark.at }).collect())
    }

    fn role(&self) -> Role {
        let committed = self.core.committer.watermarks.committed.get();
        match self.core.link().filter(|_| self.core.is_replica()) {
            Some(link) => {
                let status = link.status();
                Role::Replica { host: status.host, port: status.port, state: status.state, applied: committed }
            }
            None => {
                let feeds = self.core.feeds().into_iter();
                let replicas = feeds.map(|feed| (feed.address, feed.port, feed.ack.applied)).collect();
                Role::Primary { committed, replicas }
            }
        }
    }

    fn clients(&self) -> Vec<ClientCard> {
        self.registry.cards()
    }

    fn start_snapshot(&self) -> Result<()> {
        self.bases.start()
    }

    fn last_save(&self) -> u64 {
        self.snapshots.last_save()
    }

    fn known_key_count(&self) -> u64 {
        self.key_counter.known()
    }

    fn is_memory_full(&self) -> bool {
        self.core.committer.is_memory_full()
    }

    fn count_command(&self) {
        self.commands.fetch_add(1, Ordering::Relaxed);
    }

    fn archive_acknowledged(&self, csn: Csn) -> BoxFuture<'_, Result<()>> {
        self.core.archive_acknowledged(csn).boxed()
    }

    fn run(&self, task: Task) -> BoxFuture<'_, Result<TaskReply>> {
        async move {
            match task {
                Task::CountKeys => self.key_count().await.map(TaskReply::Count),
                Task::ListKeys(pattern) => self.matching_keys(pattern).await.map(TaskReply::Encoded),
                Task::ArchiveFlush => self.flush_archive().await,
                Task::Snapshot(consistency) => self.bases.publish(consistency).await.map(TaskReply::Csn),
                Task::Mark(name) => self.change_mark(name, true).await,
                Task::Move(key, to) => self.move_key(key, to).await,
                Task::Unmark(name) => self.change_mark(name, false).await,
                Task::Promote(insistence) => self.promote(insistence).await.map(|()| TaskReply::Ok),
                Task::Shutdown => {
                    self.core.request_stop();
                    Ok(TaskReply::Close)
                }
            }
        }
        .boxed()
    }
}

/// Runs blocking work on a separate thread.
async fn blocking<T: Send + 'static>(run: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(run).await.map_err(Error::of_task)?
}
