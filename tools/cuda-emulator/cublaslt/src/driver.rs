//! Calls to the driver library, through its table of functions, found by `dlsym`. The other half, which documents each
//! function, is `src/driver/library.rs` of the emulator. The layouts must agree, so the table has a version.

use std::ffi::{c_char, c_void};
use std::sync::OnceLock;

use crate::entry::{Answer, Status};

const VERSION: u32 = 1;

#[repr(C)]
struct Interface {
    version: u32,
    submit: extern "C" fn(stream: *mut c_void, task: *const Task) -> u32,
    capability: extern "C" fn() -> u32,
    seed: extern "C" fn() -> u64,
    report: extern "C" fn(text: *const c_char, length: usize),
}

#[repr(C)]
struct Task {
    data: *mut c_void,
    run: extern "C" fn(data: *mut c_void, memory: *const MemoryTable) -> u32,
    drop: extern "C" fn(data: *mut c_void),
}

/// Access to device memory, which the driver gives to a running task.
#[repr(C)]
pub struct MemoryTable {
    engine: *mut c_void,
    read: extern "C" fn(engine: *mut c_void, address: u64, bytes: *mut u8, length: usize) -> u32,
    write: extern "C" fn(engine: *mut c_void, address: u64, bytes: *const u8, length: usize) -> u32,
}

/// The code of a failed access (`CUresult`).
#[derive(Clone, Copy, Debug)]
pub struct MemoryFault(pub u32);

impl MemoryTable {
    /// Reads device memory, with the driver's checks.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), MemoryFault> {
        match (self.read)(self.engine, address, bytes.as_mut_ptr(), bytes.len()) {
            0 => Ok(()),
            status => Err(MemoryFault(status)),
        }
    }

    /// Writes device memory, with the driver's checks.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        match (self.write)(self.engine, address, bytes.as_ptr(), bytes.len()) {
            0 => Ok(()),
            status => Err(MemoryFault(status)),
        }
    }
}

/// The work of a task. It runs several times if a graph is replayed.
pub type Work = Box<dyn Fn(&MemoryTable) -> Result<(), MemoryFault> + Send + Sync>;

/// The driver's table, if the emulator's driver is loaded in this process.
fn interface() -> Option<&'static Interface> {
    static FOUND: OnceLock<Option<&'static Interface>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        // Safety: the lookup does not load anything; the emulator's function has this signature, and its table lives as long as
        // the library, which is never unloaded.
        unsafe {
            let library = libc::dlopen(c"libcuda.so".as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD);
            if library.is_null() {
                return None;
            }
            let function = libc::dlsym(library, c"patarm_emulator_interface".as_ptr());
            if function.is_null() {
                return None;
            }
            let function: extern "C" fn() -> *const Interface = std::mem::transmute(function);
            function().as_ref().filter(|interface| interface.version == VERSION)
        }
    })
}

/// Checks that the emulator's driver is loaded and has the same table.
pub fn check() -> Answer {
    match interface() {
        Some(_) => Ok(()),
        None => Err(Status::NOT_INITIALIZED
            .because("the emulator's driver of the same build is not loaded: call cuda_emulator::load() first")),
    }
}

/// Adds a report; without a driver it is printed to stderr.
pub fn report(text: &str) {
    match interface() {
        Some(interface) => (interface.report)(text.as_ptr().cast(), text.len()),
        None => eprintln!("cuda-emulator: {text}"),
    }
}

/// The seed for the current context's execution order plus one; 0 for the natural order.
pub fn seed() -> u64 {
    interface().map_or(0, |interface| (interface.seed)())
}

/// Puts a task on a stream.
pub fn submit(stream: *mut c_void, work: Work) -> Answer {
    let interface = interface().ok_or_else(|| Status::NOT_INITIALIZED.because("the driver is not loaded"))?;
    let task = Task { data: Box::into_raw(Box::new(work)).cast(), run, drop: drop_work };
    match (interface.submit)(stream, &task) {
        0 => Ok(()),
        // The driver has reported why.
        _ => Err(Status::EXECUTION_FAILED.because("")),
    }
}

extern "C" fn run(data: *mut c_void, memory: *const MemoryTable) -> u32 {
    let attempt = std::panic::catch_unwind(|| {
        // Safety: `data` is the box from `submit`, alive until `drop_work`; the driver passes a valid table.
        let (work, memory) = unsafe { (&*data.cast::<Work>(), &*memory) };
        work(memory).map_or_else(|fault| fault.0, |()| 0)
    });
    const UNKNOWN: u32 = 999;
    attempt.unwrap_or(UNKNOWN)
}

extern "C" fn drop_work(data: *mut c_void) {
    // Safety: the driver calls this exactly once for each box from `submit`.
    drop(unsafe { Box::from_raw(data.cast::<Work>()) });
}
