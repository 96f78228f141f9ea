//! How often the host waited for the device: each time the device idles from its last kernel to the next launch.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counts waits for work that was asked for since the wait before.
#[derive(Default)]
pub(super) struct RoundTrips {
    asked: AtomicBool,
    count: AtomicU64,
}

impl RoundTrips {
    /// The device was given work.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// The host waits.
    pub fn wait(&self) {
        if self.asked.swap(false, Ordering::Relaxed) {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}
