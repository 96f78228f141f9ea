//! Writes of the host on their way to the device: a ring of page-locked memory, so that a write is a copy of its bytes to the
//! ring and the rest is the device's.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, result};

use super::CudaError;
use super::pinned::Pinned;

/// The ring is written part by part; an event tells when the device has read one.
const PARTS: usize = 4;
const PART_BYTES: usize = 1 << 20;
/// Where a write begins is a multiple of this.
const ALIGNMENT: usize = 16;

#[derive(Default)]
pub(super) struct Staging {
    /// Made at the first write.
    ring: Option<Ring>,
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
    /// The largest write; there is no haste about larger ones.
    pub const BYTES_MAX: usize = PART_BYTES / 4;

    /// Copies bytes to the device, whose turn comes in the stream.
    ///
    /// # Safety
    /// So many bytes from `address` on are device memory that this thread may write.
    pub unsafe fn write(&mut self, address: u64, bytes: &[u8], stream: &CudaStream) -> Result<(), CudaError> {
        let ring = match &mut self.ring {
            Some(ring) => ring,
            None => self.ring.insert(Ring::new(stream.context())?),
        };
        let place = ring.place(bytes.len(), stream)?;
        let range = place..place + bytes.len();
        // Safety: the device has read what stood in this part, and what was written since lies before `place`.
        unsafe { ring.memory.slice_mut(range.clone()) }.copy_from_slice(bytes);
        // Safety: the stretch stays as it is until the device has read it; the caller promises the rest.
        unsafe { result::memcpy_htod_async(address, ring.memory.slice(range), stream.cu_stream()) }
            .map_err(CudaError::driver(format!("copying {} bytes to the device", bytes.len())))
    }
}

impl Ring {
    fn new(context: &Arc<CudaContext>) -> Result<Self, CudaError> {
        let memory = Pinned::new(context, PARTS * PART_BYTES)?;
        Ok(Self { memory, part: 0, filled: 0, read: [const { None }; PARTS] })
    }

    /// Where the next so many bytes may be written: in the next part if this one is full, once the device has read that.
    fn place(&mut self, bytes: usize, stream: &CudaStream) -> Result<usize, CudaError> {
        assert!(bytes <= Staging::BYTES_MAX);
        if self.filled + bytes > PART_BYTES {
            let failed = || CudaError::driver("turning the ring of writes");
            let event = stream.record_event(None).map_err(failed())?;
            self.read[self.part] = Some(event);
            self.part = (self.part + 1) % PARTS;
            self.filled = 0;
            if let Some(event) = self.read[self.part].take() {
                event.synchronize().map_err(failed())?;
            }
        }
        let place = self.part * PART_BYTES + self.filled;
        self.filled = (self.filled + bytes).next_multiple_of(ALIGNMENT);
        Ok(place)
    }
}
