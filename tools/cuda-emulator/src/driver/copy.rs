//! Copies between host and device and on the device, and fills.
//!
//! As on a device, an asynchronous copy of pageable host memory is effectively synchronous: the source is read when the
//! copy is submitted, and a copy to the host waits for its stream. Page-locked memory is accessed when the copy runs.

use std::ffi::c_void;

use super::command::Command;
use super::context::Context;
use super::entry::{In, entry};
use super::registry;
use super::status::{Answer, Status};
use super::stream::{LEGACY, on_stream};

/// Memory type codes of `CUDA_MEMCPY2D`.
const HOST: u32 = 1;
const DEVICE: u32 = 2;

impl Context {
    fn copy_in(&mut self, stream: u32, to: u64, from: usize, bytes: usize) -> Answer {
        if bytes == 0 {
            return Ok(());
        }
        check_host(from)?;
        if self.pinned_range(from, bytes).is_some() {
            let read_late = move |engine: &mut super::engine::Engine| {
                // Safety: page-locked memory of this context, which is freed only when nothing is pending; the program
                // promises not to write it in the meantime.
                let source = unsafe { std::slice::from_raw_parts(from as *const u8, bytes) };
                engine.write(to, source)
            };
            return self.submit(stream, Command::device(read_late)).map(|_| ());
        }
        self.refuse_pageable_in_capture(stream)?;
        // Safety: the caller promises `bytes` readable bytes at its pointer, which is not null.
        let source = unsafe { std::slice::from_raw_parts(from as *const u8, bytes) }.to_vec();
        self.submit(stream, Command::device(move |engine| engine.write(to, &source))).map(|_| ())
    }

    fn copy_out(&mut self, stream: u32, to: usize, from: u64, bytes: usize) -> Answer {
        if bytes == 0 {
            return Ok(());
        }
        check_host(to)?;
        let pinned = self.pinned_range(to, bytes).is_some();
        if !pinned {
            self.refuse_pageable_in_capture(stream)?;
        }
        let read = move |engine: &mut super::engine::Engine| {
            // Safety: the caller promises `bytes` writable bytes at its pointer until the copy is done. Pageable memory
            // is written before this call returns; page-locked memory is freed only when nothing is pending.
            let target = unsafe { std::slice::from_raw_parts_mut(to as *mut u8, bytes) };
            engine.read(from, target)
        };
        self.submit(stream, Command::device(read))?;
        if pinned { Ok(()) } else { self.synchronize(stream) }
    }

    fn copy_within(&mut self, stream: u32, to: u64, from: u64, bytes: usize) -> Answer {
        if bytes == 0 {
            return Ok(());
        }
        self.submit(stream, Command::device(move |engine| engine.copy(to, from, bytes as u64))).map(|_| ())
    }

    /// Fills `count` elements with a pattern of 1, 2 or 4 bytes.
    fn fill(&mut self, stream: u32, to: u64, pattern: &[u8], count: usize) -> Answer {
        if count == 0 {
            return Ok(());
        }
        if !to.is_multiple_of(pattern.len() as u64) {
            return Err(Status::INVALID_VALUE.because(format!("{to:#x} is not aligned to the pattern")));
        }
        let bytes = count.checked_mul(pattern.len()).ok_or(Status::INVALID_VALUE)?;
        let command = match *pattern {
            [byte] => Command::device(move |engine| engine.fill(to, byte, bytes as u64)),
            _ => {
                let bytes = pattern.repeat(count);
                Command::device(move |engine| engine.write(to, &bytes))
            }
        };
        self.submit(stream, command).map(|_| ())
    }

    /// A replay of the graph would access the pageable memory again, possibly long after the program has freed it.
    fn refuse_pageable_in_capture(&mut self, stream: u32) -> Answer {
        self.refuse_on_capturing(stream, "a copy of pageable host memory (use page-locked memory in graphs)")
    }

    fn copy_rows(&mut self, stream: u32, copy: &Copy2d) -> Answer {
        for row in 0..copy.height {
            let from = copy.from.row(row, copy.width)?;
            let to = copy.to.row(row, copy.width)?;
            match (copy.from.kind, copy.to.kind) {
                (HOST, DEVICE) => self.copy_in(stream, to, from as usize, copy.width)?,
                (DEVICE, HOST) => self.copy_out(stream, to as usize, from, copy.width)?,
                (DEVICE, DEVICE) => self.copy_within(stream, to, from, copy.width)?,
                (from, to) => {
                    return Err(Status::NOT_SUPPORTED
                        .because(format!("memory types {from} to {to}: only host (1) and device (2) are supported")));
                }
            }
        }
        Ok(())
    }
}

fn check_host(address: usize) -> Answer {
    if address == 0 { Err(Status::INVALID_VALUE.because("the host pointer is null")) } else { Ok(()) }
}

/// Runs a copy on the legacy default stream and waits for it.
fn at_once(copy: impl FnOnce(&mut Context) -> Answer) -> Answer {
    registry::with_current(|context| {
        context.refuse_unsafe_in_capture()?;
        copy(context)?;
        context.synchronize(LEGACY)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: *mut c_void) -> u32 {
    entry("cuMemcpyHtoDAsync", || {
        on_stream(stream, |context, serial| context.copy_in(serial, to, from as usize, bytes))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> u32 {
    entry("cuMemcpyHtoD", || at_once(|context| context.copy_in(LEGACY, to, from as usize, bytes)))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: *mut c_void) -> u32 {
    entry("cuMemcpyDtoHAsync", || {
        on_stream(stream, |context, serial| context.copy_out(serial, to as usize, from, bytes))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> u32 {
    entry("cuMemcpyDtoH", || at_once(|context| context.copy_out(LEGACY, to as usize, from, bytes)))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: *mut c_void) -> u32 {
    entry("cuMemcpyDtoDAsync", || on_stream(stream, |context, serial| context.copy_within(serial, to, from, bytes)))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> u32 {
    entry("cuMemcpyDtoD", || at_once(|context| context.copy_within(LEGACY, to, from, bytes)))
}

/// Between contexts, the source is read when the copy is submitted; everything that the stream waited for has run by
/// then.
#[unsafe(no_mangle)]
extern "C" fn cuMemcpyPeerAsync(
    to: u64,
    to_context: *mut c_void,
    from: u64,
    from_context: *mut c_void,
    bytes: usize,
    stream: *mut c_void,
) -> u32 {
    entry("cuMemcpyPeerAsync", || {
        if to_context == from_context {
            return on_stream(stream, |context, serial| context.copy_within(serial, to, from, bytes));
        }
        let mut buffer = vec![0; bytes];
        registry::with_context(from_context, |context| {
            context.engine.read(from, &mut buffer).map_err(|failure| context.fail(failure).into())
        })?;
        registry::with_context(to_context, |_| Ok(()))?;
        on_stream(stream, |context, serial| {
            context.submit(serial, Command::device(move |engine| engine.write(to, &buffer))).map(|_| ())
        })
    })
}

/// All memory shares one address range, so the pointers determine the direction.
#[unsafe(no_mangle)]
extern "C" fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: *mut c_void) -> u32 {
    entry("cuMemcpyAsync", || {
        on_stream(stream, |context, serial| {
            match (context.engine.is_device_address(to), context.engine.is_device_address(from)) {
                (true, true) => context.copy_within(serial, to, from, bytes),
                (true, false) => context.copy_in(serial, to, from as usize, bytes),
                (false, true) => context.copy_out(serial, to as usize, from, bytes),
                (false, false) => Err(Status::INVALID_VALUE.because("neither pointer is a device pointer")),
            }
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpy(to: u64, from: u64, bytes: usize) -> u32 {
    match cuMemcpyAsync(to, from, bytes, std::ptr::null_mut()) {
        0 => entry("cuMemcpy", || at_once(|_| Ok(()))),
        status => status,
    }
}

/// One side of a 2D copy, in the layout of `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Side {
    x: usize,
    y: usize,
    kind: u32,
    host: usize,
    device: u64,
    array: usize,
    pitch: usize,
}

impl Side {
    /// The address of a row; with a pitch of 0, rows are contiguous.
    fn row(&self, row: usize, width: usize) -> Answer<u64> {
        let pitch = if self.pitch == 0 { width } else { self.pitch };
        if self.x + width > pitch {
            return Err(Status::INVALID_VALUE.because(format!("rows of {width} bytes from {} overlap", self.x)));
        }
        let base = if self.kind == HOST { self.host as u64 } else { self.device };
        Ok(base + ((self.y + row) * pitch + self.x) as u64)
    }
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Copy2d {
    from: Side,
    to: Side,
    width: usize,
    height: usize,
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpy2DAsync_v2(copy: In<Copy2d>, stream: *mut c_void) -> u32 {
    entry("cuMemcpy2DAsync", || on_stream(stream, |context, serial| context.copy_rows(serial, &copy.get()?)))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpy2D_v2(copy: In<Copy2d>) -> u32 {
    entry("cuMemcpy2D", || at_once(|context| context.copy_rows(LEGACY, &copy.get()?)))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpy2DUnaligned_v2(copy: In<Copy2d>) -> u32 {
    cuMemcpy2D_v2(copy)
}

/// The two fills of one element size: asynchronous and synchronous.
macro_rules! fills {
    ($($element:ty: $in_stream:ident, $at_once:ident;)*) => { $(
        #[unsafe(no_mangle)]
        extern "C" fn $in_stream(to: u64, value: $element, count: usize, stream: *mut c_void) -> u32 {
            entry(stringify!($in_stream), || {
                on_stream(stream, |context, serial| context.fill(serial, to, &value.to_ne_bytes(), count))
            })
        }

        #[unsafe(no_mangle)]
        extern "C" fn $at_once(to: u64, value: $element, count: usize) -> u32 {
            entry(stringify!($at_once), || at_once(|context| context.fill(LEGACY, to, &value.to_ne_bytes(), count)))
        }
    )* };
}

fills! {
    u8: cuMemsetD8Async, cuMemsetD8_v2;
    u16: cuMemsetD16Async, cuMemsetD16_v2;
    u32: cuMemsetD32Async, cuMemsetD32_v2;
}
