//! What went wrong on the device, for a person and for a test.

use std::fmt;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Outside of every allocation, or of one that was freed.
    IllegalAddress,
    Misaligned,
    /// A read of bytes that nobody has written.
    Uninitialised,
    /// Two threads of a block, or two blocks, whose accesses are not ordered.
    Race,
    /// A barrier, shuffle or vote that not all of its threads reach.
    Synchronisation,
    /// Waits for ever.
    Deadlock,
    Trap,
    /// A launch that the hardware refuses.
    Launch,
    /// An instruction used in a way that the emulator does not model.
    Unsupported,
}

/// A report; its `Display` is what a person reads.
#[derive(Clone, Debug)]
pub struct Fault {
    pub kind: FaultKind,
    /// Empty for what the host does.
    pub kernel: String,
    /// Source of the instruction; empty where there is none.
    pub file: Arc<str>,
    pub line: u32,
    pub block: [u32; 3],
    pub thread: [u32; 3],
    pub address: Option<u64>,
    /// What happened, with the allocation concerned.
    pub message: String,
}

impl Fault {
    /// A fault of a call of the host.
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

/// A fault before anybody knows where: a lane of the warp and what it did.
#[derive(Debug)]
pub struct Trouble {
    pub kind: FaultKind,
    pub lane: u32,
    pub address: Option<u64>,
    pub message: String,
}

impl Trouble {
    #[cold]
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Trouble { kind, lane: 0, address: None, message: message.into() }
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
