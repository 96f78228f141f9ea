//! The arena: all memory of one device. It is allocated from the driver in large chunks, divided among buffers, and kept until
//! the device is closed.
//!
//! Creating or dropping a buffer makes no driver call, and the same sequence of buffers gets the same addresses again, which
//! is what lets a graph be replayed. Freed memory can be allocated again at once: there is only one stream, so the next
//! owner's commands run after the previous owner's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cuda_emulator::arena::Watch;
use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};

use super::CudaError;
use super::allocation_statistics::{self, AllocationRecord, AllocationStatistics};
use super::command::{Recording, StreamCommand};
use super::free_list::FreeList;

/// The alignment of every allocation. Kernels and matmuls need less.
const ALIGNMENT: usize = 512;
/// What is allocated from the driver at a time, unless an allocation is larger or less is left.
const CHUNK_BYTES: usize = 64 << 20;

/// The memory of one device.
pub(super) struct Arena {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    statistics: Arc<AllocationStatistics>,
    /// The emulator checks the bounds of every buffer, so the arena reports each one to it.
    watch: Option<Watch>,
    free_list: Mutex<FreeList>,
}

/// A range of device memory, including the gap to the next allocation.
#[derive(Clone, Copy, Debug)]
pub(super) struct AddressRange {
    address: u64,
    bytes: usize,
}

/// Memory of the arena, freed when this is dropped.
pub(super) struct Allocation {
    arena: Arc<Arena>,
    pub address: u64,
    reserved_bytes: usize,
    /// Held because dropping it updates the statistics.
    _record: AllocationRecord,
}

impl Arena {
    /// An arena that has allocated nothing yet. All work on its memory must be on `stream`.
    pub fn new(context: &Arc<CudaContext>, stream: &Arc<CudaStream>) -> Self {
        let (statistics, free_list) = (Arc::default(), Mutex::default());
        Self { context: context.clone(), stream: stream.clone(), statistics, watch: Watch::find(), free_list }
    }

    /// Allocates `bytes` of uninitialised memory and adds them to the statistics.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`] with the table of allocations.
    pub fn allocate(self: &Arc<Self>, bytes: usize) -> Result<Allocation, CudaError> {
        let gap = if self.watch.is_some() { Watch::RED_ZONE } else { 0 };
        // A size that overflows becomes the largest one, so that the driver refuses it.
        let reserved_bytes = bytes.max(1).saturating_add(gap).checked_next_multiple_of(ALIGNMENT).unwrap_or(usize::MAX);
        let address = match self.reuse_recorded(reserved_bytes) {
            Some(address) => address,
            None => self.reserve(reserved_bytes, bytes)?,
        };
        self.submit(|| StreamCommand::ReportAllocation { address, bytes: bytes.max(1) });
        Ok(Allocation { arena: self.clone(), address, reserved_bytes, _record: self.statistics.record(bytes) })
    }

    /// Memory that was freed during the current recording. Only commands recorded later may use it.
    fn reuse_recorded(&self, bytes: usize) -> Option<u64> {
        Recording::with(&self.stream, |recording| {
            let index = recording.freed.iter().rposition(|range| range.bytes == bytes)?;
            Some(recording.freed.remove(index).address)
        })?
    }

    fn reserve(&self, reserved_bytes: usize, bytes: usize) -> Result<u64, CudaError> {
        let mut free_list = self.lock();
        if let Some(address) = free_list.allocate(reserved_bytes) {
            return Ok(address);
        }
        self.grow(&mut free_list, reserved_bytes, bytes)?;
        Ok(free_list.allocate(reserved_bytes).expect("the chunk just added is large enough"))
    }

    /// Makes a range available to other allocations.
    pub fn free(&self, AddressRange { address, bytes }: AddressRange) {
        self.lock().free(address, bytes);
    }

    /// Records or executes a report to the emulator.
    fn submit(&self, command: impl Fn() -> StreamCommand) {
        let record = |recording: &mut Recording| recording.commands.push(command());
        if self.watch.is_none() || Recording::with(&self.stream, record).is_some() {
            return;
        }
        match command() {
            StreamCommand::ReportAllocation { address, bytes } => self.report_allocation(address, bytes, &self.stream),
            StreamCommand::ReportFree { address } => self.report_free(address, &self.stream),
            _ => unreachable!("the arena sends no other commands"),
        }
    }

    /// Reports a new buffer to the emulator. If the emulator refuses it, every later command fails, so the answer is ignored.
    pub fn report_allocation(&self, address: u64, bytes: usize, stream: &CudaStream) {
        let _ = self.watch.map(|watch| watch.allocate_buffer(address, bytes, stream.cu_stream().cast()));
    }

    /// Reports to the emulator that a buffer was freed.
    pub fn report_free(&self, address: u64, stream: &CudaStream) {
        let _ = self.watch.map(|watch| watch.free_buffer(address, stream.cu_stream().cast()));
    }

    /// Allocates a chunk from the driver. If a whole chunk does not fit, it allocates only what is needed for `bytes`.
    fn grow(&self, free_list: &mut FreeList, reserved_bytes: usize, bytes: usize) -> Result<(), CudaError> {
        self.context.bind_to_thread().map_err(CudaError::driver("binding the device to this thread"))?;
        match self.allocate_chunk(free_list, reserved_bytes.max(CHUNK_BYTES)) {
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {}
            done => return done.map_err(CudaError::driver(format!("allocating {bytes} bytes"))),
        }
        // Unused chunks are too small for this allocation, so they go back to the driver before the second attempt.
        for chunk in free_list.drain_unused() {
            // Safety: there is no allocation in the chunk; the driver waits for commands that still run.
            unsafe { result::free_sync(chunk) }.map_err(CudaError::driver("freeing memory"))?;
        }
        self.allocate_chunk(free_list, reserved_bytes).map_err(|error| self.no_memory(free_list, bytes, error))
    }

    fn allocate_chunk(&self, free_list: &mut FreeList, bytes: usize) -> Result<(), DriverError> {
        // Safety: no buffer is read before it is written (the emulator checks that).
        let start = unsafe { result::malloc_sync(bytes) }?;
        free_list.add_chunk(start, bytes);
        Ok(())
    }

    fn no_memory(&self, free_list: &FreeList, wanted_bytes: usize, error: DriverError) -> CudaError {
        match (error, self.context.mem_get_info()) {
            (DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY), Ok((free_bytes, total_bytes))) => {
                let (spare_bytes, _) = free_list.free_bytes();
                let held = self.statistics.table();
                CudaError::OutOfMemory {
                    purpose: allocation_statistics::label(),
                    wanted_bytes,
                    free_bytes,
                    spare_bytes,
                    total_bytes,
                    held,
                }
            }
            (other, _) => CudaError::Driver { what: format!("allocating {wanted_bytes} bytes"), error: other },
        }
    }

    /// The table of allocations, and what the arena has allocated from the driver.
    pub fn table(&self) -> String {
        let (total, (free, largest)) = {
            let free_list = self.lock();
            (free_list.total_bytes(), free_list.free_bytes())
        };
        let [total, free, largest] = [total, free, largest].map(|bytes| bytes as f64 / f64::from(1 << 20));
        let table = self.statistics.table();
        format!(
            "{table}\nthe arena has allocated {total:.1} MiB from the driver, of which {free:.1} MiB are free \
             (largest free range {largest:.1} MiB)"
        )
    }

    /// A panic while the lock is held cannot leave the list half changed, so a poisoned lock is safe to use.
    fn lock(&self) -> MutexGuard<'_, FreeList> {
        self.free_list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let (arena, range) = (&self.arena, AddressRange { address: self.address, bytes: self.reserved_bytes });
        arena.submit(|| StreamCommand::ReportFree { address: range.address });
        if Recording::with(&arena.stream, |recording| recording.freed.push(range)).is_none() {
            arena.free(range);
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // Errors are ignored here and below: the device is being closed.
        let _ = self.context.bind_to_thread();
        for chunk in self.lock().chunks() {
            // Safety: every allocation holds the arena, so none is left; the driver waits for commands that still run.
            let _ = unsafe { result::free_sync(chunk) };
        }
    }
}
