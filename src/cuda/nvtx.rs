//! Named ranges for profilers (NVTX 3), so that a timeline of Nsight Systems shows the parts of the model.
//!
//! NVTX has no library. The program loads the profiler's from `NVTX_INJECTION64_PATH`, which nsys sets, and calls its
//! `InitializeInjectionNvtx2` with a callback that returns tables of function slots; the profiler fills the slots that it wants.
//! Without a profiler a range costs one load.

use std::ffi::{CString, c_char, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Modules of callbacks, counted from 1: core, CUDA, OpenCL, CUDA runtime, core 2, synchronisation.
const MODULES: usize = 6;
/// Slots of each module: as many as the largest module has, so that every profiler finds those that it knows.
const SLOTS: usize = 16;
const CORE: usize = 0;
const RANGE_PUSH: usize = 9;
const RANGE_POP: usize = 11;
/// The number of the callback table, among the tables that a profiler may request.
const CALLBACKS: u32 = 1;

static FUNCTIONS: [[AtomicPtr<c_void>; SLOTS]; MODULES] =
    [const { [const { AtomicPtr::new(std::ptr::null_mut()) }; SLOTS] }; MODULES];

/// `NvtxExportTableCallbacks`
#[repr(C)]
struct Callbacks {
    bytes: usize,
    table: unsafe extern "C" fn(u32, *mut *const *mut c_void, *mut u32) -> i32,
}

/// Gives the profiler the addresses of a module's slots.
///
/// # Safety
/// `out` and `size` are null or can be written.
unsafe extern "C" fn module_table(module: u32, out: *mut *const *mut c_void, size: *mut u32) -> i32 {
    static ADDRESSES: OnceLock<[[usize; SLOTS]; MODULES]> = OnceLock::new();
    let addresses =
        ADDRESSES.get_or_init(|| FUNCTIONS.each_ref().map(|slots| slots.each_ref().map(|s| s.as_ptr() as usize)));
    let Some(slots) = (module as usize).checked_sub(1).and_then(|index| addresses.get(index)) else { return 0 };
    // Safety: the caller's promise. The table lives as long as the program.
    unsafe {
        if !out.is_null() {
            *out = slots.as_ptr().cast();
        }
        if !size.is_null() {
            *size = SLOTS as u32;
        }
    }
    1
}

extern "C" fn export_table(id: u32) -> *const c_void {
    static TABLE: Callbacks = Callbacks { bytes: size_of::<Callbacks>(), table: module_table };
    if id == CALLBACKS { (&raw const TABLE).cast() } else { std::ptr::null() }
}

/// The profiler's functions to begin and end a range, if a profiler is attached.
fn functions() -> Option<(*mut c_void, *mut c_void)> {
    static ATTACHED: OnceLock<bool> = OnceLock::new();
    if !*ATTACHED.get_or_init(attach) {
        return None;
    }
    let slot = |index: usize| FUNCTIONS[CORE][index].load(Ordering::Acquire);
    let (push, pop) = (slot(RANGE_PUSH), slot(RANGE_POP));
    (!push.is_null() && !pop.is_null()).then_some((push, pop))
}

/// Loads the profiler's library, if there is one.
fn attach() -> bool {
    let Some(path) = std::env::var_os("NVTX_INJECTION64_PATH") else { return false };
    let Ok(path) = CString::new(path.as_encoded_bytes()) else { return false };
    type Initialize = extern "C" fn(extern "C" fn(u32) -> *const c_void) -> i32;
    // Safety: the user who sets the variable wants this library loaded; its entry point has this signature.
    unsafe {
        let library = libc::dlopen(path.as_ptr(), libc::RTLD_LAZY);
        if library.is_null() {
            return false;
        }
        let found = libc::dlsym(library, c"InitializeInjectionNvtx2".as_ptr());
        if found.is_null() {
            return false;
        }
        let initialize: Initialize = std::mem::transmute(found);
        initialize(export_table) != 0
    }
}

/// Whether a profiler is attached, so that the name of a range is worth building.
pub fn is_attached() -> bool {
    functions().is_some()
}

/// An open range. It ends when this is dropped, also after a panic.
pub struct OpenRange(*mut c_void);

impl Drop for OpenRange {
    fn drop(&mut self) {
        // Safety: the profiler's function that ends a range has this signature.
        let pop: extern "C" fn() -> i32 = unsafe { std::mem::transmute(self.0) };
        pop();
    }
}

/// Begins a range on this thread, if a profiler is attached.
pub fn enter(name: &str) -> Option<OpenRange> {
    let (push, pop) = functions()?;
    // Safety: the profiler's function that begins a range has this signature, and copies the name.
    let push: extern "C" fn(*const c_char) -> i32 = unsafe { std::mem::transmute(push) };
    push(CString::new(name).unwrap_or_default().as_ptr());
    Some(OpenRange(pop))
}
