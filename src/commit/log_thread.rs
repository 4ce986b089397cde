//! The log thread writes sealed groups to the logs, so that the threads that serve clients can execute the next
//! commands meanwhile.
//!
//! Guarantees: groups are written in the order in which they were sealed, whichever thread writes them. Without a log
//! thread (in tests, or before a node is up) the threads that execute commands write the groups themselves.

use super::committer::Committer;
use super::writer::SealedGroup;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

/// Sealed groups that wait for the log thread, oldest first.
#[derive(Default)]
pub(super) struct LogQueue {
    state: Mutex<State>,
    grown: Condvar,
}

#[derive(Default)]
struct State {
    groups: VecDeque<SealedGroup>,
    /// Whether a log thread takes the groups.
    has_thread: bool,
}

impl LogQueue {
    /// Adds a group. The caller holds the writer lock, so that groups come in order.
    pub fn push(&self, group: SealedGroup) {
        self.state.lock().groups.push_back(group);
        self.grown.notify_one();
    }

    /// Takes the oldest group. The caller holds the logs' lock, so that groups are written in order.
    pub fn pop(&self) -> Option<SealedGroup> {
        self.state.lock().groups.pop_front()
    }

    /// Reports whether groups may be added, because a thread takes them.
    pub fn has_thread(&self) -> bool {
        self.state.lock().has_thread
    }

    /// Waits until there is a group. Returns false once the thread must end.
    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        while state.has_thread && state.groups.is_empty() {
            self.grown.wait(&mut state);
        }
        state.has_thread
    }
}

/// The log thread, while it runs.
#[derive(Default)]
pub(super) struct LogThread(Mutex<Option<JoinHandle<()>>>);

impl Committer {
    /// Starts the log thread. To be called once.
    pub fn start_log_thread(self: &Arc<Self>) {
        self.queue.state.lock().has_thread = true;
        let (queue, committer) = (Arc::clone(&self.queue), Arc::downgrade(self));
        let run = move || write_groups(&queue, &committer);
        let thread = std::thread::Builder::new().name("walferry-log".into()).spawn(run);
        *self.log_thread.0.lock() = Some(thread.expect("threads can be started while the process comes up"));
    }

    /// Ends the log thread. All groups that were handed to it are written when this returns.
    pub fn stop_log_thread(&self) {
        self.queue.state.lock().has_thread = false;
        self.queue.grown.notify_all();
        if let Some(thread) = self.log_thread.0.lock().take() {
            let _ = thread.join();
        }
        self.write_open_group();
    }
}

fn write_groups(queue: &LogQueue, committer: &Weak<Committer>) {
    while queue.wait() {
        let Some(committer) = committer.upgrade() else { return };
        committer.write_queued_group();
    }
}
