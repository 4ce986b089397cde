//! Runs work that no client waits for. Such work takes only the processor time that the clients leave.

use crate::threads::join;

/// Niceness of background work: while a thread of the server wants the whole core, background work gets a tenth of the
/// server thread's share. Bases and images then make progress under the heaviest load, and delay a client little.
const NICENESS: i32 = 10;
/// Niceness of a replica's applying: it gets a third of a server thread's share. A replica that shares the machine with
/// its primary, or with other servers, falls behind by about 0.1 s under a load that takes the whole machine, and
/// catches up after the load ends (measured on two cores with primary and replica on both: a tenth more operations a
/// second than without niceness).
const NICENESS_OF_APPLYING: i32 = 5;

/// Runs `work` on a thread of low priority and waits for its result; threads that `work` starts inherit the priority.
/// The work must not take a lock that a commit waits for: a thread of low priority would hold the lock while it waits
/// for the processor.
pub fn run<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    run_at(NICENESS, work)
}

/// Runs `work`, which applies commits of another node, as [`run`] does. The work may take the writer lock: on a node
/// that applies, only reads wait for that lock, and a waiting read leaves the processor to the work.
pub fn apply<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    run_at(NICENESS_OF_APPLYING, work)
}

fn run_at<T: Send>(niceness: i32, work: impl FnOnce() -> T + Send) -> T {
    let give_way_and_work = || {
        // The work gets a thread of its own, because a thread cannot raise its priority back afterwards without
        // privileges.
        if let Err(error) = rustix::process::setpriority_process(None, niceness) {
            tracing::debug!(%error, "work in the background keeps its priority");
        }
        work()
    };
    std::thread::scope(|scope| join(scope.spawn(give_way_and_work)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::getpriority_process;

    #[test]
    fn work_gives_way_and_so_do_its_threads_but_not_its_caller() {
        let niceness = || getpriority_process(None).unwrap();
        let own = niceness();
        let (of_work, of_thread) = run(|| (niceness(), std::thread::spawn(niceness).join().unwrap()));
        assert_eq!((of_work, of_thread), (NICENESS, NICENESS));
        assert_eq!(apply(niceness), NICENESS_OF_APPLYING);
        assert_eq!(niceness(), own);
    }
}
