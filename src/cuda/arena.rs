//! The arena: all memory of one device, taken from the driver in large chunks, lent to buffers, and kept until the device is
//! closed.
//!
//! Making and dropping a buffer costs no call of the driver, and the same sequence of buffers finds the same addresses again,
//! which is what lets a graph be replayed. A block that is given back may be lent anew at once: there is one stream, so the
//! next owner's work comes behind the last one's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cuda_emulator::arena::Watch;
use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};

use super::CudaError;
use super::free_list::FreeList;
use super::ledger::{Entry, Ledger};
use super::work::{Notes, Work};

/// Where blocks begin: what kernels and products may count on, and more.
const ALIGNMENT: usize = 512;
/// What is taken from the driver at a time, unless a block is larger or there is less.
const CHUNK_BYTES: usize = 64 << 20;

/// The memory of one device.
pub(super) struct Arena {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    ledger: Arc<Ledger>,
    /// The emulator checks every block as a buffer of its own, so it is told of them.
    watch: Option<Watch>,
    free: Mutex<FreeList>,
}

/// A stretch of the arena: where, and how much, the gap to the next one included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    address: u64,
    bytes: usize,
}

/// A stretch that is lent, given back when it is dropped.
pub(super) struct Block {
    arena: Arc<Arena>,
    pub address: u64,
    taken_bytes: usize,
    /// Kept for its end.
    _entry: Entry,
}

impl Arena {
    pub fn new(context: &Arc<CudaContext>, stream: &Arc<CudaStream>) -> Self {
        let (ledger, free) = (Arc::default(), Mutex::default());
        Self { context: context.clone(), stream: stream.clone(), ledger, watch: Watch::find(), free }
    }

    /// Lends `bytes` that nothing was written to, and lists them in the ledger.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`] with the table of who holds what.
    pub fn lend(self: &Arc<Self>, bytes: usize) -> Result<Block, CudaError> {
        let gap = if self.watch.is_some() { Watch::RED_ZONE } else { 0 };
        // A size beyond all memory stays one.
        let taken_bytes = bytes.max(1).saturating_add(gap).checked_next_multiple_of(ALIGNMENT).unwrap_or(usize::MAX);
        let address = match self.spare(taken_bytes) {
            Some(address) => address,
            None => self.take(taken_bytes, bytes)?,
        };
        self.submit(|| Work::Lend { address, bytes: bytes.max(1) });
        Ok(Block { arena: self.clone(), address, taken_bytes, _entry: self.ledger.enter(bytes) })
    }

    /// Memory that noted work has given back, for work that is noted behind it.
    fn spare(&self, bytes: usize) -> Option<u64> {
        Notes::with(&self.stream, |notes| {
            let place = notes.spare.iter().rposition(|stretch| stretch.bytes == bytes)?;
            Some(notes.spare.remove(place).address)
        })?
    }

    fn take(&self, taken_bytes: usize, bytes: usize) -> Result<u64, CudaError> {
        let mut free = self.lock();
        if let Some(address) = free.take(taken_bytes) {
            return Ok(address);
        }
        self.grow(&mut free, taken_bytes, bytes)?;
        Ok(free.take(taken_bytes).expect("a chunk was added that is as large"))
    }

    /// Lets others have a stretch.
    pub fn give_back(&self, Stretch { address, bytes }: Stretch) {
        self.lock().give_back(address, bytes);
    }

    /// Notes down or does what the emulator is told.
    fn submit(&self, work: impl Fn() -> Work) {
        if self.watch.is_none() || Notes::with(&self.stream, |notes| notes.works.push(work())).is_some() {
            return;
        }
        match work() {
            Work::Lend { address, bytes } => self.tell_lent(address, bytes, &self.stream),
            Work::TakeBack { address } => self.tell_taken_back(address, &self.stream),
            _ => unreachable!("the arena has no other work"),
        }
    }

    /// Tells the emulator of a buffer that begins. What it refuses it reports, and all later work fails.
    pub fn tell_lent(&self, address: u64, bytes: usize, stream: &CudaStream) {
        let _ = self.watch.map(|watch| watch.allocate_buffer(address, bytes, stream.cu_stream().cast()));
    }

    /// Tells the emulator of a buffer that ends.
    pub fn tell_taken_back(&self, address: u64, stream: &CudaStream) {
        let _ = self.watch.map(|watch| watch.free_buffer(address, stream.cu_stream().cast()));
    }

    /// Takes a chunk from the driver; where there is too little for a whole one, just what a block of `bytes` takes.
    fn grow(&self, free: &mut FreeList, taken_bytes: usize, bytes: usize) -> Result<(), CudaError> {
        self.context.bind_to_thread().map_err(CudaError::driver("taking the device"))?;
        match self.take_chunk(free, taken_bytes.max(CHUNK_BYTES)) {
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {}
            done => return done.map_err(CudaError::driver(format!("allocating {bytes} bytes"))),
        }
        // What lies unused in chunks that are too small goes back to the driver first.
        for chunk in free.drain_unused() {
            // Safety: nobody holds a block of the chunk; the driver waits for work that is under way.
            unsafe { result::free_sync(chunk) }.map_err(CudaError::driver("giving memory back"))?;
        }
        self.take_chunk(free, taken_bytes).map_err(|error| self.no_memory(free, bytes, error))
    }

    fn take_chunk(&self, free: &mut FreeList, bytes: usize) -> Result<(), DriverError> {
        // Safety: nothing reads a block before writing it (the emulator checks that).
        let start = unsafe { result::malloc_sync(bytes) }?;
        free.add_chunk(start, bytes);
        Ok(())
    }

    fn no_memory(&self, free: &FreeList, wanted_bytes: usize, error: DriverError) -> CudaError {
        match (error, self.context.mem_get_info()) {
            (DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY), Ok((free_bytes, total_bytes))) => {
                let (spare_bytes, _) = free.free_bytes();
                let held = self.ledger.table();
                CudaError::OutOfMemory {
                    purpose: super::ledger::name(),
                    wanted_bytes,
                    free_bytes,
                    spare_bytes,
                    total_bytes,
                    held,
                }
            }
            (other, _) => CudaError::Driver { what: format!("allocating {wanted_bytes} bytes"), source: other },
        }
    }

    /// Who holds how much, and what the arena has taken from the driver.
    pub fn table(&self) -> String {
        let (taken, (spare, longest)) = {
            let free = self.lock();
            (free.total_bytes(), free.free_bytes())
        };
        let [taken, spare, longest] = [taken, spare, longest].map(|bytes| bytes as f64 / f64::from(1 << 20));
        let table = self.ledger.table();
        format!(
            "{table}\nthe arena has {taken:.1} MiB of the driver's, {spare:.1} MiB free ({longest:.1} MiB in one piece)"
        )
    }

    /// Nothing between lock and unlock can leave the list half changed.
    fn lock(&self) -> MutexGuard<'_, FreeList> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let (arena, stretch) = (&self.arena, Stretch { address: self.address, bytes: self.taken_bytes });
        arena.submit(|| Work::TakeBack { address: stretch.address });
        if Notes::with(&arena.stream, |notes| notes.spare.push(stretch)).is_none() {
            arena.give_back(stretch);
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // Nothing can be done about a refusal, here or below: the device is being closed.
        let _ = self.context.bind_to_thread();
        for chunk in self.lock().chunks() {
            // Safety: blocks hold the arena, so there are none; the driver waits for work that is under way.
            let _ = unsafe { result::free_sync(chunk) };
        }
    }
}
