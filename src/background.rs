//! Work that no client waits for: it takes the processor only as far as clients leave it.

use crate::threads::join;

/// Niceness of such work: it gets a tenth of what a thread of the server gets while both want all of a core. Bases and
/// images get on under the heaviest load, and a client waits little for them.
const NICENESS: i32 = 10;

/// Runs work on a thread, and threads of that, which give way to the server's; the caller waits for it. The work must not
/// take locks that a commit waits for: whoever holds one must not wait for the processor.
pub fn run<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let give_way_and_work = || {
        // For good, since a process may not raise a priority; hence the thread.
        if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
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
        let own = getpriority_process(None).unwrap();
        let (of_work, of_thread) = run(|| {
            let of_thread = std::thread::spawn(|| getpriority_process(None).unwrap()).join().unwrap();
            (getpriority_process(None).unwrap(), of_thread)
        });
        assert_eq!((of_work, of_thread), (NICENESS, NICENESS));
        assert_eq!(getpriority_process(None).unwrap(), own);
    }
}
