//! Page-locked host memory: asynchronous copies access it when they run, not when they are submitted.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::Mutex;

use super::context::Context;
use super::entry::{Out, entry};
use super::queue::Goal;
use super::registry;
use super::status::{Answer, Status};

/// Fill value of fresh memory: data that is read before it was copied is obviously wrong.
const FRESH: u8 = 0xcb;
const ALIGNMENT: usize = 4096;

/// Layouts of the allocations of [`cuMemHostAlloc`], by address.
static LAYOUTS: Mutex<BTreeMap<usize, Layout>> = Mutex::new(BTreeMap::new());

/// Frees memory of [`cuMemHostAlloc`].
pub fn release(address: usize) {
    let layout = LAYOUTS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(&address);
    if let Some(layout) = layout {
        // Safety: the table contains what `alloc` returned with this layout, and each entry is removed once.
        unsafe { dealloc(address as *mut u8, layout) };
    }
}

impl Context {
    /// Start and size of the page-locked range that contains the `bytes` at this host address.
    pub fn pinned_range(&self, address: usize, bytes: usize) -> Option<(usize, usize)> {
        let (start, (size, _)) = self.pinned.range(..=address).next_back()?;
        (address - start + bytes <= *size).then_some((*start, *size))
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostAlloc(slot: Out<*mut c_void>, bytes: usize, _flags: u32) -> u32 {
    entry("cuMemHostAlloc", || {
        registry::with_current(|context| {
            context.refuse_unsafe_in_capture()?;
            let layout = Layout::from_size_align(bytes.max(1), ALIGNMENT).map_err(|_| Status::INVALID_VALUE)?;
            // Safety: the layout has at least one byte.
            let pointer = unsafe { alloc(layout) };
            if pointer.is_null() {
                return Err(Status::OUT_OF_MEMORY.because(format!("the host cannot allocate {bytes} bytes")));
            }
            // Safety: just allocated with this size.
            unsafe { pointer.write_bytes(FRESH, layout.size()) };
            LAYOUTS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(pointer as usize, layout);
            context.pinned.insert(pointer as usize, (bytes, true));
            slot.put(pointer.cast())
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocHost_v2(slot: Out<*mut c_void>, bytes: usize) -> u32 {
    cuMemHostAlloc(slot, bytes, 0)
}

/// Waits for all work, because it may use the memory, then frees it.
#[unsafe(no_mangle)]
extern "C" fn cuMemFreeHost(pointer: *mut c_void) -> u32 {
    entry("cuMemFreeHost", || unpin(pointer, true))
}

/// `pointer` need not be aligned: only a device has pages.
#[unsafe(no_mangle)]
extern "C" fn cuMemHostRegister_v2(pointer: *mut c_void, bytes: usize, _flags: u32) -> u32 {
    entry("cuMemHostRegister", || {
        registry::with_current(|context| {
            if pointer.is_null() || bytes == 0 {
                return Err(Status::INVALID_VALUE.because("no memory to register"));
            }
            if context.pinned_range(pointer as usize, 1).is_some() {
                return Err(Status::HOST_MEMORY_ALREADY_REGISTERED.into());
            }
            context.pinned.insert(pointer as usize, (bytes, false));
            Ok(())
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostUnregister(pointer: *mut c_void) -> u32 {
    entry("cuMemHostUnregister", || unpin(pointer, false))
}

fn unpin(pointer: *mut c_void, ours: bool) -> Answer {
    registry::with_current(|context| {
        let address = pointer as usize;
        if context.pinned.get(&address).is_none_or(|(_, allocated)| *allocated != ours) {
            let status = if ours { Status::INVALID_VALUE } else { Status::HOST_MEMORY_NOT_REGISTERED };
            return Err(status.because(format!("{pointer:?} is not such page-locked memory of this context")));
        }
        if context.captures.is_empty() {
            context.run(Goal::Empty)?;
        }
        context.pinned.remove(&address);
        release(address);
        Ok(())
    })
}

/// Kernels can access only device memory here.
#[unsafe(no_mangle)]
extern "C" fn cuMemHostGetDevicePointer_v2(_slot: Out<u64>, _pointer: *mut c_void, _flags: u32) -> u32 {
    entry("cuMemHostGetDevicePointer", || {
        Err(Status::NOT_SUPPORTED.because("kernels cannot reach host memory; copy it to the device"))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostGetFlags(slot: Out<u32>, pointer: *mut c_void) -> u32 {
    entry("cuMemHostGetFlags", || {
        registry::with_current(|context| match context.pinned_range(pointer as usize, 1) {
            Some(_) => slot.put(0),
            None => Err(Status::INVALID_VALUE.because(format!("{pointer:?} is not page-locked memory"))),
        })
    })
}
