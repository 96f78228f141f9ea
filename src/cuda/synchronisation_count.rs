//! How often the host waited for the device. After each wait the device idles until the next launch arrives.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counts the waits that had something to wait for: at least one command since the previous wait.
#[derive(Default)]
pub(super) struct SynchronisationCount {
    has_commands: AtomicBool,
    count: AtomicU64,
}

impl SynchronisationCount {
    /// A command was sent to the device.
    pub fn command_sent(&self) {
        self.has_commands.store(true, Ordering::Relaxed);
    }

    /// The host is about to wait.
    pub fn host_waits(&self) {
        if self.has_commands.swap(false, Ordering::Relaxed) {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}
