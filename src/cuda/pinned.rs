//! Page-locked host memory: the device copies to and from it asynchronously, so the host does not wait.

use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{CudaStream, result};

use super::CudaError;

/// An allocation of page-locked memory.
pub(super) struct Pinned {
    /// Its copies are waited for before the memory is freed. Not the context's: waiting for the context breaks a graph that
    /// another stream is capturing.
    stream: Arc<CudaStream>,
    start: *mut u8,
    bytes: usize,
}

// Safety: it owns its memory, which is not bound to a thread.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Page-locks `bytes` bytes and zeroes them.
    pub fn new(stream: &Arc<CudaStream>, bytes: usize) -> Result<Self, CudaError> {
        let failed = || CudaError::driver(format!("allocating {bytes} bytes of page-locked memory"));
        stream.context().bind_to_thread().map_err(failed())?;
        // Safety: the memory is written before it is read, because it is zeroed below.
        let start = unsafe { result::malloc_host(bytes, 0) }.map_err(failed())?.cast::<u8>();
        // Safety: the driver has just allocated `bytes` bytes at `start`.
        unsafe { start.write_bytes(0, bytes) };
        Ok(Self { stream: stream.clone(), start, bytes })
    }

    /// The size that was asked for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A range of the memory.
    ///
    /// # Safety
    /// The device does not write to it during the borrow.
    pub unsafe fn slice(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.bytes);
        // Safety: the range lies inside the memory, as asserted; the caller promises that nobody writes.
        unsafe { std::slice::from_raw_parts(self.start.add(range.start), range.len()) }
    }

    /// A range of the memory, to be written.
    ///
    /// # Safety
    /// The device neither reads nor writes it during the borrow.
    pub unsafe fn slice_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.bytes);
        // Safety: the range lies inside the memory, as asserted, and is borrowed for writing; the caller promises the rest.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Copies may still run. Errors cannot be handled in `drop`, here or below.
        let _ = self.stream.synchronize();
        // Safety: `start` came from `malloc_host`, and its stream has finished all its commands.
        let _ = unsafe { result::free_host(self.start.cast::<c_void>()) };
    }
}
