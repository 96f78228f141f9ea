//! Faults: what went wrong on the device, as a kind for tests and a text for people.

use std::fmt;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// An address outside every allocation, or inside a freed one.
    IllegalAddress,
    Misaligned,
    /// A read of bytes that were never written.
    Uninitialised,
    /// Two threads of a block, or two blocks, access the same byte and nothing orders the accesses.
    Race,
    /// A barrier, shuffle or vote that some of its threads do not reach.
    Synchronisation,
    /// The block waits forever.
    Deadlock,
    Trap,
    /// A launch beyond the limits of the hardware.
    Launch,
    /// A use of an instruction that the emulator does not model.
    Unsupported,
}

/// A fault with its location; `Display` prints the full report.
#[derive(Clone, Debug)]
pub struct Fault {
    pub kind: FaultKind,
    /// Empty for operations of the host.
    pub kernel: String,
    /// Source file of the instruction; empty if unknown.
    pub file: Arc<str>,
    pub line: u32,
    pub block: [u32; 3],
    pub thread: [u32; 3],
    pub address: Option<u64>,
    /// What happened, and which allocation is involved.
    pub message: String,
}

impl Fault {
    /// A fault in an operation of the host.
    pub fn host(kind: FaultKind, address: Option<u64>, message: impl Into<String>) -> Self {
        let (kernel, file) = (String::new(), Arc::from(""));
        Fault { kind, kernel, file, line: 0, block: [0; 3], thread: [0; 3], address, message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        if let Some(address) = self.address {
            write!(f, "\n  address {address:#x}")?;
        }
        if !self.kernel.is_empty() {
            write!(f, "\n  in kernel {}", self.kernel)?;
            if self.line > 0 {
                write!(f, " at {}:{}", self.file, self.line)?;
            }
            let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
            write!(f, "\n  block ({bx}, {by}, {bz}), thread ({tx}, {ty}, {tz})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

/// A fault of one lane, before its kernel, line and block are filled in.
#[derive(Debug)]
pub struct LaneFault {
    pub kind: FaultKind,
    pub lane: u32,
    pub address: Option<u64>,
    pub message: String,
}

impl LaneFault {
    #[cold]
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        LaneFault { kind, lane: 0, address: None, message: message.into() }
    }

    #[cold]
    pub fn at(mut self, lane: u32, address: u64) -> Self {
        (self.lane, self.address) = (lane, Some(address));
        self
    }

    #[cold]
    pub fn lane(mut self, lane: u32) -> Self {
        self.lane = lane;
        self
    }
}
