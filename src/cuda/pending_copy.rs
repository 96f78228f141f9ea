//! Asynchronous copies from the device to the host: each goes to page-locked memory, and an event says when it is done.

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaEvent, CudaStream, result};

use super::pinned::Pinned;
use super::{CudaError, View};
use crate::tensor::Element;
use crate::tensor::View as _;

/// The smallest allocation of page-locked memory.
const BYTES_MIN: usize = 4096;

/// Page-locked memory to reuse. A copy that was dropped without a wait may still write to it; the order of the stream ends that
/// copy before the next one starts.
#[derive(Default)]
pub(super) struct PinnedPool {
    free: Mutex<Vec<Pinned>>,
}

impl PinnedPool {
    /// At least `bytes` bytes of page-locked memory.
    fn allocate(&self, bytes: usize, stream: &Arc<CudaStream>) -> Result<Pinned, CudaError> {
        let bytes = bytes.next_power_of_two().max(BYTES_MIN);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        match free.iter().position(|memory| memory.bytes() == bytes) {
            Some(index) => Ok(free.swap_remove(index)),
            None => Pinned::new(stream, bytes),
        }
    }
}

/// A copy that may not be done yet.
pub(super) struct PendingCopy {
    pool: Arc<PinnedPool>,
    /// Returned to the pool when this is dropped.
    memory: Option<Pinned>,
    done: CudaEvent,
    bytes: usize,
}

impl PendingCopy {
    /// Puts the copy of a view on the stream.
    pub fn start<T: Element>(
        pool: &Arc<PinnedPool>,
        from: View<'_, T>,
        stream: &Arc<CudaStream>,
    ) -> Result<Self, CudaError> {
        let bytes = from.len() * size_of::<T>();
        let failed = || CudaError::driver(format!("copying {bytes} bytes from the device"));
        let mut memory = pool.allocate(bytes, stream)?;
        stream.context().bind_to_thread().map_err(failed())?;
        // Safety: nobody reads the memory before the event; `Pinned` waits for the device before it is freed.
        unsafe { result::memcpy_dtoh_async(memory.slice_mut(0..bytes), from.address(), stream.cu_stream()) }
            .map_err(failed())?;
        let done = stream.record_event(None).map_err(failed())?;
        Ok(Self { pool: pool.clone(), memory: Some(memory), done, bytes })
    }

    /// Waits for the copy and returns the values.
    pub fn get<T: Element>(self) -> Result<Vec<T>, CudaError> {
        let memory = self.memory.as_ref().expect("only `drop` takes it");
        self.done.synchronize().map_err(CudaError::driver(format!("copying {} bytes from the device", self.bytes)))?;
        let mut values = vec![T::zeroed(); self.bytes / size_of::<T>()];
        // Safety: the event says that the copy is done.
        bytemuck::cast_slice_mut(&mut values).copy_from_slice(unsafe { memory.slice(0..self.bytes) });
        Ok(values)
    }
}

impl Drop for PendingCopy {
    fn drop(&mut self) {
        let mut free = self.pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.extend(self.memory.take());
    }
}
