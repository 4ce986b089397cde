//! Runs what nodes and tools do. A tool that is stopped by a signal leaves no pin behind.

use crate::exit::Failure;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use walferry::archive::pins;

/// A runtime for a node or a tool.
pub fn runtime() -> Result<Runtime, Failure> {
    Ok(Builder::new_multi_thread().enable_all().build()?)
}

/// Runs what a tool does, until it is through or SIGINT or SIGTERM comes. Then nobody has to wait for what it pinned.
pub fn run_tool<T, E: Into<Failure>>(work: impl Future<Output = Result<T, E>>) -> Result<T, Failure> {
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        let (mut terminated, mut interrupted) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        // The arms that are not taken are dropped before the one that is goes on.
        tokio::select! {
            done = work => done.map_err(Into::into),
            _ = terminated.recv() => Err(stopped_by(SignalKind::terminate()).await),
            _ = interrupted.recv() => Err(stopped_by(SignalKind::interrupt()).await),
        }
    });
    // What blocks ends with the process.
    runtime.shutdown_background();
    done
}

async fn stopped_by(signal: SignalKind) -> Failure {
    pins::dropped_pins_end().await;
    Failure::Stopped(signal.as_raw_value())
}
