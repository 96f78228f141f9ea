//! Local memory of a warp; every lane has its own bytes.

use crate::fault::{FaultKind, LaneFault};

pub struct LocalMemory {
    bytes: Vec<u8>,
    written: Vec<bool>,
    /// Bytes per lane.
    size: usize,
    checks: bool,
}

impl LocalMemory {
    pub fn new(size: u32, checks: bool) -> Self {
        let size = size as usize;
        LocalMemory { bytes: vec![0; 32 * size], written: vec![false; 32 * size], size, checks }
    }

    /// Prepares for the next block: all bytes are uninitialised.
    pub fn reset(&mut self) {
        self.written.fill(false);
    }

    fn index(&self, lane: u32, at: u64, len: usize) -> Result<usize, LaneFault> {
        let inside = usize::try_from(at).ok().filter(|at| *at <= self.size && len <= self.size - at);
        inside.map(|at| lane as usize * self.size + at).ok_or_else(|| {
            let message = format!("{len} bytes at {at} of the {} bytes of local memory", self.size);
            LaneFault::new(FaultKind::IllegalAddress, message).lane(lane)
        })
    }

    pub fn load(&self, lane: u32, at: u64, len: usize) -> Result<&[u8], LaneFault> {
        let start = self.index(lane, at, len)?;
        if self.checks && !self.written[start..start + len].iter().all(|w| *w) {
            let message = format!("a read of {len} bytes at {at} of local memory, which were never written");
            return Err(LaneFault::new(FaultKind::Uninitialised, message).lane(lane));
        }
        Ok(&self.bytes[start..start + len])
    }

    pub fn store(&mut self, lane: u32, at: u64, len: usize) -> Result<&mut [u8], LaneFault> {
        let start = self.index(lane, at, len)?;
        self.written[start..start + len].fill(true);
        Ok(&mut self.bytes[start..start + len])
    }
}
