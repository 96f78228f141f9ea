//! The table of functions through which the cuBLASLt library accesses streams and device memory. It is one exported
//! symbol, found by `dlsym`, so that the two libraries need not be linked. The other half is `cublaslt/src/driver.rs`;
//! both must change together, and the version number checks that.

use std::ffi::{c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::command::{Command, Failure};
use super::engine::Engine;
use super::entry::entry;
use super::registry;
use super::status::Status;
use super::stream::on_stream;

/// Incremented with every change of the layouts below.
const VERSION: u32 = 1;

/// The functions of the driver.
#[repr(C)]
pub struct Interface {
    version: u32,
    /// Submits a task to a stream and returns a `CUresult`. The task's `drop` is called exactly once in all cases.
    submit: extern "C" fn(stream: *mut c_void, task: *const Task) -> u32,
    /// Compute capability of the current context's device, 10 × major + minor; 0 without a context.
    capability: extern "C" fn() -> u32,
    /// Seed of the current context plus one; 0 for the natural order.
    seed: extern "C" fn() -> u64,
    /// Adds a report (UTF-8).
    report: extern "C" fn(text: *const c_char, length: usize),
}

/// A command of another library.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Task {
    data: *mut c_void,
    /// Runs the task. Returns 0 or the `CUresult` of a failed memory function. It may be called several times (graphs).
    run: extern "C" fn(data: *mut c_void, memory: *const Memory) -> u32,
    drop: extern "C" fn(data: *mut c_void),
}

/// Device memory during a task. Both functions return a `CUresult`; after a failure the task should return it.
#[repr(C)]
pub struct Memory {
    engine: *mut c_void,
    read: extern "C" fn(engine: *mut c_void, address: u64, bytes: *mut u8, length: usize) -> u32,
    write: extern "C" fn(engine: *mut c_void, address: u64, bytes: *const u8, length: usize) -> u32,
}

/// The engine as a task uses it, and the first failure.
struct EngineAccess<'a> {
    engine: &'a mut Engine,
    failure: Option<Failure>,
}

/// Owner of a task's data.
struct Owned(Task);

// Safety: the library promises that its data may be used and dropped in any thread, one thread at a time; the context's
// lock ensures the latter.
unsafe impl Send for Owned {}
// Safety: as above.
unsafe impl Sync for Owned {}

impl Drop for Owned {
    fn drop(&mut self) {
        (self.0.drop)(self.0.data);
    }
}

static INTERFACE: Interface = Interface { version: VERSION, submit, capability, seed, report };

/// Returns the table; see the module documentation.
#[unsafe(no_mangle)]
extern "C" fn patarm_emulator_interface() -> *const Interface {
    &INTERFACE
}

extern "C" fn submit(stream: *mut c_void, task: *const Task) -> u32 {
    // Safety: the cuBLASLt library passes a pointer to a task that is alive for the call.
    let owned = Arc::new(Owned(unsafe { *task }));
    entry("cublasLtMatmul", || {
        on_stream(stream, |context, serial| {
            let command = Command::device(move |engine| run(&owned.0, engine));
            context.submit(serial, command).map(|_| ())
        })
    })
}

fn run(task: &Task, engine: &mut Engine) -> Result<(), Failure> {
    let mut access = EngineAccess { engine, failure: None };
    let memory = Memory { engine: (&raw mut access).cast(), read, write };
    match (task.run)(task.data, &memory) {
        0 => Ok(()),
        status => Err(access
            .failure
            .take()
            .unwrap_or_else(|| Failure { status: Status(status), report: "the matmul failed".to_owned() })),
    }
}

extern "C" fn read(engine: *mut c_void, address: u64, bytes: *mut u8, length: usize) -> u32 {
    // Safety: `engine` is the `EngineAccess` of `run`, which is alive and not used otherwise while the task runs; the
    // library owns `length` writable bytes at `bytes`.
    let (access, bytes) =
        unsafe { (&mut *engine.cast::<EngineAccess>(), std::slice::from_raw_parts_mut(bytes, length)) };
    access.attempt("reads", |engine| engine.read(address, bytes))
}

extern "C" fn write(engine: *mut c_void, address: u64, bytes: *const u8, length: usize) -> u32 {
    // Safety: as in `read`, with readable bytes.
    let (access, bytes) = unsafe { (&mut *engine.cast::<EngineAccess>(), std::slice::from_raw_parts(bytes, length)) };
    access.attempt("writes", |engine| engine.write(address, bytes))
}

impl EngineAccess<'_> {
    /// Accesses memory, stores a failure and returns its code. A panic must not reach the other library.
    fn attempt(&mut self, verb: &str, access: impl FnOnce(&mut Engine) -> Result<(), Failure>) -> u32 {
        let engine = &mut *self.engine;
        let result = catch_unwind(AssertUnwindSafe(|| access(engine)));
        let failure = match result {
            Ok(Ok(())) => return Status::SUCCESS.0,
            Ok(Err(failure)) => failure,
            Err(_) => Failure { status: Status::UNKNOWN, report: "the emulator itself failed".to_owned() },
        };
        let status = failure.status;
        self.failure = Some(Failure { status, report: format!("cublasLtMatmul {verb}: {}", failure.report) });
        status.0
    }
}

extern "C" fn capability() -> u32 {
    let capability = registry::with_current(|context| Ok(context.engine.capability()));
    capability.map_or(0, |(major, minor)| major * 10 + minor)
}

extern "C" fn seed() -> u64 {
    let seed = registry::with_current(|context| Ok(context.engine.order_seed()));
    seed.ok().flatten().map_or(0, |seed| seed.wrapping_add(1))
}

extern "C" fn report(text: *const c_char, length: usize) {
    // Safety: the library passes a valid string slice.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), length) };
    super::reports::add(String::from_utf8_lossy(bytes).into_owned());
}
