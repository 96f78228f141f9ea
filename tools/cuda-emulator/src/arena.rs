//! For programs that hand out stretches of their allocations themselves: they tell the emulator what is a buffer.
//!
//! The driver of a device has no such calls, and no use for them: there [`Watch::find`] answers `None`.

use std::ffi::c_void;

use crate::loader::symbol;

/// The emulator's calls, found once.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    lend: Lend,
    take_back: TakeBack,
}

type Lend = extern "C" fn(u64, usize, *mut c_void) -> u32;
type TakeBack = extern "C" fn(u64, *mut c_void) -> u32;

impl Watch {
    /// Bytes to leave free behind every buffer, so that an access beyond its end does not land in the next one.
    pub const RED_ZONE: usize = 4096;

    /// The calls, if the emulator is what is loaded as the driver.
    pub fn find() -> Option<Self> {
        let (lend, take_back) = (symbol(c"patarm_emulator_lend")?, symbol(c"patarm_emulator_take_back")?);
        // Safety: the emulator's library exports both functions with these signatures.
        Some(unsafe {
            Self {
                lend: std::mem::transmute::<*mut c_void, Lend>(lend),
                take_back: std::mem::transmute::<*mut c_void, TakeBack>(take_back),
            }
        })
    }

    /// From its turn in the stream on, `bytes` at `address`, inside one allocation, are a buffer that nobody has written.
    /// Captured like any other work. False when the driver refuses it; it has reported why.
    pub fn lend(&self, address: u64, bytes: usize, stream: *mut c_void) -> bool {
        (self.lend)(address, bytes, stream) == 0
    }

    /// The end of the buffer at `address`.
    pub fn take_back(&self, address: u64, stream: *mut c_void) -> bool {
        (self.take_back)(address, stream) == 0
    }
}
