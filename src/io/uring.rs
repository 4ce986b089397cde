//! The io_uring backend: a `tokio-uring` runtime on a thread of its own. Callers hand it requests together with the
//! buffers they own. It can pay where many requests are under way; one append and its sync need two more hand-offs
//! between threads than system calls do. `auto` measures.
//!
//! Guarantees: a buffer lives until the kernel has finished with it, whatever the caller does. The numbers of requests
//! that wait and that are under way are bounded. A caller always gets an answer, which is an error if the thread has
//! died. Before [`Uring::start`] succeeds, it has written, synced and read back a file in the data directory, because
//! containers refuse the ring in many ways.
//!
//! Requests that are under way at the same time complete in any order.

use super::{Io, LogFile, Pending, UNFINISHED_SUFFIX};
use crate::error::Result;
use bytes::{Bytes, BytesMut};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio_uring::buf::BoundedBuf;

/// Requests in the kernel at a time. Smaller than the ring, because `tokio-uring` panics when a full ring cannot be
/// submitted.
const IN_FLIGHT_MAX: usize = 64;

/// Entries of the submission queue.
const RING_ENTRIES: u32 = 128;

/// Requests that may wait for the thread. A caller blocks when there are more.
const QUEUE_MAX: usize = 64;

/// Longest time for the probe. `tokio-uring` ignores some submission errors and then waits for ever.
const PROBE_TIME_MAX: Duration = Duration::from_secs(5);

/// Bytes that the probe writes.
const PROBE_BYTES: usize = 4096;

/// A ring and its thread. Dropping it ends the thread once the requests under way are done.
#[derive(Debug)]
pub struct Uring {
    /// `None` only during the drop.
    queue: Option<SyncSender<Request>>,
    /// Tells the thread to look into the queue.
    wake: Arc<Notify>,
    /// `None` only during the drop.
    thread: Option<JoinHandle<()>>,
}

/// One operation, with a duplicate of the descriptor: `tokio-uring` closes the descriptor that it gets.
#[derive(Debug)]
struct Request {
    file: File,
    operation: Operation,
}

#[derive(Debug)]
enum Operation {
    Write { offset: u64, bytes: Bytes, answer: SyncSender<io::Result<()>> },
    Read { offset: u64, buffer: BytesMut, answer: SyncSender<io::Result<BytesMut>> },
    SyncData { answer: SyncSender<io::Result<()>> },
}

impl Uring {
    /// Starts a ring and proves with a file in `dir` that the ring works. The error is the reason of the refusal.
    pub fn start(dir: &Path) -> io::Result<Self> {
        let (queue, requests) = sync_channel(QUEUE_MAX);
        let (ready, probed) = sync_channel(1);
        let wake = Arc::new(Notify::new());
        let woken = Arc::clone(&wake);
        let probe_path = dir.join(format!("io-probe{UNFINISHED_SUFFIX}"));
        let thread = std::thread::Builder::new()
            .name("walferry-ring".into())
            .spawn(move || ring_thread(&requests, &woken, probe_path, &ready))?;
        match probed.recv_timeout(PROBE_TIME_MAX) {
            Ok(Ok(())) => Ok(Self { queue: Some(queue), wake, thread: Some(thread) }),
            Ok(Err(refusal)) => Err(explain(&refusal)),
            Err(_) => Err(io::Error::other("the ring did not answer")),
        }
    }

    /// Hands an operation to the thread. If the thread has ended, the operation's answer channel closes without an
    /// answer.
    fn submit(&self, file: &LogFile, operation: Operation) -> io::Result<()> {
        let request = Request { file: file.file().try_clone()?, operation };
        if let Some(queue) = &self.queue {
            // A closed queue drops the request and with it the answer channel, so that the caller gets an error.
            let _ = queue.send(request);
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Submits the operation that `operation` makes with an answer channel.
    fn begin<T>(
        &self,
        action: &'static str,
        file: &LogFile,
        operation: impl FnOnce(SyncSender<io::Result<T>>) -> Operation,
    ) -> Pending<T> {
        let (answer, answered) = sync_channel(1);
        match self.submit(file, operation(answer)) {
            Ok(()) => Pending::under_way(answered, action, file.clone()),
            Err(e) => Pending::done(Err(file.failed(action, e))),
        }
    }
}

impl Io for Uring {
    fn name(&self) -> &'static str {
        "uring"
    }

    fn start_write(&self, file: &LogFile, offset: u64, bytes: Bytes) -> Pending<()> {
        self.begin("write", file, |answer| Operation::Write { offset, bytes, answer })
    }

    fn start_read(&self, file: &LogFile, offset: u64, buffer: BytesMut) -> Pending<BytesMut> {
        if buffer.is_empty() {
            return Pending::done(Ok(buffer));
        }
        self.begin("read", file, |answer| Operation::Read { offset, buffer, answer })
    }

    fn try_sync(&self, file: &LogFile) -> Result<()> {
        self.begin("sync", file, |answer| Operation::SyncData { answer }).wait()
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.queue = None;
        self.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // The callers were told of a panic of the thread by their closed answer channels.
            let _ = thread.join();
        }
    }
}

/// Body of the thread: builds the ring, probes it, and serves requests until the queue closes.
fn ring_thread(requests: &Receiver<Request>, wake: &Notify, probe_path: PathBuf, ready: &SyncSender<io::Result<()>>) {
    // `tokio_uring::start` would panic on a refusal; this returns the error.
    let runtime = match tokio_uring::Runtime::new(tokio_uring::builder().entries(RING_ENTRIES)) {
        Ok(runtime) => runtime,
        Err(refusal) => {
            let _ = ready.send(Err(refusal));
            return;
        }
    };
    runtime.block_on(async {
        let probed = probe(&probe_path).await;
        let works = probed.is_ok();
        if ready.send(probed).is_ok() && works {
            serve(requests, wake).await;
        }
    });
}

/// Runs requests, up to [`IN_FLIGHT_MAX`] at the same time, until the queue closes and all are answered.
async fn serve(requests: &Receiver<Request>, wake: &Notify) {
    let slots = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    loop {
        match requests.try_recv() {
            Ok(request) => {
                let slot = Arc::clone(&slots).acquire_owned().await;
                tokio_uring::spawn(async move {
                    run(request).await;
                    drop(slot);
                });
            }
            Err(TryRecvError::Empty) => wake.notified().await,
            Err(TryRecvError::Disconnected) => break,
        }
    }
    // The runtime must not be dropped while the kernel holds a request.
    let _ = slots.acquire_many(IN_FLIGHT_MAX as u32).await;
}

/// Runs one request. `write_all_at` and `read_exact_at` continue short transfers. An answer for which nobody waits is
/// dropped.
async fn run(request: Request) {
    let file = tokio_uring::fs::File::from_std(request.file);
    match request.operation {
        Operation::Write { offset, bytes, answer } => {
            let (written, _) = file.write_all_at(bytes, offset).await;
            let _ = answer.send(written);
        }
        Operation::Read { offset, buffer, answer } => {
            // The slice keeps the kernel from using capacity beyond the requested length.
            let len = buffer.len();
            let (read, slice) = file.read_exact_at(buffer.slice(..len), offset).await;
            let _ = answer.send(read.map(|()| slice.into_inner()));
        }
        Operation::SyncData { answer } => {
            let _ = answer.send(file.sync_data().await);
        }
    }
}

/// Writes, syncs and reads back a file through the ring.
async fn probe(path: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    let probed = probe_file(tokio_uring::fs::File::from_std(file)).await;
    std::fs::remove_file(path)?;
    probed
}

async fn probe_file(file: tokio_uring::fs::File) -> io::Result<()> {
    let pattern = Bytes::from(vec![0xA5; PROBE_BYTES]);
    file.write_all_at(pattern.clone(), 0).await.0?;
    file.sync_data().await?;
    let (read, back) = file.read_exact_at(BytesMut::zeroed(PROBE_BYTES).slice(..PROBE_BYTES), 0).await;
    read?;
    match back.into_inner() == pattern {
        true => Ok(()),
        false => Err(io::Error::other("the ring read back other bytes than it wrote")),
    }
}

/// Adds a hint for operators to a refusal.
fn explain(refusal: &io::Error) -> io::Error {
    let hint = match refusal.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::PERM) => "EPERM: seccomp profile of the container, or sysctl kernel.io_uring_disabled",
        Some(Errno::NOSYS) => "ENOSYS: the kernel has no io_uring",
        Some(Errno::NOMEM) => "ENOMEM: raise the limit of locked memory, ulimit -l",
        _ => return io::Error::new(refusal.kind(), refusal.to_string()),
    };
    io::Error::new(refusal.kind(), hint)
}
