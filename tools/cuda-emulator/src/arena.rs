//! For programs with their own sub-allocator: these calls tell the emulator which range of an allocation is a buffer.
//!
//! A real driver has no such calls and needs none: there [`Watch::find`] returns `None`.

use std::ffi::c_void;

use crate::loader::symbol;

/// The emulator's calls.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    allocate_buffer: AllocateBuffer,
    free_buffer: FreeBuffer,
}

type AllocateBuffer = extern "C" fn(u64, usize, *mut c_void) -> u32;
type FreeBuffer = extern "C" fn(u64, *mut c_void) -> u32;

impl Watch {
    /// Bytes to leave free after every buffer, so that an access past its end does not hit the next one.
    pub const RED_ZONE: usize = 4096;

    /// The calls, if the loaded driver is the emulator.
    pub fn find() -> Option<Self> {
        let (allocate_buffer, free_buffer) =
            (symbol(c"patarm_emulator_allocate_buffer")?, symbol(c"patarm_emulator_free_buffer")?);
        // Safety: the emulator's library exports both functions with these signatures.
        Some(unsafe {
            Self {
                allocate_buffer: std::mem::transmute::<*mut c_void, AllocateBuffer>(allocate_buffer),
                free_buffer: std::mem::transmute::<*mut c_void, FreeBuffer>(free_buffer),
            }
        })
    }

    /// From this point of the stream on, the `bytes` at `address`, inside one allocation, are an uninitialised buffer.
    /// A capture records the call. Returns false when the driver refuses; the reason is in the reports.
    pub fn allocate_buffer(&self, address: u64, bytes: usize, stream: *mut c_void) -> bool {
        (self.allocate_buffer)(address, bytes, stream) == 0
    }

    /// From this point of the stream on, the buffer at `address` is free.
    pub fn free_buffer(&self, address: u64, stream: *mut c_void) -> bool {
        (self.free_buffer)(address, stream) == 0
    }
}
