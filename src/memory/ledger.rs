//! The ledger of one device: live buffers by label, and the peak of every phase.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::bytes_text;
use super::phase::{Phase, label, phase};

/// What there was when a phase needed most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peak {
    /// Of all buffers
    pub bytes: usize,
    /// By label; none is 0
    pub labels: BTreeMap<&'static str, usize>,
}

#[derive(Default)]
struct Usage {
    buffers: usize,
    bytes: usize,
    peak_bytes: usize,
}

#[derive(Default)]
struct Books {
    by_label: BTreeMap<&'static str, Usage>,
    bytes: usize,
    peaks: BTreeMap<Phase, Peak>,
}

impl Books {
    /// Takes over that this thread's phase has come to what there is now.
    fn mark(&mut self) {
        let peak = self.peaks.entry(phase()).or_default();
        if self.bytes > peak.bytes {
            let held = self.by_label.iter().filter(|(_, usage)| usage.bytes > 0);
            *peak = Peak { bytes: self.bytes, labels: held.map(|(label, usage)| (*label, usage.bytes)).collect() };
        }
    }
}

/// Every buffer that a device has handed out.
#[derive(Default)]
pub struct Ledger(Mutex<Books>);

/// One buffer in the books, until this is dropped.
pub struct Entry {
    ledger: Arc<Ledger>,
    label: &'static str,
    bytes: usize,
}

impl Ledger {
    /// Enters a buffer under this thread's label.
    pub fn enter(self: &Arc<Self>, bytes: usize) -> Entry {
        let label = label();
        let mut books = self.lock();
        let usage = books.by_label.entry(label).or_default();
        usage.buffers += 1;
        usage.bytes += bytes;
        usage.peak_bytes = usage.peak_bytes.max(usage.bytes);
        books.bytes += bytes;
        books.mark();
        Entry { ledger: self.clone(), label, bytes }
    }

    /// Notes what there is at the beginning of a phase: one that creates no buffer has a peak too.
    pub fn mark(&self) {
        self.lock().mark();
    }

    /// The peak of every phase that there was.
    pub fn peaks(&self) -> BTreeMap<Phase, Peak> {
        self.lock().peaks.clone()
    }

    /// Bytes of all live buffers.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Bytes of the live buffers under a label.
    pub fn held(&self, label: &str) -> usize {
        self.lock().by_label.get(label).map_or(0, |usage| usage.bytes)
    }

    /// Forgets the peaks, not the buffers: for what several runs in one process need each.
    pub fn forget_peaks(&self) {
        self.lock().peaks.clear();
    }

    /// A panic while the lock is held cannot leave the books half changed, so a poisoned lock is safe to use.
    fn lock(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One line per label, the largest first: buffers, bytes now, and the peak.
    pub fn table(&self) -> String {
        let books = self.lock();
        let mut rows: Vec<_> = books.by_label.iter().collect();
        rows.sort_by_key(|(label, usage)| (std::cmp::Reverse(usage.peak_bytes), **label));
        let width = rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0).max("device memory".len());
        let mut text = format!("{:width$} {:>8} {:>12} {:>12}", "device memory", "buffers", "now", "peak");
        for (label, usage) in rows {
            let (now, peak) = (bytes_text(usage.bytes), bytes_text(usage.peak_bytes));
            write!(text, "\n{label:width$} {:>8} {now:>12} {peak:>12}", usage.buffers)
                .expect("writing to a string never fails");
        }
        text
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut books = self.ledger.lock();
        books.bytes -= self.bytes;
        if let Some(usage) = books.by_label.get_mut(self.label) {
            usage.buffers -= 1;
            usage.bytes -= self.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{during, labelled};
    use super::*;

    #[test]
    fn buffers_are_counted_under_the_innermost_label_until_they_are_dropped() {
        let ledger = Arc::new(Ledger::default());
        let (weights, moments) =
            labelled("weights", || (ledger.enter(3 << 20), labelled("moments", || ledger.enter(1 << 20))));
        let other = ledger.enter(5);
        drop(moments);
        drop(ledger.enter(1 << 19));
        let lines: Vec<String> =
            ledger.table().lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[1..], ["weights 1 3.0 MiB 3.0 MiB", "moments 0 0 B 1.0 MiB", "other 1 5 B 512.0 KiB"]);
        assert_eq!(ledger.bytes(), (3 << 20) + 5);
        drop((weights, other));
        assert!(ledger.table().contains("weights"), "a label keeps its peak in the table");
    }

    #[test]
    fn a_phase_has_the_peak_of_what_lived_in_it_and_what_it_was_for() {
        let ledger = Arc::new(Ledger::default());
        let kept = labelled("weights", || ledger.enter(100));
        during(Phase::Forward, || {
            ledger.mark();
            drop(labelled("scratch", || ledger.enter(30)));
            drop(labelled("logits", || ledger.enter(20)));
        });
        during(Phase::Update, || ledger.mark());
        let peaks = ledger.peaks();
        let peak = |bytes, labels: &[_]| Peak { bytes, labels: labels.iter().copied().collect() };
        assert_eq!(peaks[&Phase::Load], peak(100, &[("weights", 100)]));
        assert_eq!(peaks[&Phase::Forward], peak(130, &[("weights", 100), ("scratch", 30)]));
        assert_eq!(peaks[&Phase::Update], peak(100, &[("weights", 100)]));
        assert!(!peaks.contains_key(&Phase::Save));
        drop(kept);
        ledger.forget_peaks();
        assert!(ledger.peaks().is_empty() && ledger.bytes() == 0);
    }
}
