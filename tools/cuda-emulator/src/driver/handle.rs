//! Handles that C programs hold: numbers that look like pointers, name their kind and context, and are never reused, so
//! that a stale, foreign or made-up handle is always recognised.

use std::ffi::c_void;

use super::status::{Answer, Status};

/// What a handle stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Context = 0xc1,
    Stream = 0xc2,
    Event = 0xc3,
    Module = 0xc4,
    Function = 0xc5,
    Graph = 0xc6,
    GraphExec = 0xc7,
    Pool = 0xc8,
}

/// A decoded handle: `serial` counts the objects of its context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle {
    pub context: u16,
    pub serial: u32,
}

impl Handle {
    /// The value handed to C: kind, context, serial from the top. The top bits keep it out of every address range of
    /// the host, so that it cannot be taken for a pointer by mistake.
    pub fn encode(self, kind: Kind) -> *mut c_void {
        let bits = (kind as u64) << 56 | (self.context as u64) << 32 | self.serial as u64;
        bits as usize as *mut c_void
    }

    /// Reads a handle of this kind.
    ///
    /// # Errors
    /// `INVALID_HANDLE` for null and for every value that is no handle of the kind.
    pub fn decode(value: *mut c_void, kind: Kind) -> Answer<Handle> {
        let bits = value as usize as u64;
        if bits >> 56 != kind as u64 || (bits >> 48) & 0xff != 0 {
            return Err(Status::INVALID_HANDLE.because(format!("{value:?} is no handle of a {kind:?}")));
        }
        Ok(Handle { context: (bits >> 32) as u16, serial: bits as u32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_survives_the_round_trip_and_keeps_its_kind() {
        let handle = Handle { context: 7, serial: 0xdead_beef };
        let value = handle.encode(Kind::Event);
        assert_eq!(Handle::decode(value, Kind::Event).unwrap(), handle);
        assert!(Handle::decode(value, Kind::Stream).is_err());
        assert!(Handle::decode(std::ptr::null_mut(), Kind::Stream).is_err());
        assert!(Handle::decode(0x7f00_1234_5678_usize as *mut c_void, Kind::Module).is_err());
    }
}
