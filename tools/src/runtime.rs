//! Runs nodes and tools. SIGTERM and SIGINT end every command, also as process 1 of a container, where a signal
//! without a handler does nothing. A tool that a signal stops leaves no pin behind.

use crate::exit::{Done, Failure};
use crate::node::announce;
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use walferry::archive::pins;
use walferry::node::running::Node;

/// Returns a runtime for a node or a tool.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    Ok(Builder::new_multi_thread().enable_all().build()?)
}

/// The signals that end a command.
struct Stops {
    terminated: Signal,
    interrupted: Signal,
}

impl Stops {
    /// Replaces the default action of the signals: from this call on only [`Stops::next`] receives them.
    fn begin() -> std::io::Result<Self> {
        Ok(Self { terminated: signal(SignalKind::terminate())?, interrupted: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal. Cancel-safe.
    async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.terminated.recv() => SignalKind::terminate(),
            _ = self.interrupted.recv() => SignalKind::interrupt(),
        }
    }
}

/// Runs a tool until it is done or SIGINT or SIGTERM comes. On a signal the pins of the tool are removed, so that no
/// prune has to wait for their expiry.
pub(crate) fn run_tool<T, E: Into<Failure>>(work: impl Future<Output = Result<T, E>>) -> Result<T, Failure> {
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        let mut stops = Stops::begin()?;
        // `select!` drops the other arm's future before the chosen arm's body runs.
        tokio::select! {
            done = work => done.map_err(Into::into),
            signal = stops.next() => Err(stopped_by(signal).await),
        }
    });
    // Blocking work ends with the process.
    runtime.shutdown_background();
    done
}

/// Runs a blocking tool until it is done or SIGINT or SIGTERM comes.
pub(crate) fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    run_tool(async { tokio::task::spawn_blocking(work).await.map_err(std::io::Error::from)? })
}

/// Callback that a node calls once it serves clients.
pub(crate) type Ready = Box<dyn FnOnce(&Arc<Node>) + Send>;

/// Runs a node. SIGTERM and SIGINT stop the node cleanly once it serves clients. Before that, while the node recovers
/// or bootstraps, they end it at once, which is as harmless as a crash.
pub(crate) fn run_node<F>(serve: impl FnOnce(Ready) -> F) -> Done
where
    F: Future<Output = walferry::error::Result<()>>,
{
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        let mut stops = Stops::begin()?;
        let (sender, mut is_ready) = oneshot::channel();
        let mut serving = Box::pin(serve(Box::new(move |node| {
            announce(node);
            let _ = sender.send(Arc::clone(node));
        })));
        let mut node: Option<Arc<Node>> = None;
        loop {
            // The order lets a signal find a node that is ready. All arms are cancel-safe: an untaken value stays in
            // its channel, and `serving` continues where it was.
            tokio::select! {
                biased;
                done = &mut serving => return done.map_err(Failure::from),
                Ok(ready) = &mut is_ready, if node.is_none() => node = Some(ready),
                signal = stops.next() => match &node {
                    Some(node) => node.core.request_stop(),
                    None => {
                        drop(serving);
                        return Err(stopped_by(signal).await);
                    }
                },
            }
        }
    });
    if matches!(done, Err(Failure::Stopped(_))) {
        // Blocking work ends with the process.
        runtime.shutdown_background();
    }
    done
}

async fn stopped_by(signal: SignalKind) -> Failure {
    pins::dropped_pins_end().await;
    Failure::Stopped(signal.as_raw_value())
}
