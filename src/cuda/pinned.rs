//! Page-locked host memory: the device copies to and from it by itself, so the host does not wait.

use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{CudaStream, result};

use super::CudaError;

/// A stretch of page-locked memory.
pub(super) struct Pinned {
    /// Whose copies to and from the memory are waited for at its end. Not the context: that would wait for, and break, graphs
    /// that other streams are capturing.
    stream: Arc<CudaStream>,
    start: *mut u8,
    bytes: usize,
}

// Safety: it owns its memory, which belongs to no thread.
unsafe impl Send for Pinned {}

impl Pinned {
    pub fn new(stream: &Arc<CudaStream>, bytes: usize) -> Result<Self, CudaError> {
        let failed = || CudaError::driver(format!("allocating {bytes} bytes of page-locked memory"));
        stream.context().bind_to_thread().map_err(failed())?;
        // Safety: the memory is not read before it was written: by the zeros below at first.
        let start = unsafe { result::malloc_host(bytes, 0) }.map_err(failed())?.cast::<u8>();
        // Safety: the driver has just handed out so many bytes.
        unsafe { start.write_bytes(0, bytes) };
        Ok(Self { stream: stream.clone(), start, bytes })
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A stretch of the memory.
    ///
    /// # Safety
    /// The device does not write to it meanwhile.
    pub unsafe fn slice(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.bytes);
        // Safety: inside the memory, as seen above; that nobody writes is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.start.add(range.start), range.len()) }
    }

    /// A stretch of the memory, to be written.
    ///
    /// # Safety
    /// The device neither reads nor writes it meanwhile.
    pub unsafe fn slice_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.bytes);
        // Safety: inside the memory, as seen above, and borrowed for writing; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Copies may be under way. Nothing can be done about a refusal, here or below.
        let _ = self.stream.synchronize();
        // Safety: `start` came from `malloc_host`, and the device has done all it was asked for.
        let _ = unsafe { result::free_host(self.start.cast::<c_void>()) };
    }
}
