//! The queue of sealed groups between the threads that seal them and the thread that writes the logs.
//!
//! Guarantees: groups leave the queue in the order in which they were sealed.

use super::writer::SealedGroup;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::thread::JoinHandle;

/// Sealed groups that wait for the log thread, oldest first.
#[derive(Default)]
pub(super) struct LogQueue {
    pub state: Mutex<State>,
    pub grown: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    groups: VecDeque<SealedGroup>,
    /// Whether a log thread takes the groups.
    pub has_thread: bool,
}

impl LogQueue {
    /// Adds a group. The caller holds the writer lock, so that groups come in order.
    pub(super) fn push(&self, group: SealedGroup) {
        self.state.lock().groups.push_back(group);
        self.grown.notify_one();
    }

    /// Takes the oldest group. The caller holds the logs' lock, so that groups are written in order.
    pub(super) fn pop(&self) -> Option<SealedGroup> {
        self.state.lock().groups.pop_front()
    }

    /// Reports whether groups may be added, because a thread takes them.
    pub(super) fn has_thread(&self) -> bool {
        self.state.lock().has_thread
    }

    /// Waits until there is a group. Returns false once the thread must end.
    pub(super) fn wait(&self) -> bool {
        let mut state = self.state.lock();
        while state.has_thread && state.groups.is_empty() {
            self.grown.wait(&mut state);
        }
        state.has_thread
    }
}

/// The log thread, while it runs.
#[derive(Default)]
pub(super) struct LogThread(pub Mutex<Option<JoinHandle<()>>>);
