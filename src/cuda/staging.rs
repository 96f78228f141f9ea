//! Writes of the host on their way to the device: a ring of page-locked memory, so that a write is a copy of its bytes to the
//! ring and the rest is the device's.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, result};

use super::CudaError;
use super::pinned::Pinned;

/// The ring is written part by part; an event tells when the device has read one.
const PARTS: usize = 4;
pub(super) const PART_BYTES: usize = 1 << 20;
/// Where a write begins is a multiple of this.
const ALIGNMENT: usize = 16;

/// A write is cut where a part ends, but not for pieces of less than this.
const PIECE_BYTES_MIN: usize = 64 << 10;

#[derive(Default)]
pub(super) struct Staging {
    /// Made at the first write.
    ring: Option<Ring>,
    /// Writes that did not go through the ring.
    pageable: u64,
}

struct Ring {
    memory: Pinned,
    /// The part that is being filled, and how far.
    part: usize,
    filled: usize,
    /// Recorded when a part was full.
    read: [Option<CudaEvent>; PARTS],
}

impl Staging {
    /// The largest write that goes through the ring: 16 Mi row indices, more than the keys of any decode step (256 sequences
    /// of 40,960). A larger one comes from a checkpoint. It fills the ring many times over, so the host would wait for the bus
    /// either way, and the driver has page-locked memory for this itself.
    pub const BYTES_MAX: usize = 64 << 20;

    /// Copies bytes to the device, whose turn comes in the stream. The host waits only where the ring is full of what the
    /// device has not read, and for writes beyond [`Self::BYTES_MAX`].
    ///
    /// # Safety
    /// So many bytes from `address` on are device memory that this thread may write.
    pub unsafe fn write(&mut self, address: u64, bytes: &[u8], stream: &Arc<CudaStream>) -> Result<(), CudaError> {
        let failed = || CudaError::driver(format!("copying {} bytes to the device", bytes.len()));
        if bytes.len() > Self::BYTES_MAX {
            self.pageable += 1;
            // Safety: the caller's promise; the driver takes pageable memory's bytes before it returns.
            return unsafe { result::memcpy_htod_async(address, bytes, stream.cu_stream()) }.map_err(failed());
        }
        let ring = match &mut self.ring {
            Some(ring) => ring,
            None => self.ring.insert(Ring::new(stream)?),
        };
        let mut done = 0;
        while done < bytes.len() {
            let range = ring.place(bytes.len() - done, stream)?;
            let piece = &bytes[done..done + range.len()];
            // Safety: the device has read what stood in this part, and what was written since lies before the range.
            unsafe { ring.memory.slice_mut(range.clone()) }.copy_from_slice(piece);
            // Safety: the range stays as it is until the device has read it; the caller promises the rest.
            unsafe { result::memcpy_htod_async(address + done as u64, ring.memory.slice(range), stream.cu_stream()) }
                .map_err(failed())?;
            done += piece.len();
        }
        Ok(())
    }

    /// Writes that did not go through the ring.
    pub fn pageable_count(&self) -> u64 {
        self.pageable
    }
}

impl Ring {
    fn new(stream: &Arc<CudaStream>) -> Result<Self, CudaError> {
        let memory = Pinned::new(stream, PARTS * PART_BYTES)?;
        Ok(Self { memory, part: 0, filled: 0, read: [const { None }; PARTS] })
    }

    /// Where the next of `bytes` bytes may be written, up to all of them: in this part or, if it is full, in the next, once the
    /// device has read that.
    fn place(&mut self, bytes: usize, stream: &CudaStream) -> Result<Range<usize>, CudaError> {
        if PART_BYTES - self.filled < bytes.min(PIECE_BYTES_MIN) {
            let failed = || CudaError::driver("turning the ring of writes");
            let event = stream.record_event(None).map_err(failed())?;
            self.read[self.part] = Some(event);
            self.part = (self.part + 1) % PARTS;
            self.filled = 0;
            if let Some(event) = self.read[self.part].take() {
                event.synchronize().map_err(failed())?;
            }
        }
        let start = self.part * PART_BYTES + self.filled;
        let bytes = bytes.min(PART_BYTES - self.filled);
        self.filled = (self.filled + bytes).next_multiple_of(ALIGNMENT);
        Ok(start..start + bytes)
    }
}
