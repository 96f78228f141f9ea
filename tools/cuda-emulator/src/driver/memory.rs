//! Device memory: allocation, free, and pointer attributes.
//!
//! Memory is allocated at the call; a stream-ordered free takes effect at its point in the stream. Addresses are never
//! reused, so a pointer to freed memory is always recognised. A program with its own sub-allocator marks its buffers
//! with `patarm_emulator_allocate_buffer` and `_free_buffer`.

use std::ffi::c_void;

use super::command::Command;
use super::context::Context;
use super::device;
use super::entry::{Out, entry};
use super::handle::{Handle, Kind};
use super::queue::Goal;
use super::registry;
use super::status::{Answer, Status};
use super::stream::on_stream;

impl Context {
    /// Allocates device memory. If there is not enough, pending frees run first.
    fn allocate(&mut self, bytes: usize) -> Answer<u64> {
        if let Some(address) = self.engine.allocate(bytes as u64) {
            return Ok(address);
        }
        if self.captures.is_empty() {
            self.run(Goal::Empty)?;
        }
        let (free, total) = (self.engine.free_bytes(), self.engine.total_bytes());
        self.engine.allocate(bytes as u64).ok_or_else(|| {
            Status::OUT_OF_MEMORY.because(format!("{bytes} bytes requested, {free} of {total} bytes are free"))
        })
    }

    fn allocate_in_stream(&mut self, stream: u32, bytes: usize) -> Answer<u64> {
        self.refuse_on_capturing(stream, "allocating (the emulator has no memory nodes in graphs)")?;
        match bytes {
            0 => Ok(0),
            _ => self.allocate(bytes),
        }
    }

    /// Checks that an address can be freed: it is the start of an allocation without a pending free.
    fn check_free(&mut self, address: u64) -> Answer {
        match self.engine.allocation(address) {
            Some((start, _)) if start == address && self.freeing.insert(address) => Ok(()),
            Some((start, _)) if start == address => {
                Err(Status::INVALID_VALUE.because(format!("{address:#x} is freed a second time")))
            }
            Some((start, bytes)) => Err(Status::INVALID_VALUE.because(format!(
                "{address:#x} is {} bytes inside the allocation of {bytes} bytes at {start:#x}; only its start can be freed",
                address - start
            ))),
            None => Err(Status::INVALID_VALUE
                .because(format!("{address:#x} is not a live allocation of this context (freed, or never allocated)"))),
        }
    }

    fn free_in_stream(&mut self, stream: u32, address: u64) -> Answer {
        if address == 0 {
            return Ok(());
        }
        self.refuse_on_capturing(stream, "freeing (the emulator has no memory nodes in graphs)")?;
        self.check_free(address)?;
        self.submit(stream, Command::device(move |engine| engine.free(address))).map(|_| ())
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAlloc_v2(slot: Out<u64>, bytes: usize) -> u32 {
    entry("cuMemAlloc", || {
        registry::with_current(|context| {
            context.refuse_unsafe_in_capture()?;
            if bytes == 0 {
                return Err(Status::INVALID_VALUE.because("0 bytes requested"));
            }
            slot.put(context.allocate(bytes)?)
        })
    })
}

/// Rows of `width` bytes, each aligned to 512 bytes.
#[unsafe(no_mangle)]
extern "C" fn cuMemAllocPitch_v2(slot: Out<u64>, pitch: Out<usize>, width: usize, height: usize, _element: u32) -> u32 {
    entry("cuMemAllocPitch", || {
        registry::with_current(|context| {
            context.refuse_unsafe_in_capture()?;
            let row = width.checked_next_multiple_of(512).ok_or(Status::INVALID_VALUE)?;
            let bytes = row.checked_mul(height).filter(|bytes| *bytes > 0);
            pitch.put(row)?;
            slot.put(context.allocate(bytes.ok_or(Status::INVALID_VALUE)?)?)
        })
    })
}

/// As on a device, waits for all work before it frees.
#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(address: u64) -> u32 {
    entry("cuMemFree", || {
        if address == 0 {
            return Ok(());
        }
        registry::with_current(|context| {
            context.refuse_unsafe_in_capture()?;
            context.check_free(address)?;
            context.run(Goal::Empty)?;
            context.engine.free(address).map_err(|failure| context.fail(failure).into())
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocAsync(slot: Out<u64>, bytes: usize, stream: *mut c_void) -> u32 {
    entry("cuMemAllocAsync", || {
        on_stream(stream, |context, serial| slot.put(context.allocate_in_stream(serial, bytes)?))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocFromPoolAsync(slot: Out<u64>, bytes: usize, pool: *mut c_void, stream: *mut c_void) -> u32 {
    entry("cuMemAllocFromPoolAsync", || {
        Handle::decode(pool, Kind::Pool)?;
        on_stream(stream, |context, serial| slot.put(context.allocate_in_stream(serial, bytes)?))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeAsync(address: u64, stream: *mut c_void) -> u32 {
    entry("cuMemFreeAsync", || on_stream(stream, |context, serial| context.free_in_stream(serial, address)))
}

/// From this point of the stream on, the `bytes` at `address`, inside one allocation, are a buffer of the program's
/// sub-allocator.
#[unsafe(no_mangle)]
extern "C" fn patarm_emulator_allocate_buffer(address: u64, bytes: usize, stream: *mut c_void) -> u32 {
    entry("patarm_emulator_allocate_buffer", || {
        let allocate = Command::device(move |engine| engine.allocate_buffer(address, bytes as u64));
        on_stream(stream, |context, serial| context.submit(serial, allocate).map(|_| ()))
    })
}

/// From this point of the stream on, the buffer is free.
#[unsafe(no_mangle)]
extern "C" fn patarm_emulator_free_buffer(address: u64, stream: *mut c_void) -> u32 {
    entry("patarm_emulator_free_buffer", || {
        let free = Command::device(move |engine| engine.free_buffer(address));
        on_stream(stream, |context, serial| context.submit(serial, free).map(|_| ()))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocManaged(_slot: Out<u64>, _bytes: usize, _flags: u32) -> u32 {
    entry("cuMemAllocManaged", || Err(Status::NOT_SUPPORTED.because("there is no managed memory")))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) -> u32 {
    entry("cuMemGetInfo", || {
        registry::with_current(|context| {
            free.put(context.engine.free_bytes() as usize)?;
            total.put(context.engine.total_bytes() as usize)
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemGetAddressRange_v2(start: Out<u64>, bytes: Out<usize>, address: u64) -> u32 {
    entry("cuMemGetAddressRange", || {
        registry::with_current(|context| {
            let found = context.engine.allocation(address);
            let (base, size) = found.ok_or_else(|| Status::NOT_FOUND.because(no_pointer(address)))?;
            start.put_if_wanted(base)?;
            bytes.put_if_wanted(size as usize)
        })
    })
}

fn no_pointer(address: u64) -> String {
    format!("{address:#x} is not inside a live allocation")
}

/// The attributes that exist here; each is written with its own type.
#[unsafe(no_mangle)]
extern "C" fn cuPointerGetAttribute(slot: *mut c_void, attribute: u32, address: u64) -> u32 {
    entry("cuPointerGetAttribute", || {
        registry::with_current(|context| {
            let device = context.engine.allocation(address);
            let pinned = context.pinned_range(address as usize, 1);
            let (start, bytes) = match (device, pinned) {
                (Some(range), _) => range,
                (None, Some((start, bytes))) => (start as u64, bytes as u64),
                (None, None) => return Err(Status::INVALID_VALUE.because(no_pointer(address))),
            };
            let slot = Out::from(slot);
            match attribute {
                1 => slot.cast().put(context.handle(0, Kind::Context)),
                2 => slot.cast().put(if device.is_some() { 2_u32 } else { 1 }),
                3 if device.is_some() => slot.cast().put(address),
                4 if device.is_none() => slot.cast().put(address),
                7 => slot.cast().put(start),
                8 => slot.cast().put(0_u8),
                9 => slot.cast().put(context.ordinal as i32),
                11 => slot.cast().put(start),
                12 => slot.cast().put(bytes as usize),
                13 => slot.cast().put(device.is_some() as u8),
                _ => {
                    Err(Status::INVALID_VALUE.because(format!("attribute {attribute} does not apply to {address:#x}")))
                }
            }
        })
    })
}

/// Pools cache nothing here; the handle only names a device.
#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetDefaultMemPool(slot: Out<*mut c_void>, device: i32) -> u32 {
    entry("cuDeviceGetDefaultMemPool", || {
        let serial = device::ordinal(device)? as u32;
        slot.put(Handle { context: 0, serial }.encode(Kind::Pool))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetMemPool(slot: Out<*mut c_void>, device: i32) -> u32 {
    cuDeviceGetDefaultMemPool(slot, device)
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceSetMemPool(device: i32, pool: *mut c_void) -> u32 {
    entry("cuDeviceSetMemPool", || {
        device::ordinal(device)?;
        Handle::decode(pool, Kind::Pool).map(|_| ())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolSetAttribute(pool: *mut c_void, _attribute: u32, _value: *mut c_void) -> u32 {
    entry("cuMemPoolSetAttribute", || Handle::decode(pool, Kind::Pool).map(|_| ()))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolTrimTo(pool: *mut c_void, _keep: usize) -> u32 {
    entry("cuMemPoolTrimTo", || Handle::decode(pool, Kind::Pool).map(|_| ()))
}
