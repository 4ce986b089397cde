//! The keys that clients watch (WATCH). Touching a key marks its watchers.

use hashbrown::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// Flag of one client: set once any key that the client watches was touched.
pub type Touched = Arc<AtomicBool>;

/// All watched keys, under the writer lock.
#[derive(Debug, Default)]
pub struct WatchTable {
    keys: HashMap<Vec<u8>, Vec<Weak<AtomicBool>>>,
}

impl WatchTable {
    /// Adds a watcher of `key`: touching the key sets `flag`, if its owner still holds the flag then.
    pub fn watch(&mut self, key: &[u8], flag: &Touched) {
        let watchers = self.keys.entry_ref(key).or_default();
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(Arc::downgrade(flag));
    }

    /// Sets the flags of a key's watchers and removes the watchers.
    pub fn touch(&mut self, key: &[u8]) {
        if self.keys.is_empty() {
            return;
        }
        for watcher in self.keys.remove(key).into_iter().flatten().filter_map(|watcher| watcher.upgrade()) {
            watcher.store(true, Ordering::Release);
        }
    }

    /// Sets the flags of all watchers and removes them.
    pub fn touch_all(&mut self) {
        for watcher in self.keys.drain().flat_map(|(_, watchers)| watchers).filter_map(|watcher| watcher.upgrade()) {
            watcher.store(true, Ordering::Release);
        }
    }

    /// Removes the keys whose watchers have all dropped their flags.
    pub fn sweep(&mut self) {
        self.keys.retain(|_, watchers| watchers.iter().any(|watcher| watcher.strong_count() > 0));
    }

    /// Returns the watched keys.
    #[must_use]
    pub fn watched(&self) -> Vec<Vec<u8>> {
        self.keys.keys().cloned().collect()
    }
}
