//! Exact counts of what kernels did, as input for a roofline.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Counts of one kernel over all its launches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelCounters {
    pub launches: u64,
    /// Instructions, each counted once for its warp.
    pub warp_instructions: u64,
    /// Bytes that threads load or store in global memory, and the 32-byte sectors that warps touch for them.
    pub load_bytes: u64,
    pub load_sectors: u64,
    pub store_bytes: u64,
    pub store_sectors: u64,
    /// Extra passes over shared memory, needed when lanes want different words of the same bank.
    pub bank_conflicts: u64,
    pub mma: u64,
    /// Branches at which the lanes of a warp diverged.
    pub divergent_branches: u64,
    /// Instructions that load from global memory, each counted once for its warp: bytes over this is how wide they are.
    pub load_instructions: u64,
}

impl KernelCounters {
    /// In the order of the fields.
    fn values(&self) -> [u64; 10] {
        [
            self.launches,
            self.warp_instructions,
            self.load_bytes,
            self.load_sectors,
            self.store_bytes,
            self.store_sectors,
            self.bank_conflicts,
            self.mma,
            self.divergent_branches,
            self.load_instructions,
        ]
    }

    fn from_values(values: [u64; 10]) -> Self {
        let [
            launches,
            warp_instructions,
            load_bytes,
            load_sectors,
            store_bytes,
            store_sectors,
            bank_conflicts,
            mma,
            divergent_branches,
            load_instructions,
        ] = values;
        Self {
            launches,
            warp_instructions,
            load_bytes,
            load_sectors,
            store_bytes,
            store_sectors,
            bank_conflicts,
            mma,
            divergent_branches,
            load_instructions,
        }
    }

    fn add(&mut self, other: &KernelCounters) {
        let (own, more) = (self.values(), other.values());
        *self = Self::from_values(std::array::from_fn(|i| own[i] + more[i]));
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

    /// Kernels in order of their names.
    pub fn kernels(&self) -> impl Iterator<Item = (&str, &KernelCounters)> {
        self.0.iter().map(|(name, counts)| (name.as_str(), counts))
    }

    /// The text that [`Counters::parse`] reads; the library exports counters in this form.
    pub(crate) fn to_text(&self) -> String {
        let line = |(name, counts): (&String, &KernelCounters)| {
            counts.values().iter().fold(name.clone(), |line, value| format!("{line} {value}")) + "\n"
        };
        self.0.iter().map(line).collect()
    }

    /// `None` when [`Counters::to_text`] did not write the text.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut counters = Self::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            let name = words.next()?;
            let values: Vec<u64> = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
            counters.add(name, &KernelCounters::from_values(values.try_into().ok()?));
        }
        Some(counters)
    }

    pub fn kernel(&self, name: &str) -> Option<&KernelCounters> {
        self.0.get(name)
    }

    /// Total of all kernels.
    pub fn warp_instructions(&self) -> u64 {
        self.0.values().map(|k| k.warp_instructions).sum()
    }

    /// A table with one line per kernel; empty when no kernel ran.
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
            "loads",
        ];
        let width = self.0.keys().map(String::len).max().unwrap_or(0).max(6);
        let mut table = format!("{:width$}", "kernel");
        columns.iter().for_each(|c| write!(table, " {c:>14}").expect("writing to a string cannot fail"));
        for (name, k) in &self.0 {
            write!(table, "\n{name:width$}").expect("writing to a string cannot fail");
            k.values().iter().for_each(|v| write!(table, " {v:>14}").expect("writing to a string cannot fail"));
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
        let read = Counters::parse(&counters.to_text()).unwrap();
        assert_eq!(read.kernel("norm"), counters.kernel("norm"));
        assert_eq!(read.kernels().count(), 2);
        assert!(Counters::parse("norm 1 2").is_none());
    }
}
