//! Runs a client's requests in turn, a pipeline's worth under one turn of the writer lock.
//!
//! Guarantees: one command, or one EXEC, is one commit, or none if it had no effect; a request that fails has no
//! effect. If the logs of a group could not be written, errors replace the replies that wait for that group before they
//! are sent; the replies of earlier groups stay.

use super::ahead;
use super::args::Args;
use super::client::Client;
use super::definition::{Call, Command, Ctx, Done, Fail, Flag};
use super::demand::Demand;
use super::errors;
use super::host::Host;
use super::reply::{Out, ReplyStart};
use super::table::TABLE;
use super::txn;
use crate::clock::Reading;
use crate::commit::committer::Committer;
use crate::commit::groups::{GroupNumber, Groups};
use crate::commit::guards::WriterGuard;
use crate::csn::Csn;
use crate::engine::keyspace::Keyspace;
use crate::error::Error;

/// A session: a pipeline's worth of a client's requests while the requests run.
pub struct Session<'s> {
    committer: &'s Committer,
    host: &'s dyn Host,
    client: &'s mut Client,
    out: &'s mut Out,
    turn: Option<WriterGuard<'s>>,
    /// The replies of this turn.
    replies: Replies,
    /// The newest group that holds a commit of this session.
    wrote: Option<GroupNumber>,
    /// The last commit of this session, written or in an open group.
    last: Option<Csn>,
    /// The last reading of the clocks; `None` if much time may have passed since. Requests that arrived together and
    /// are quick share one reading.
    now: Option<Reading>,
}

/// Conditions for sending a session's replies.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Replies that wait for a group that may not be written yet.
    pub open: Option<OpenReplies>,
    /// The last commit that the replies depend on.
    pub depends_on: Option<Csn>,
    /// Time at which the requests ran, in microseconds since the Unix epoch.
    pub now_us: u64,
}

/// Consecutive replies that wait for the same group.
#[derive(Clone, Copy, Debug)]
struct ReplySpan {
    group: GroupNumber,
    /// Start of the first of these replies.
    start: ReplyStart,
    replies: usize,
    /// The session's last commit at the end of these replies.
    last: Option<Csn>,
}

/// The replies of one turn, by the groups that they wait for.
#[derive(Debug, Default)]
struct Replies {
    /// The session's last commit before the turn.
    before: Option<Csn>,
    earlier: Vec<ReplySpan>,
    newest: Option<ReplySpan>,
}

impl Replies {
    /// Counts a reply that starts at `start`.
    fn count(&mut self, group: GroupNumber, start: ReplyStart, last: Option<Csn>) {
        match &mut self.newest {
            Some(span) if span.group == group => (span.replies, span.last) = (span.replies + 1, last),
            newest => self.earlier.extend(newest.replace(ReplySpan { group, start, replies: 1, last })),
        }
    }
}

/// Replies that wait until their groups are written.
#[derive(Debug)]
pub struct OpenReplies {
    /// The last of the groups.
    pub group: GroupNumber,
    replies: Replies,
}

impl OpenReplies {
    /// Replaces with errors the replies whose groups could not be written. Returns the last commit that the remaining
    /// replies depend on.
    pub fn fail(self, groups: &Groups, error: &Error, out: &mut Out) -> Option<Csn> {
        let Self { group, replies: Replies { before, earlier, newest } } = self;
        let mut last = before;
        let mut failed = 0;
        for span in earlier.into_iter().chain(newest) {
            // A read at the end of the turn may be counted for a later group than the last one with a commit. It waits
            // for that last one.
            let is_written = matches!(groups.outcome(span.group.min(group)), Some(Ok(())));
            if failed == 0 && is_written {
                last = span.last;
                continue;
            }
            if failed == 0 {
                out.truncate(span.start);
            }
            failed += span.replies;
        }
        for _ in 0..failed {
            write_failure(out, Fail::Reply(format!("MISCONF {error}").into()));
        }
        last
    }
}

impl<'s> Session<'s> {
    /// Begins a session. The lock is not taken yet.
    pub fn new(committer: &'s Committer, host: &'s dyn Host, client: &'s mut Client, out: &'s mut Out) -> Self {
        let (turn, wrote, last) = (None, None, None);
        Self { committer, host, client, out, turn, replies: Replies::default(), wrote, last, now: None }
    }

    /// Fetches the rows that the next requests, which arrived together, are about to read.
    pub fn expect<'r>(&mut self, requests: impl Iterator<Item = Call<'r>> + Clone) {
        ahead::fetch(self.committer, requests);
    }

    /// Runs one request and writes its reply. Returns true if the connection must act before the next request: await
    /// the client's task or the blocked read, or close.
    pub fn run(&mut self, call: Call<'_>) -> bool {
        let Call { command, args } = call;
        self.host.count_command();
        if command.is_none() && is_http(&args[0]) {
            tracing::warn!(
                addr = self.client.addr,
                "a client that speaks HTTP is disconnected: a web page may have sent it"
            );
            self.client.closes = true;
            return true;
        }
        if command.is_some_and(|command| command.has(Flag::Admin)) {
            // The commits of earlier requests are written first, because an admin command shows or starts something
            // that includes them.
            self.write();
        }
        let start = self.out.next_start();
        if let Err(fail) = self.dispatch(command, args) {
            self.out.truncate(start);
            write_failure(self.out, fail);
        }
        if command.is_some_and(|command| !command.has(Flag::Fast) && !command.has(Flag::Blind)) {
            self.now = None;
        }
        if let Some(turn) = &self.turn
            && self.client.task.is_none()
        {
            self.replies.count(turn.group(), start, self.last);
        }
        if self.turn.as_mut().is_some_and(|turn| turn.is_full() && !turn.hand_over()) {
            self.write();
        }
        self.client.task.is_some() || self.client.blocked.is_some() || self.client.closes
    }

    /// Reports whether the client has authenticated or need not.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        self.client.is_authenticated
    }

    /// Returns the bytes of replies that were not sent.
    #[must_use]
    pub fn reply_bytes(&self) -> usize {
        self.out.len()
    }

    /// Ends the session and releases the lock. Its commits stay in the open group, which many connections share: the
    /// group must be written before the replies are sent.
    pub fn finish(mut self) -> Outcome {
        let now_us = self.now.unwrap_or_else(Reading::now).wall_us;
        Outcome { open: self.end_turn(), depends_on: self.last, now_us }
    }

    fn clock(&mut self) -> Reading {
        *self.now.get_or_insert_with(Reading::now)
    }

    fn end_turn(&mut self) -> Option<OpenReplies> {
        let turn = self.turn.take()?;
        let replies = std::mem::take(&mut self.replies);
        let group = turn.leave_open().max(self.wrote.take())?;
        Some(OpenReplies { group, replies })
    }

    fn write(&mut self) {
        let Some(open) = self.end_turn() else { return };
        self.committer.write_open_group();
        let outcome = self.committer.groups.outcome(open.group).expect("everything was written");
        if let Err(error) = outcome {
            self.last = open.fail(&self.committer.groups, &error, self.out);
        }
    }

    fn dispatch(&mut self, command: Option<&'static Command>, args: Args<'_>) -> Done {
        let admitted = self.admit(command, args);
        let command = match admitted {
            Ok(command) => command,
            Err(fail) => return Err(self.reject(command, fail)),
        };
        self.client.last_command = command.name;
        if self.client.queue.is_some() && !command.has(Flag::Immediate) {
            return txn::enqueue(self.client, command, args, self.out).map_err(|fail| self.reject(None, fail));
        }
        self.execute(command, args)
    }

    fn take_turn(&mut self) {
        if self.turn.is_none() {
            self.turn = Some(self.committer.lock_writer());
            self.replies.before = self.last;
            // Taking the lock may have taken time, so the clocks must be read anew.
            self.now = None;
        }
    }

    /// Checks what can be checked before a request is queued or run.
    fn admit(&self, command: Option<&'static Command>, args: Args<'_>) -> Result<&'static Command, Fail> {
        let command = command.ok_or_else(|| errors::unknown_command(args))?;
        if !command.accepts_len(args.len()) {
            return Err(errors::wrong_arity(command.name).into());
        }
        if !self.client.is_authenticated && !command.has(Flag::NoAuth) {
            return Err(errors::NO_AUTH.into());
        }
        self.check_write(command)?;
        Ok(command)
    }

    /// Handles a refused request: inside MULTI it breaks the transaction, and a refused EXEC ends it.
    fn reject(&mut self, command: Option<&Command>, fail: Fail) -> Fail {
        let is_exec = command.is_some_and(|command| command.has(Flag::Exec));
        match (&mut self.client.queue, fail) {
            (_, Fail::Reply(message)) if is_exec => {
                self.client.queue = None;
                self.client.watched = None;
                let reason = message.strip_prefix("ERR ").unwrap_or(&message);
                Fail::Reply(format!("EXECABORT Transaction discarded because of: {reason}").into())
            }
            (Some(queue), fail) => {
                queue.is_broken = true;
                fail
            }
            (None, fail) => fail,
        }
    }

    fn execute(&mut self, command: &'static Command, args: Args<'_>) -> Done {
        // After a failed log write, only reads under the lock show all engines at one commit.
        let is_locked = command.has(Flag::Write) || command.has(Flag::Locks) || self.committer.groups.have_failed();
        if self.turn.is_none() && !is_locked {
            let now_ms = self.clock().wall_us / 1000;
            let Committer { watermarks, .. } = self.committer;
            let (disk, memory) = (self.committer.disk(), self.committer.memory());
            let keys = Keyspace::reading(disk, memory, now_ms, &watermarks.committed);
            let mut ctx = Ctx { keys, client: self.client, host: self.host, table: &TABLE };
            let start = self.out.next_start();
            match (command.run)(&mut ctx, args, self.out) {
                Err(Fail::NeedsLock) => self.out.truncate(start),
                done => return done,
            }
        }
        self.execute_locked(command, args)
    }

    fn execute_locked(&mut self, command: &'static Command, args: Args<'_>) -> Done {
        self.take_turn();
        let now = self.clock();
        let now_ms = now.wall_us / 1000;
        let turn = self.turn.as_mut().expect("taken above");
        let queue = self.client.queue.as_ref().filter(|queue| command.has(Flag::Exec) && queue.has_writes);
        let mut demand = None;
        if command.has(Flag::Write) || queue.is_some() {
            let wanted = match queue {
                Some(queue) => Demand::of_queue(queue, &TABLE, turn, now_ms)?,
                None => Demand::of_command(command, args, turn),
            };
            if let Err(error) = turn.reserve(wanted.room_bytes) {
                return Err(self.reject(Some(command), format!("MISCONF {error}").into()));
            }
            demand = Some(wanted).filter(|demand| demand.is_bounded);
        }
        let bytes_max = demand.map_or(0, |_| self.host.config().max_commit_bytes.0);
        if let Some(demand) = demand {
            turn.bound_commit(bytes_max as usize, demand.can_be_taken_back);
        }
        let keys = turn.keyspace(now_ms);
        let keys = if command.has(Flag::ReadOnly) { keys.only_reading() } else { keys };
        let mut ctx = Ctx { keys, client: self.client, host: self.host, table: &TABLE };
        let done = (command.run)(&mut ctx, args, self.out);
        let can_be_taken_back = demand.is_some_and(|demand| demand.can_be_taken_back);
        if can_be_taken_back
            && done.is_ok()
            && let Err(error) = turn.reserve_gathered()
        {
            turn.end_bound(true);
            return Err(self.reject(Some(command), format!("MISCONF {error}").into()));
        }
        let is_given_up = can_be_taken_back && matches!(done, Err(Fail::Failed(_)));
        let is_too_large = matches!(done, Err(Fail::TooLarge));
        if demand.is_some() && !turn.end_bound(is_given_up || is_too_large) && !is_given_up {
            return Err(self.reject(Some(command), errors::commit_too_large(bytes_max).into()));
        }
        if let Err(fail) = &done
            && turn.has_effects()
        {
            // Only a failing database can cause this. The effects made so far cannot be taken back, so the node stops
            // writing.
            turn.abandon(&format!("{} failed after it had an effect: {fail:?}", command.name));
        }
        if let Some(csn) = turn.commit_at(now) {
            (self.last, self.wrote) = (Some(csn), Some(turn.group()));
        }
        done
    }

    /// Refuses a write that this node does not take, or that would grow a full memory.
    fn check_write(&self, command: &Command) -> Result<(), Fail> {
        let queue = self.client.queue.as_ref().filter(|queue| command.has(Flag::Exec) && queue.has_writes);
        if !command.has(Flag::Write) && queue.is_none() {
            return Ok(());
        }
        let gate = &self.committer.gate;
        let frees = queue.map_or_else(|| command.has(Flag::Frees), |queue| !queue.grows);
        let refusal = if frees { gate.refusal_to_free() } else { gate.refusal() };
        if let Some((obstacle, reason)) = refusal {
            return Err(format!("{} {reason}", obstacle.code()).into());
        }
        if command.has(Flag::DenyOom) && self.host.is_memory_full() {
            return Err(errors::OUT_OF_MEMORY.into());
        }
        Ok(())
    }
}

/// Reports whether a request is a line of an HTTP request whose body could carry commands. Redis closes such
/// connections, too, because a browser would send the rest of the request.
fn is_http(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

fn write_failure(out: &mut Out, fail: Fail) {
    match fail {
        Fail::Reply(message) => out.error(&message),
        Fail::Failed(error) => out.error(&internal(&error)),
        Fail::NeedsLock => unreachable!("a command that runs under the lock has the writer"),
        Fail::TooLarge => unreachable!("the session sets it"),
    }
}

fn internal(error: &Error) -> String {
    format!("ERR internal: {error}")
}
