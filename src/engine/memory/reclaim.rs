//! Drops large values on a thread of their own, so that freeing millions of nodes never stalls the writer.
//!
//! Guarantees: handing over never blocks; what cannot be handed over is dropped in place. Non-goal: telling when the
//! memory is free again. The queue needs no limit: what waits in it is memory that was held before, and no
//! longer grows.

use std::sync::LazyLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// Values below this size are freed in place: that is cheaper than the hand-over and its wake-up.
pub const RECLAIM_BYTES_MIN: usize = 64 << 10;

type Garbage = Box<dyn Send>;

/// `None` if the thread could not be started.
static RECLAIMER: LazyLock<Option<Sender<Garbage>>> = LazyLock::new(|| {
    let (sender, receiver) = channel::<Garbage>();
    let drain = move || receiver.into_iter().for_each(drop);
    thread::Builder::new().name("reclaim".to_owned()).spawn(drain).ok().map(|_| sender)
});

/// Drops `value`, which holds about `bytes` bytes: elsewhere if it is large.
pub fn dispose<T: Send + 'static>(value: T, bytes: usize) {
    if bytes < RECLAIM_BYTES_MIN {
        return;
    }
    if let Some(reclaimer) = RECLAIMER.as_ref() {
        // A failed send gives the value back, and it is dropped here.
        let _ = reclaimer.send(Box::new(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reports the thread that drops it.
    struct Witness(Sender<thread::ThreadId>);

    impl Drop for Witness {
        fn drop(&mut self) {
            self.0.send(thread::current().id()).expect("the test listens");
        }
    }

    #[test]
    fn large_values_are_dropped_elsewhere_small_ones_here() {
        let (sender, receiver) = channel();
        dispose(Witness(sender.clone()), RECLAIM_BYTES_MIN - 1);
        assert_eq!(receiver.recv(), Ok(thread::current().id()));
        dispose(Witness(sender), RECLAIM_BYTES_MIN);
        assert_ne!(receiver.recv(), Ok(thread::current().id()));
    }
}
