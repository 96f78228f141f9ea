//! What kernels did, counted exactly: the ground of a roofline.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Counts of one kernel over all its launches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelCounters {
    pub launches: u64,
    /// Instructions, each counted once for its warp.
    pub warp_instructions: u64,
    /// Bytes that threads asked of global memory, and 32-byte sectors that warps touched.
    pub load_bytes: u64,
    pub load_sectors: u64,
    pub store_bytes: u64,
    pub store_sectors: u64,
    /// Passes over shared memory beyond the first that an access needs because lanes want other words of the same bank.
    pub bank_conflicts: u64,
    pub mma: u64,
    /// Branches that parted the lanes of a warp.
    pub divergent_branches: u64,
}

impl KernelCounters {
    fn add(&mut self, other: &KernelCounters) {
        self.launches += other.launches;
        self.warp_instructions += other.warp_instructions;
        self.load_bytes += other.load_bytes;
        self.load_sectors += other.load_sectors;
        self.store_bytes += other.store_bytes;
        self.store_sectors += other.store_sectors;
        self.bank_conflicts += other.bank_conflicts;
        self.mma += other.mma;
        self.divergent_branches += other.divergent_branches;
    }
}

/// Counters by kernel.
#[derive(Clone, Debug, Default)]
pub struct Counters(BTreeMap<String, KernelCounters>);

impl Counters {
    pub const NONE: Counters = Counters(BTreeMap::new());

    pub fn add(&mut self, kernel: &str, counts: &KernelCounters) {
        self.0.entry(kernel.to_owned()).or_default().add(counts);
    }

    pub fn merge(&mut self, other: &Counters) {
        other.0.iter().for_each(|(kernel, counts)| self.add(kernel, counts));
    }

    pub fn kernel(&self, name: &str) -> Option<&KernelCounters> {
        self.0.get(name)
    }

    /// Of all kernels.
    pub fn warp_instructions(&self) -> u64 {
        self.0.values().map(|k| k.warp_instructions).sum()
    }

    /// A table, a line for each kernel; empty when nothing ran.
    pub fn table(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let columns = [
            "launches",
            "warp instr.",
            "load bytes",
            "sectors",
            "store bytes",
            "sectors",
            "bank conflicts",
            "mma",
            "divergent",
        ];
        let width = self.0.keys().map(String::len).max().unwrap_or(0).max(6);
        let mut table = format!("{:width$}", "kernel");
        columns.iter().for_each(|c| write!(table, " {c:>14}").expect("a string takes everything"));
        for (name, k) in &self.0 {
            let values = [
                k.launches,
                k.warp_instructions,
                k.load_bytes,
                k.load_sectors,
                k.store_bytes,
                k.store_sectors,
                k.bank_conflicts,
                k.mma,
                k.divergent_branches,
            ];
            write!(table, "\n{name:width$}").expect("a string takes everything");
            values.iter().for_each(|v| write!(table, " {v:>14}").expect("a string takes everything"));
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launches_of_a_kernel_add_up() {
        let mut counters = Counters::default();
        assert_eq!(counters.table(), "");
        let counts = KernelCounters { launches: 1, warp_instructions: 10, load_sectors: 4, ..Default::default() };
        counters.add("norm", &counts);
        counters.add("norm", &counts);
        counters.add("loss", &KernelCounters { launches: 1, warp_instructions: 5, ..Default::default() });
        assert_eq!(counters.kernel("norm").unwrap().load_sectors, 8);
        assert_eq!(counters.warp_instructions(), 25);
        let table = counters.table();
        let norm: Vec<&str> = table.lines().find(|l| l.starts_with("norm")).unwrap().split_whitespace().collect();
        assert_eq!(norm[..6], ["norm", "2", "20", "0", "8", "0"]);
    }
}
