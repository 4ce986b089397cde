//! Who watches which key (WATCH): a touched key marks its watchers.

use hashbrown::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// Set once any key watched by its owner was touched.
pub type Touched = Arc<AtomicBool>;

/// All watched keys. Under the writer lock.
#[derive(Debug, Default)]
pub struct WatchTable {
    keys: HashMap<Vec<u8>, Vec<Weak<AtomicBool>>>,
}

impl WatchTable {
    /// `flag` will be set when `key` is touched, as long as its owner keeps it.
    pub fn watch(&mut self, key: &[u8], flag: &Touched) {
        let watchers = self.keys.entry_ref(key).or_default();
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(Arc::downgrade(flag));
    }

    /// Marks the watchers of a key and forgets them.
    pub fn touch(&mut self, key: &[u8]) {
        if self.keys.is_empty() {
            return;
        }
        for watcher in self.keys.remove(key).into_iter().flatten().filter_map(|watcher| watcher.upgrade()) {
            watcher.store(true, Ordering::Release);
        }
    }

    /// Marks every watcher.
    pub fn touch_all(&mut self) {
        for watcher in self.keys.drain().flat_map(|(_, watchers)| watchers).filter_map(|watcher| watcher.upgrade()) {
            watcher.store(true, Ordering::Release);
        }
    }

    /// Forgets the keys whose watchers are all gone.
    pub fn sweep(&mut self) {
        self.keys.retain(|_, watchers| watchers.iter().any(|watcher| watcher.strong_count() > 0));
    }

    /// The keys that anybody watches.
    #[must_use]
    pub fn watched(&self) -> Vec<Vec<u8>> {
        self.keys.keys().cloned().collect()
    }
}
