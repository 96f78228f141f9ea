//! Local memory of a warp: each lane its own bytes.

use crate::fault::{FaultKind, Trouble};

pub struct LocalMemory {
    bytes: Vec<u8>,
    written: Vec<bool>,
    /// Bytes of one lane.
    size: usize,
    checks: bool,
}

impl LocalMemory {
    pub fn new(size: u32, checks: bool) -> Self {
        let size = size as usize;
        LocalMemory { bytes: vec![0; 32 * size], written: vec![false; 32 * size], size, checks }
    }

    /// For the next block: nothing is written.
    pub fn reset(&mut self) {
        self.written.fill(false);
    }

    fn place(&self, lane: u32, at: u64, len: usize) -> Result<usize, Trouble> {
        let inside = usize::try_from(at).ok().filter(|at| *at <= self.size && len <= self.size - at);
        inside.map(|at| lane as usize * self.size + at).ok_or_else(|| {
            let message = format!("{len} bytes at {at} of the {} bytes of local memory", self.size);
            Trouble::new(FaultKind::IllegalAddress, message).lane(lane)
        })
    }

    pub fn load(&self, lane: u32, at: u64, len: usize) -> Result<&[u8], Trouble> {
        let place = self.place(lane, at, len)?;
        if self.checks && !self.written[place..place + len].iter().all(|w| *w) {
            let message = format!("a read of {len} bytes at {at} of local memory, which were never written");
            return Err(Trouble::new(FaultKind::Uninitialised, message).lane(lane));
        }
        Ok(&self.bytes[place..place + len])
    }

    pub fn store(&mut self, lane: u32, at: u64, len: usize) -> Result<&mut [u8], Trouble> {
        let place = self.place(lane, at, len)?;
        self.written[place..place + len].fill(true);
        Ok(&mut self.bytes[place..place + len])
    }
}
