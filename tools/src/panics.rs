//! A panic ends the process of a node.
//!
//! A panicking thread may hold commits that are in memory and in no log, or replies that other threads wait for. tokio
//! catches the panics of its tasks, and the result of joining a thread may never be checked. A node that continued
//! could acknowledge lost commits. So the process ends at once, like a killed one: this loses nothing acknowledged,
//! and the next start recovers from the logs.

use std::panic::PanicHookInfo;

/// Installs a panic hook: every later panic, on any thread, is reported on stderr and in the log, and aborts the
/// process.
pub(crate) fn end_the_process() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        log(panic);
        std::process::abort();
    }));
}

/// Ends the process without a message, with the exit code of a process that SIGPIPE ended, where a panic means only that
/// the reader of stdout is gone (`walferry status | head`). Every other panic is told as before.
pub(crate) fn end_without_reader() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let payload = panic.payload();
        let reason = payload.downcast_ref::<String>().map(String::as_str);
        if reason
            .is_some_and(|reason| reason.starts_with("failed printing to stdout") && reason.contains("Broken pipe"))
        {
            std::process::exit(128 + rustix::process::Signal::PIPE.as_raw());
        }
        tell(panic);
    }));
}

fn log(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let payload = panic.payload();
    let reason = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    tracing::error!(
        thread = thread.name().unwrap_or("unnamed"),
        place = panic.location().map(ToString::to_string).unwrap_or_default(),
        reason = reason.unwrap_or("unknown"),
        "a defect in walferry ends this process; no acknowledged write is lost beyond what a process kill loses in \
         this appendfsync mode. Start the process again, and report the defect with these lines"
    );
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};

    /// Environment variable that tells a child process of the test where to panic.
    const PLACE: &str = "WALFERRY_TEST_PANIC_PLACE";

    /// Panics in the processes that [`every_panic_ends_the_process`] starts; does nothing otherwise.
    #[test]
    fn panicking_process() {
        let Ok(place) = std::env::var(PLACE) else { return };
        crate::start_logging();
        super::end_the_process();
        let words = format!("there is nobody at {place}");
        let panics = move || -> () { panic!("{words}") };
        match place.as_str() {
            "a task" => {
                let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
                let _ = runtime.block_on(runtime.spawn(async move { panics() }));
            }
            "a blocking task" => {
                let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
                let _ = runtime.block_on(runtime.spawn_blocking(panics));
            }
            "a thread" => {
                let _ = std::thread::Builder::new().name("a-thread".into()).spawn(panics).unwrap().join();
            }
            _ => {
                let _ = std::panic::catch_unwind(panics);
            }
        }
        println!("went on");
        std::process::exit(0);
    }

    /// Goal: wherever a node panics, also where tokio or a join would swallow the panic, the process ends by an abort
    /// and reports the reason on stderr and in the log.
    #[test]
    fn every_panic_ends_the_process() {
        for place in ["a task", "a blocking task", "a thread", "a place that catches panics"] {
            let test = std::env::current_exe().unwrap();
            let run = Command::new(test)
                .args(["--exact", "panics::tests::panicking_process", "--nocapture"])
                .env(PLACE, place)
                .output()
                .unwrap();
            let (said, logged) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
            assert_eq!(
                ExitStatus::signal(&run.status),
                Some(rustix::process::Signal::ABORT.as_raw()),
                "{place}: {logged}"
            );
            assert!(!said.contains("went on"), "{place}: {said}");
            for words in ["panicked at", "ERROR", "a defect in walferry ends this process"] {
                assert!(logged.contains(words), "{place}: {words} in {logged}");
            }
            assert!(logged.matches(&format!("there is nobody at {place}")).count() >= 2, "{place}: {logged}");
        }
    }
}
