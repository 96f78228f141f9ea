//! How much device memory each part of the program has allocated: live buffers by the label that they were created under.
//!
//! A label applies to a region of code ([`labelled`]), because the code that creates a buffer seldom knows what it is for.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

thread_local! {
    static LABEL: Cell<&'static str> = const { Cell::new("other") };
}

/// Runs `work`; buffers that this thread creates in it are counted under `label`.
pub fn labelled<R>(label: &'static str, work: impl FnOnce() -> R) -> R {
    /// Restores the previous label, also after a panic.
    struct Restore(&'static str);
    impl Drop for Restore {
        fn drop(&mut self) {
            LABEL.set(self.0);
        }
    }
    let _restore = Restore(LABEL.replace(label));
    work()
}

/// The current label of this thread.
pub fn label() -> &'static str {
    LABEL.get()
}

#[derive(Default)]
struct Usage {
    buffers: usize,
    bytes: usize,
    peak_bytes: usize,
}

/// The allocations of one device, by label.
#[derive(Default)]
pub(super) struct AllocationStatistics {
    by_label: Mutex<BTreeMap<&'static str, Usage>>,
}

/// One buffer in the statistics, removed when this is dropped.
pub(super) struct AllocationRecord {
    statistics: Arc<AllocationStatistics>,
    label: &'static str,
    bytes: usize,
}

impl AllocationStatistics {
    /// Counts a buffer under the current label.
    pub fn record(self: &Arc<Self>, bytes: usize) -> AllocationRecord {
        let label = label();
        let mut by_label = self.lock();
        let usage = by_label.entry(label).or_default();
        usage.buffers += 1;
        usage.bytes += bytes;
        usage.peak_bytes = usage.peak_bytes.max(usage.bytes);
        AllocationRecord { statistics: self.clone(), label, bytes }
    }

    /// A panic while the lock is held cannot leave the map half changed, so a poisoned lock is safe to use.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Usage>> {
        self.by_label.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One line per label, the largest first: buffers, bytes now, and the peak.
    pub fn table(&self) -> String {
        let by_label = self.lock();
        let mut rows: Vec<_> = by_label.iter().collect();
        rows.sort_by_key(|(label, usage)| (std::cmp::Reverse(usage.peak_bytes), **label));
        let width = rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0).max("device memory".len());
        let mut text = format!("{:width$} {:>8} {:>12} {:>12}", "device memory", "buffers", "now", "peak");
        for (label, usage) in rows {
            let (now, peak) = (mebibytes(usage.bytes), mebibytes(usage.peak_bytes));
            write!(text, "\n{label:width$} {:>8} {now:>12} {peak:>12}", usage.buffers)
                .expect("writing to a string never fails");
        }
        text
    }
}

fn mebibytes(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

impl Drop for AllocationRecord {
    fn drop(&mut self) {
        if let Some(usage) = self.statistics.lock().get_mut(self.label) {
            usage.buffers -= 1;
            usage.bytes -= self.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_counted_under_the_innermost_label_until_they_are_dropped() {
        let statistics = Arc::new(AllocationStatistics::default());
        let (weights, moments) =
            labelled("weights", || (statistics.record(3 << 20), labelled("moments", || statistics.record(1 << 20))));
        let other = statistics.record(5);
        drop(moments);
        drop(statistics.record(1 << 19));
        let lines: Vec<String> =
            statistics.table().lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[1..], ["weights 1 3.0 MiB 3.0 MiB", "moments 0 0.0 MiB 1.0 MiB", "other 1 0.0 MiB 0.5 MiB"]);
        drop((weights, other));
        assert!(statistics.table().contains("weights"), "a label keeps its peak in the table");
        let caught = std::panic::catch_unwind(|| labelled("lost", || panic!("on purpose")));
        assert!(caught.is_err() && label() == "other");
    }
}
