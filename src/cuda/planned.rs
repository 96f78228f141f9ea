//! What a plan has set aside on a device: a budget that buffers are held to, and memory for the scratch of ops.

use super::CudaError;
use crate::memory::{Entry, FreeList, Ledger};

/// Every buffer of a plan begins at a multiple of so many bytes.
pub(super) const ALIGNMENT: usize = 512;

/// Where a buffer lies in the plan: its start, and its bytes with the gap to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    start: u64,
    bytes: usize,
}

/// The budget of a run. Buffers get places by the same rule as on paper, whatever gaps the emulator leaves between them, so a run
/// fits its budget exactly when its plan does.
pub(super) struct Planned {
    budget: usize,
    /// Places, from address 0 on
    places: FreeList,
    /// The region of scratch, on the device
    scratch: FreeList,
    /// The region is in the ledger once; what is taken of it is not.
    _entry: Entry,
}

impl Planned {
    /// A budget of which `held` bytes are taken already, and a region of `scratch` that the caller has allocated.
    pub fn new(budget: usize, held: usize, scratch: usize, region: (u64, usize), entry: Entry) -> Option<Self> {
        let mut planned = Self { budget, places: FreeList::default(), scratch: FreeList::default(), _entry: entry };
        planned.places.add_chunk(0, budget);
        planned.scratch.add_chunk(region.0, region.1);
        for bytes in [held, scratch] {
            planned.place(bytes)?;
        }
        Some(planned)
    }

    /// A place for a buffer; `None` where the budget has none.
    pub fn place(&mut self, bytes: usize) -> Option<Place> {
        let bytes = bytes.max(1).checked_next_multiple_of(ALIGNMENT)?;
        let start = self.places.allocate(bytes)?;
        Some(Place { start, bytes })
    }

    /// Gives a place back.
    pub fn free_place(&mut self, place: Place) {
        self.places.free(place.start, place.bytes);
    }

    /// The region of scratch.
    pub fn scratch(&mut self) -> &mut FreeList {
        &mut self.scratch
    }

    /// Why a buffer has no place.
    pub fn over_budget(&self, purpose: &'static str, wanted_bytes: usize, ledger: &Ledger) -> CudaError {
        let (budget, held) = (self.budget, ledger.table());
        CudaError::OverBudget { purpose, wanted_bytes, budget, held }
    }
}
