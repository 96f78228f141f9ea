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
use super::command::{Recording, StreamCommand};
use super::planned::{ALIGNMENT, Place, Planned};
use crate::memory::{Entry, FreeList, Ledger, bytes_text, label, labelled};

/// Pieces of scratch that are taken at the same time, at most.
const SCRATCH_PIECES: usize = 32;
/// What is allocated from the driver at a time, unless an allocation is larger or less is left.
const CHUNK_BYTES: usize = 64 << 20;

/// The memory of one device.
pub(super) struct Arena {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    ledger: Arc<Ledger>,
    /// The emulator checks the bounds of every buffer, so the arena reports each one to it.
    watch: Option<Watch>,
    free_list: Mutex<FreeList>,
    /// What a plan has set aside.
    planned: Mutex<Option<Planned>>,
}

/// A range of device memory, including the gap to the next allocation.
#[derive(Clone, Copy, Debug)]
pub(super) struct AddressRange {
    address: u64,
    bytes: usize,
    owner: Owner,
}

/// What a range goes back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// Its place in the plan, if there is one
    Arena(Option<Place>),
    Scratch,
}

/// Memory of the arena, freed when this is dropped.
pub(super) struct Allocation {
    arena: Arc<Arena>,
    pub address: u64,
    range: AddressRange,
    /// Held because dropping it takes the buffer out of the ledger; scratch of a region is in it once.
    _entry: Option<Entry>,
}

impl Arena {
    /// An arena that has allocated nothing yet. All work on its memory must be on `stream`.
    pub fn new(context: &Arc<CudaContext>, stream: &Arc<CudaStream>) -> Self {
        let (ledger, free_list, planned) = (Arc::default(), Mutex::default(), Mutex::default());
        Self { context: context.clone(), stream: stream.clone(), ledger, watch: Watch::find(), free_list, planned }
    }

    /// Sets aside what a plan says: see [`crate::tensor::Device::set_aside`]. What is allocated already counts as the plan's.
    ///
    /// What the plan still needs is one chunk, in which buffers have the gaps that they have in the plan, and which others on
    /// the card cannot take away later.
    pub fn set_aside(&self, scratch: usize, needed: usize, budget: usize) -> Result<(), CudaError> {
        let chunk = needed.saturating_sub(self.ledger.bytes()).max(1).next_multiple_of(ALIGNMENT);
        self.grow(&mut self.lock(), chunk, needed)?;
        // The emulator needs a gap behind every piece.
        let gaps = if self.watch.is_some() { SCRATCH_PIECES * (Watch::RED_ZONE + ALIGNMENT) } else { 0 };
        let bytes = (scratch + gaps).max(1).next_multiple_of(ALIGNMENT);
        let held = self.ledger.bytes();
        let start = labelled("scratch", || self.reserve(bytes, scratch))?;
        let entry = labelled("scratch", || self.ledger.enter(scratch));
        let planned = Planned::new(budget, held, scratch, (start, bytes), entry);
        let over =
            || CudaError::OverBudget { purpose: "scratch", wanted_bytes: scratch, budget, held: self.ledger.table() };
        *self.lock_planned() = Some(planned.ok_or_else(over)?);
        Ok(())
    }

    /// Allocates `bytes` of uninitialised memory and enters them into the ledger.
    ///
    /// # Errors
    /// [`CudaError::OverBudget`] or [`CudaError::OutOfMemory`] with the table of allocations.
    pub fn allocate(self: &Arc<Self>, bytes: usize) -> Result<Allocation, CudaError> {
        let reserved_bytes = self.reserved(bytes);
        let range = match self.reuse_recorded(reserved_bytes, false) {
            Some(range) => range,
            None => {
                let place = self.place(bytes)?;
                let address = self.reserve(reserved_bytes, bytes).inspect_err(|_| self.free_place(place))?;
                AddressRange { address, bytes: reserved_bytes, owner: Owner::Arena(place) }
            }
        };
        Ok(self.allocation(range, bytes, Some(self.ledger.enter(bytes))))
    }

    /// The same for the scratch of an op: from the region that a plan has set aside, as long as that has room.
    pub fn allocate_scratch(self: &Arc<Self>, bytes: usize) -> Result<Allocation, CudaError> {
        let reserved_bytes = self.reserved(bytes);
        let taken = || self.lock_planned().as_mut()?.scratch().allocate(reserved_bytes);
        let range = self.reuse_recorded(reserved_bytes, true).or_else(|| {
            let address = taken()?;
            Some(AddressRange { address, bytes: reserved_bytes, owner: Owner::Scratch })
        });
        match range {
            Some(range) => Ok(self.allocation(range, bytes, None)),
            None => self.allocate(bytes),
        }
    }

    fn allocation(self: &Arc<Self>, range: AddressRange, bytes: usize, entry: Option<Entry>) -> Allocation {
        let address = range.address;
        self.submit(|| StreamCommand::ReportAllocation { address, bytes: bytes.max(1) });
        Allocation { arena: self.clone(), address, range, _entry: entry }
    }

    /// Bytes of a range for a buffer of `bytes`. A size that overflows becomes the largest one, so that the driver refuses it.
    fn reserved(&self, bytes: usize) -> usize {
        let gap = if self.watch.is_some() { Watch::RED_ZONE } else { 0 };
        bytes.max(1).saturating_add(gap).checked_next_multiple_of(ALIGNMENT).unwrap_or(usize::MAX)
    }

    /// Memory that was freed during the current recording. Only commands recorded later may use it.
    fn reuse_recorded(&self, bytes: usize, scratch: bool) -> Option<AddressRange> {
        Recording::with(&self.stream, |recording| {
            let like = |range: &AddressRange| range.bytes == bytes && (range.owner == Owner::Scratch) == scratch;
            let index = recording.freed.iter().rposition(like)?;
            Some(recording.freed.remove(index))
        })?
    }

    /// A place in the plan, if there is a plan.
    fn place(&self, bytes: usize) -> Result<Option<Place>, CudaError> {
        let mut planned = self.lock_planned();
        let Some(planned) = planned.as_mut() else { return Ok(None) };
        let place = planned.place(bytes);
        place.map(Some).ok_or_else(|| planned.over_budget(label(), bytes, &self.ledger))
    }

    fn free_place(&self, place: Option<Place>) {
        if let (Some(place), Some(planned)) = (place, self.lock_planned().as_mut()) {
            planned.free_place(place);
        }
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
    pub fn free(&self, AddressRange { address, bytes, owner }: AddressRange) {
        match owner {
            Owner::Arena(place) => {
                self.lock().free(address, bytes);
                self.free_place(place);
            }
            Owner::Scratch => {
                if let Some(planned) = self.lock_planned().as_mut() {
                    planned.scratch().free(address, bytes);
                }
            }
        }
    }

    fn lock_planned(&self) -> MutexGuard<'_, Option<Planned>> {
        self.planned.lock().unwrap_or_else(PoisonError::into_inner)
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
                let held = self.ledger.table();
                CudaError::OutOfMemory { purpose: label(), wanted_bytes, free_bytes, spare_bytes, total_bytes, held }
            }
            (other, _) => CudaError::Driver { what: format!("allocating {wanted_bytes} bytes"), error: other },
        }
    }

    /// What has been handed out.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// The table of allocations, and what the arena has allocated from the driver.
    pub fn table(&self) -> String {
        let (total, (free, largest)) = {
            let free_list = self.lock();
            (free_list.total_bytes(), free_list.free_bytes())
        };
        let [total, free, largest] = [total, free, largest].map(bytes_text);
        let table = self.ledger.table();
        format!(
            "{table}\nthe arena has allocated {total} from the driver, of which {free} are free (largest free range {largest})"
        )
    }

    /// A panic while the lock is held cannot leave the list half changed, so a poisoned lock is safe to use.
    fn lock(&self) -> MutexGuard<'_, FreeList> {
        self.free_list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let (arena, range) = (&self.arena, self.range);
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
