//! Results on their way from the device: each lands in page-locked memory, and an event tells when.

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaEvent, CudaStream, result};

use super::pinned::Pinned;
use super::{CudaError, View};
use crate::tensor::Element;
use crate::tensor::View as _;

/// The smallest stretch of memory that is kept.
const BYTES_MIN: usize = 4096;

/// Memory of landings that are over, or that nobody waits for any more: a copy to it may still be under way, but the stream's
/// order keeps that before the next one.
#[derive(Default)]
pub(super) struct Landings {
    kept: Mutex<Vec<Pinned>>,
}

impl Landings {
    /// Memory for so many bytes.
    fn take(&self, bytes: usize, stream: &Arc<CudaStream>) -> Result<Pinned, CudaError> {
        let bytes = bytes.next_power_of_two().max(BYTES_MIN);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.iter().position(|memory| memory.bytes() == bytes) {
            Some(place) => Ok(kept.swap_remove(place)),
            None => Pinned::new(stream, bytes),
        }
    }
}

/// A copy that is under way.
pub(super) struct Landing {
    landings: Arc<Landings>,
    /// Goes back at the end.
    memory: Option<Pinned>,
    landed: CudaEvent,
    bytes: usize,
}

impl Landing {
    /// Asks for a copy of a view.
    pub fn of<T: Element>(
        landings: &Arc<Landings>,
        from: View<'_, T>,
        stream: &Arc<CudaStream>,
    ) -> Result<Self, CudaError> {
        let bytes = from.len() * size_of::<T>();
        let failed = || CudaError::driver(format!("copying {bytes} bytes from the device"));
        let mut memory = landings.take(bytes, stream)?;
        stream.context().bind_to_thread().map_err(failed())?;
        // Safety: nobody looks at the memory before the event; before it is freed, its owner waits.
        unsafe { result::memcpy_dtoh_async(memory.slice_mut(0..bytes), from.address(), stream.cu_stream()) }
            .map_err(failed())?;
        let landed = stream.record_event(None).map_err(failed())?;
        Ok(Self { landings: landings.clone(), memory: Some(memory), landed, bytes })
    }

    /// Waits for the copy.
    pub fn get<T: Element>(self) -> Result<Vec<T>, CudaError> {
        let memory = self.memory.as_ref().expect("there until the end");
        self.landed
            .synchronize()
            .map_err(CudaError::driver(format!("copying {} bytes from the device", self.bytes)))?;
        let mut values = vec![T::zeroed(); self.bytes / size_of::<T>()];
        // Safety: the copy has ended, as the event says.
        bytemuck::cast_slice_mut(&mut values).copy_from_slice(unsafe { memory.slice(0..self.bytes) });
        Ok(values)
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut kept = self.landings.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(self.memory.take());
    }
}
