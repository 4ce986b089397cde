//! Work that no client waits for: it takes the processor only as far as clients leave it.

use crate::threads::join;

/// Niceness of such work: it gets a tenth of what a thread of the server gets while both want all of a core. Bases and
/// images get on under the heaviest load, and a client waits little for them.
const NICENESS: i32 = 10;
/// Niceness of a replica's applying: a third. A replica that shares the machine with its primary, or with others that
/// serve clients, falls behind by some 0.1 s under a load that takes all of it, and catches up once it ends (measured on
/// two cores, primary and replica on both: a tenth more operations a second than without).
const NICENESS_OF_APPLYING: i32 = 5;

/// Runs work on a thread, and threads of that, which give way to the server's; the caller waits for it. The work must not
/// take locks that a commit waits for: whoever holds one must not wait for the processor.
pub fn run<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    run_at(NICENESS, work)
}

/// The same for applying what another node committed. It may take the writer lock: on a node that applies, only reads
/// wait for that, and they leave the processor to it meanwhile.
pub fn apply<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    run_at(NICENESS_OF_APPLYING, work)
}

fn run_at<T: Send>(niceness: i32, work: impl FnOnce() -> T + Send) -> T {
    let give_way_and_work = || {
        // For good, since a process may not raise a priority; hence the thread.
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
