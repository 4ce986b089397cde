//! The log thread writes sealed groups to the logs, so that the threads that serve clients can execute the next
//! commands meanwhile.
//!
//! Guarantees: groups are written in the order in which they were sealed, whichever thread writes them. Without a log
//! thread (in tests, or before a node is up) the threads that execute commands write the groups themselves.

use super::committer::Committer;
use super::log_queue::LogQueue;
use std::sync::{Arc, Weak};

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
