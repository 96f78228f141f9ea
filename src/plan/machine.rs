//! What a plan is made for: a card, or the CPU of a machine.

use crate::ops::Cpu;
use crate::tensor::Device;

/// A card by the name that people call it by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Card {
    pub name: &'static str,
    /// In all, as the driver says it
    pub memory_bytes: usize,
    /// Dense bf16 matmuls with f32 sums, by the vendor's data sheet
    pub teraflops: f64,
    /// By the vendor's data sheet
    pub gigabytes_per_s: f64,
}

const GIB: usize = 1 << 30;

/// The cards that have a name here. A driver keeps a part of a card's memory to itself: what is left is rounded down.
pub const CARDS: &[Card] = &[
    Card { name: "rtx-3090", memory_bytes: 23 * GIB + GIB / 2, teraflops: 71.0, gigabytes_per_s: 936.0 },
    Card { name: "rtx-4090", memory_bytes: 23 * GIB + GIB / 2, teraflops: 165.0, gigabytes_per_s: 1008.0 },
    Card { name: "rtx-5090", memory_bytes: 31 * GIB + GIB / 2, teraflops: 209.0, gigabytes_per_s: 1792.0 },
    Card { name: "a100-40", memory_bytes: 39 * GIB + GIB / 2, teraflops: 312.0, gigabytes_per_s: 1555.0 },
    Card { name: "l40s", memory_bytes: 44 * GIB + GIB / 2, teraflops: 362.0, gigabytes_per_s: 864.0 },
    Card { name: "a100-80", memory_bytes: 79 * GIB + GIB / 4, teraflops: 312.0, gigabytes_per_s: 2039.0 },
    Card { name: "h100", memory_bytes: 79 * GIB + GIB / 4, teraflops: 989.0, gigabytes_per_s: 3350.0 },
    Card { name: "h200", memory_bytes: 139 * GIB + GIB / 2, teraflops: 989.0, gigabytes_per_s: 4800.0 },
];

/// What the driver, its context and the code of the kernels take of a card, beside what the program allocates: an estimate.
pub const CONTEXT_BYTES: usize = 600 << 20;

/// Where a run is to fit.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    pub name: String,
    /// A run may hold so many bytes.
    pub memory_bytes: usize,
    pub kind: Kind,
}

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Cpu,
    Cuda,
}

impl Machine {
    /// A card of the table.
    pub fn card(card: &Card) -> Self {
        let memory_bytes = card.memory_bytes - CONTEXT_BYTES;
        Self { name: card.name.into(), memory_bytes, kind: Kind::Cuda }
    }

    /// A card of which only the memory is known, all of it the run's.
    pub fn cuda(name: impl Into<String>, memory_bytes: usize) -> Self {
        Self { name: name.into(), memory_bytes, kind: Kind::Cuda }
    }

    /// The CPU of this machine, with the memory that a run may hold, or with so much.
    pub fn cpu(memory_bytes: Option<usize>) -> Self {
        let memory_bytes = memory_bytes.or_else(|| Cpu.memory_bytes()).unwrap_or(usize::MAX);
        Self { name: "this machine's CPU".into(), memory_bytes, kind: Kind::Cpu }
    }

    /// The machine of a name: `cpu` or a card.
    pub fn named(name: &str) -> Option<Self> {
        if name == "cpu" {
            return Some(Self::cpu(None));
        }
        CARDS.iter().find(|card| card.name == name).map(Self::card)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_have_names() {
        assert_eq!(Machine::named("h100").unwrap().kind, Kind::Cuda);
        assert_eq!(Machine::named("cpu").unwrap().kind, Kind::Cpu);
        assert_eq!(Machine::named("abacus"), None);
        assert!(CARDS.windows(2).all(|pair| pair[0].memory_bytes <= pair[1].memory_bytes));
    }
}
