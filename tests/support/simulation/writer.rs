//! Threads that write their lines to the primary, and the acknowledgements of each.

use super::super::client::{Client, Command, elements, error_text, framed};
use super::super::model::Step;
use super::line::{self, Kind, Line};
use redis::Value;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Largest number of steps that a writer sends in one pipeline.
const PIPELINE_MAX: u64 = 8;
/// Pause of a writer after its connection ended or a write was refused.
const PAUSE: Duration = Duration::from_millis(20);
/// How long the times of replies are remembered.
const REMEMBERED: Duration = Duration::from_secs(30);
/// Pause between two steps of the writer whose keys expire.
const MAYFLY_PAUSE: Duration = Duration::from_millis(15);

/// A writer's line and its progress.
pub(super) struct Account {
    /// The line that the writer writes.
    pub line: Line,
    /// The last position sent.
    pub sent: u64,
    /// The last position with a reply.
    pub replied: u64,
    /// Times and positions of the latest replies.
    replies: VecDeque<(Instant, u64)>,
}

impl Account {
    /// Creates the account of a line whose steps up to `position` are in the server.
    pub(super) fn new(line: Line, position: u64) -> Self {
        Self { line, sent: position, replied: position, replies: VecDeque::new() }
    }

    /// Returns the last position with a reply before a moment, if it is remembered; otherwise `earlier`.
    pub(super) fn replied_before(&self, moment: Instant, earlier: u64) -> u64 {
        let before = self.replies.iter().rev().find(|(at, _)| *at < moment);
        before.map_or(earlier, |(_, position)| *position)
    }

    /// Fails the test if a server that lost nothing cannot be at a position.
    #[track_caller]
    pub(super) fn assert_fits(&self, position: u64) {
        let Self { line: Line { writer, .. }, sent, replied, .. } = self;
        assert!(position >= *replied, "writer {writer}: position {replied} was replied, the primary is at {position}");
        assert!(position <= *sent, "writer {writer}: only {sent} positions were sent, the primary is at {position}");
    }

    fn note_reply(&mut self, position: u64) {
        let now = Instant::now();
        self.replied = position;
        self.replies.push_back((now, position));
        while self.replies.front().is_some_and(|(at, _)| now - *at > REMEMBERED) {
            self.replies.pop_front();
        }
    }
}

/// State shared by the writers of a round.
pub(super) struct Stage {
    /// The primary's port for clients.
    pub port: u16,
    /// Tells the writers to stop.
    pub stop: AtomicBool,
    /// Whether the writers' connections may end.
    pub may_disconnect: bool,
    /// Whether writes may be refused for a while.
    pub may_refuse: bool,
    /// Whether the primary may be fenced.
    pub may_fence: AtomicBool,
}

/// Why a writer's session ended.
enum Ended {
    Stopped,
    Disconnected,
    Refused(String),
}

/// Writes until the stage stops, or until the primary is fenced.
pub(super) fn write(stage: &Stage, account: &Mutex<Account>) {
    while !stage.stop.load(Ordering::Relaxed) {
        let ended = match Client::connect(stage.port) {
            Ok(mut client) => session(stage, account, &mut client),
            Err(_) => Ended::Disconnected,
        };
        match ended {
            Ended::Stopped => return,
            Ended::Disconnected => {
                assert!(stage.may_disconnect, "a client was disconnected; nothing in this round does that")
            }
            Ended::Refused(reason) if reason.starts_with("FENCED") => {
                assert!(stage.may_fence.load(Ordering::SeqCst), "nobody was promoted, yet a client was told: {reason}");
                return;
            }
            Ended::Refused(reason) => assert!(is_tolerated(stage, &reason), "a write was refused: {reason}"),
        }
        std::thread::sleep(PAUSE);
    }
}

fn is_tolerated(stage: &Stage, reason: &str) -> bool {
    let may_refuse = stage.may_refuse || stage.may_fence.load(Ordering::SeqCst);
    reason.starts_with("LOADING") && stage.may_disconnect || reason.starts_with("MISCONF") && may_refuse
}

/// Writes over one connection.
fn session(stage: &Stage, account: &Mutex<Account>, client: &mut Client) -> Ended {
    let (writer, kind) = {
        let account = account.lock().unwrap();
        (account.line.writer, account.line.kind)
    };
    let mut position = match stands_at(client, writer) {
        Ok(position) => position,
        Err(ended) => return ended,
    };
    let mut model = {
        let account = account.lock().unwrap();
        account.assert_fits(position);
        account.line.model_at(position)
    };
    while !stage.stop.load(Ordering::Relaxed) {
        let steps = next_steps(stage, account, position);
        let commands: Vec<Command> = steps.iter().flat_map(wire).collect();
        if client.send(&commands).is_err() {
            return Ended::Disconnected;
        }
        for step in &steps {
            let reply = match reply_to(client, step) {
                Ok(reply) => reply,
                Err(ended) => return ended,
            };
            position += 1;
            let checked = (kind == Kind::Mixed).then_some(&reply);
            line::apply(&mut model, step, checked);
            let mut account = account.lock().unwrap();
            account.line.keep(position, &model);
            account.note_reply(position);
        }
        if kind == Kind::Mayfly {
            std::thread::sleep(MAYFLY_PAUSE);
        }
    }
    Ended::Stopped
}

/// Returns this writer's position on the server.
fn stands_at(client: &mut Client, writer: usize) -> Result<u64, Ended> {
    if client.send(&framed(&line::reads(writer))).is_err() {
        return Err(Ended::Disconnected);
    }
    let reply = reply_to(client, &Step::Group(line::reads(writer)))?;
    Ok(line::position_read(elements(&reply)).unwrap_or_else(|torn| panic!("the primary: {torn}")))
}

/// Returns the next steps and records them as sent. Returns one step where an accepted step may follow a refused one.
fn next_steps(stage: &Stage, account: &Mutex<Account>, after: u64) -> Vec<Step> {
    let mut account = account.lock().unwrap();
    let is_alone = stage.may_refuse || account.line.kind == Kind::Mayfly;
    let count = if is_alone { 1 } else { 1 + line::mixed(&[after]) % PIPELINE_MAX };
    let steps = (after + 1..=after + count).map(|position| account.line.step(position)).collect();
    account.sent = account.sent.max(after + count);
    steps
}

/// Returns the last of a step's replies. After an error the connection may end: when the primary cannot keep its
/// promise, one error stands for all outstanding replies.
fn reply_to(client: &mut Client, step: &Step) -> Result<Value, Ended> {
    let (mut last, mut refused) = (Value::Nil, None);
    for _ in 0..wire(step).len() {
        match client.receive() {
            Ok(reply) => last = reply,
            Err(_) => return Err(refused.map_or(Ended::Disconnected, Ended::Refused)),
        }
        refused = refused.or_else(|| error_text(&last).map(cause));
    }
    refused.map_or(Ok(last), |error| Err(Ended::Refused(error)))
}

/// Returns the cause of a refusal: EXEC adds words of its own to a refusal after the commands were queued, as in
/// Redis.
fn cause(error: String) -> String {
    error.replacen("EXECABORT Transaction discarded because of: ", "", 1)
}

fn wire(step: &Step) -> Vec<Command> {
    match step {
        Step::Single(command) => vec![command.clone()],
        Step::Group(commands) => framed(commands),
    }
}
