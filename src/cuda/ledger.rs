//! Who holds how much device memory: live buffers by the name that they were made under.
//!
//! A name is set for a stretch of code ([`under`]), because buffers are made far from where it is known what they are for.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

thread_local! {
    static NAME: Cell<&'static str> = const { Cell::new("other") };
}

/// Runs `work`; buffers that this thread makes meanwhile are listed under `name`.
pub fn under<R>(name: &'static str, work: impl FnOnce() -> R) -> R {
    /// Puts the name back, also when `work` panics.
    struct Restore(&'static str);
    impl Drop for Restore {
        fn drop(&mut self) {
            NAME.set(self.0);
        }
    }
    let _restore = Restore(NAME.replace(name));
    work()
}

/// The name that is set.
pub fn name() -> &'static str {
    NAME.get()
}

#[derive(Default)]
struct Holder {
    buffers: usize,
    bytes: usize,
    /// Most bytes at any time.
    peak_bytes: usize,
}

/// The buffers of one device.
#[derive(Default)]
pub(super) struct Ledger {
    holders: Mutex<BTreeMap<&'static str, Holder>>,
}

/// A buffer's line in the ledger, crossed out when it is dropped.
pub(super) struct Entry {
    ledger: Arc<Ledger>,
    name: &'static str,
    bytes: usize,
}

impl Ledger {
    /// Lists a buffer under the name that is set.
    pub fn enter(self: &Arc<Self>, bytes: usize) -> Entry {
        let name = NAME.get();
        let mut holders = self.lock();
        let holder = holders.entry(name).or_default();
        holder.buffers += 1;
        holder.bytes += bytes;
        holder.peak_bytes = holder.peak_bytes.max(holder.bytes);
        Entry { ledger: self.clone(), name, bytes }
    }

    /// Nothing between lock and unlock can leave the ledger half changed.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Holder>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line a name, the largest first: buffers, bytes now, most bytes at any time.
    pub fn table(&self) -> String {
        let holders = self.lock();
        let mut rows: Vec<_> = holders.iter().collect();
        rows.sort_by_key(|(name, holder)| (std::cmp::Reverse(holder.peak_bytes), **name));
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max("device memory".len());
        let mut text = format!("{:width$} {:>8} {:>12} {:>12}", "device memory", "buffers", "now", "most");
        for (name, holder) in rows {
            let (now, most) = (mebibytes(holder.bytes), mebibytes(holder.peak_bytes));
            write!(text, "\n{name:width$} {:>8} {now:>12} {most:>12}", holder.buffers)
                .expect("a string takes everything");
        }
        text
    }
}

fn mebibytes(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(holder) = self.ledger.lock().get_mut(self.name) {
            holder.buffers -= 1;
            holder.bytes -= self.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_listed_under_the_innermost_name_until_they_are_dropped() {
        let ledger = Arc::new(Ledger::default());
        let (weights, moments) =
            under("weights", || (ledger.enter(3 << 20), under("moments", || ledger.enter(1 << 20))));
        let other = ledger.enter(5);
        drop(moments);
        drop(ledger.enter(1 << 19));
        let lines: Vec<String> =
            ledger.table().lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[1..], ["weights 1 3.0 MiB 3.0 MiB", "moments 0 0.0 MiB 1.0 MiB", "other 1 0.0 MiB 0.5 MiB"]);
        drop((weights, other));
        assert!(ledger.table().contains("weights"), "what was held stays in the table");
        let caught = std::panic::catch_unwind(|| under("lost", || panic!("on purpose")));
        assert!(caught.is_err() && NAME.get() == "other");
    }
}
