//! Drops large values on a thread of its own, so that freeing millions of nodes never stalls the writer.
//!
//! Guarantees: handing a value over never blocks; a value that cannot be handed over is dropped in place. Non-goal:
//! reporting when the memory is free. The queue needs no limit, because a waiting value only holds memory that it held
//! before, and does not grow.

use std::sync::LazyLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// Values below this size are dropped in place, because that costs less than the hand-over and the wake-up of the
/// thread.
const RECLAIM_BYTES_MIN: usize = 64 << 10;

type Garbage = Box<dyn Send>;

/// Queue of the reclaiming thread; `None` if the thread could not be started.
static RECLAIMER: LazyLock<Option<Sender<Garbage>>> = LazyLock::new(|| {
    let (sender, receiver) = channel::<Garbage>();
    let drain = move || receiver.into_iter().for_each(drop);
    thread::Builder::new().name("reclaim".to_owned()).spawn(drain).ok().map(|_| sender)
});

/// Drops `value`, which holds about `bytes` bytes. From [`RECLAIM_BYTES_MIN`] on the value is dropped on the reclaiming
/// thread.
pub(crate) fn dispose<T: Send + 'static>(value: T, bytes: usize) {
    if bytes < RECLAIM_BYTES_MIN {
        return;
    }
    if let Some(reclaimer) = RECLAIMER.as_ref() {
        // A failed send returns the value, which is then dropped here.
        let _ = reclaimer.send(Box::new(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reports the thread on which it is dropped.
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
