//! The emulator as an NVTX profiler: counts named ranges, so that a test can check that a program names its phases.
//!
//! `NVTX_INJECTION64_PATH` must point to this library. With the setting `stats`, the counts are printed at exit, one
//! line per name.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::sync::{Mutex, PoisonError};

static RANGES: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());
/// NVTX 3: the module and slots of ranges with C string names, and the table of callbacks.
const CORE: u32 = 1;
const RANGE_PUSH: usize = 9;
const RANGE_POP: usize = 11;
const CALLBACKS: u32 = 1;

/// `NvtxExportTableCallbacks`
#[repr(C)]
struct Callbacks {
    bytes: usize,
    table: unsafe extern "C" fn(u32, *mut *const *mut *mut c_void, *mut u32) -> i32,
}

extern "C" fn push(name: *const c_char) -> i32 {
    // Safety: NVTX passes a C string.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    *RANGES.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
    0
}

extern "C" fn pop() -> i32 {
    0
}

/// The entry point that NVTX programs call.
///
/// # Safety
/// `export_table` must return tables of NVTX 3.
#[unsafe(no_mangle)]
unsafe extern "C" fn InitializeInjectionNvtx2(export_table: extern "C" fn(u32) -> *const c_void) -> i32 {
    let callbacks = export_table(CALLBACKS).cast::<Callbacks>();
    let (mut table, mut size) = (std::ptr::null(), 0);
    // Safety: guaranteed by the caller; slots are written only if the table has them.
    unsafe {
        if callbacks.is_null() || (*callbacks).bytes < size_of::<Callbacks>() {
            return 0;
        }
        if ((*callbacks).table)(CORE, &mut table, &mut size) == 0 || size as usize <= RANGE_POP {
            return 0;
        }
        **table.add(RANGE_PUSH) = push as *mut c_void;
        **table.add(RANGE_POP) = pop as *mut c_void;
    }
    1
}

/// One line per name: how often the range was pushed.
pub fn table() -> String {
    let ranges = RANGES.lock().unwrap_or_else(PoisonError::into_inner);
    ranges.iter().map(|(name, count)| format!("range {name}: {count}\n")).collect()
}
