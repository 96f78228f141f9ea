//! Writes from the host to the device, through a ring of page-locked memory: the host only copies the bytes into the ring, and
//! the device does the rest.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, result};

use super::CudaError;
use super::pinned::Pinned;

/// The ring is written part by part; an event says when the device has read one.
const PARTS: usize = 4;
pub(super) const PART_BYTES: usize = 1 << 20;
/// Each write starts at a multiple of this.
const ALIGNMENT: usize = 16;

/// A write may be split at the end of a part, but not into pieces smaller than this.
const PIECE_BYTES_MIN: usize = 64 << 10;

#[derive(Default)]
pub(super) struct Staging {
    /// Allocated by the first write.
    ring: Option<Ring>,
    /// Writes that did not go through the ring.
    pageable: u64,
}

struct Ring {
    memory: Pinned,
    /// The part that is being filled, and how many of its bytes are used.
    part: usize,
    filled: usize,
    /// Each recorded when its part was full.
    read: [Option<CudaEvent>; PARTS],
}

impl Staging {
    /// The largest write that goes through the ring: 16 Mi row indices, more than any decode step has keys (256 sequences of
    /// 40,960). Larger writes only come from checkpoints. They would fill the ring many times, so the host would wait for the
    /// bus in either case, and the driver has page-locked memory of its own.
    pub const BYTES_MAX: usize = 64 << 20;

    /// Copies bytes to the device, in the order of the stream. The host waits only if the ring is full of bytes that the device
    /// has not read yet, and for writes beyond [`Self::BYTES_MAX`].
    ///
    /// # Safety
    /// `bytes.len()` bytes from `address` on are device memory that this thread may write.
    pub unsafe fn write(&mut self, address: u64, bytes: &[u8], stream: &Arc<CudaStream>) -> Result<(), CudaError> {
        let failed = || CudaError::driver(format!("copying {} bytes to the device", bytes.len()));
        if bytes.len() > Self::BYTES_MAX {
            self.pageable += 1;
            // Safety: the caller's promise; the driver copies pageable memory before it returns.
            return unsafe { result::memcpy_htod_async(address, bytes, stream.cu_stream()) }.map_err(failed());
        }
        let ring = match &mut self.ring {
            Some(ring) => ring,
            None => self.ring.insert(Ring::new(stream)?),
        };
        let mut done = 0;
        while done < bytes.len() {
            let range = ring.reserve(bytes.len() - done, stream)?;
            let piece = &bytes[done..done + range.len()];
            // Safety: the device has read the old contents of this part, and all newer writes end before the range.
            unsafe { ring.memory.slice_mut(range.clone()) }.copy_from_slice(piece);
            // Safety: the range is not overwritten before the device has read it; the caller promises the rest.
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

    /// Reserves a range for the next bytes of a write, at most `bytes`: in this part or, if it is full, in the next one, after
    /// the device has read that.
    fn reserve(&mut self, bytes: usize, stream: &CudaStream) -> Result<Range<usize>, CudaError> {
        if PART_BYTES - self.filled < bytes.min(PIECE_BYTES_MIN) {
            let failed = || CudaError::driver("moving on to the next part of the staging ring");
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
