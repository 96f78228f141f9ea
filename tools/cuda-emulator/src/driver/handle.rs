//! Handles for C programs: numbers that look like pointers, encode their kind and context, and are never reused, so
//! that stale, foreign and made-up handles are always recognised.

use std::ffi::c_void;

use super::status::{Answer, Status};

/// The kind of object that a handle names.
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
    /// The value passed to C: kind, context and serial, from the top bits down. The top bits are outside every address
    /// range of the host, so a handle cannot be mistaken for a pointer.
    pub fn encode(self, kind: Kind) -> *mut c_void {
        let bits = (kind as u64) << 56 | (self.context as u64) << 32 | self.serial as u64;
        bits as usize as *mut c_void
    }

    /// Decodes a handle of this kind.
    ///
    /// # Errors
    /// `INVALID_HANDLE` for null and for every value that is not a handle of the kind.
    pub fn decode(value: *mut c_void, kind: Kind) -> Answer<Handle> {
        let bits = value as usize as u64;
        if bits >> 56 != kind as u64 || (bits >> 48) & 0xff != 0 {
            return Err(Status::INVALID_HANDLE.because(format!("{value:?} is not a handle of a {kind:?}")));
        }
        Ok(Handle { context: (bits >> 32) as u16, serial: bits as u32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decode_inverts_encode_and_checks_the_kind() {
        let handle = Handle { context: 7, serial: 0xdead_beef };
        let value = handle.encode(Kind::Event);
        assert_eq!(Handle::decode(value, Kind::Event).unwrap(), handle);
        assert!(Handle::decode(value, Kind::Stream).is_err());
        assert!(Handle::decode(std::ptr::null_mut(), Kind::Stream).is_err());
        assert!(Handle::decode(0x7f00_1234_5678_usize as *mut c_void, Kind::Module).is_err());
    }
}
