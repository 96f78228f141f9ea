//! The table of functions through which the cuBLASLt library reaches streams and device memory: one exported symbol,
//! found by `dlsym`, so that the two libraries need not be linked. The other half is `cublaslt/src/driver.rs`; both must
//! change together, which the version guards.

use std::ffi::{c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::engine::Engine;
use super::entry::entry;
use super::registry;
use super::status::Status;
use super::stream::on_stream;
use super::work::{Failure, Work};

/// Counts changes of the layouts below.
const VERSION: u32 = 1;

/// What the driver offers.
#[repr(C)]
pub struct Interface {
    version: u32,
    /// Puts a task on a stream; answers a `CUresult`. The task's `drop` is called exactly once, whatever happens.
    submit: extern "C" fn(stream: *mut c_void, task: *const Task) -> u32,
    /// Compute capability of the current context's device, 10 × major + minor; 0 without a context.
    capability: extern "C" fn() -> u32,
    /// Seed of the current context's orders plus one; 0 for the natural orders.
    seed: extern "C" fn() -> u64,
    /// Adds a report (UTF-8).
    report: extern "C" fn(text: *const c_char, length: usize),
}

/// Work of another library.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Task {
    data: *mut c_void,
    /// Does the work; answers 0 or the `CUresult` that the memory functions gave. It may run several times (graphs).
    run: extern "C" fn(data: *mut c_void, memory: *const Memory) -> u32,
    drop: extern "C" fn(data: *mut c_void),
}

/// Device memory during a task. Both functions answer a `CUresult`; after a failure the task should return it.
#[repr(C)]
pub struct Memory {
    engine: *mut c_void,
    read: extern "C" fn(engine: *mut c_void, address: u64, bytes: *mut u8, length: usize) -> u32,
    write: extern "C" fn(engine: *mut c_void, address: u64, bytes: *const u8, length: usize) -> u32,
}

/// The engine lent to a task, and what it did wrong.
struct Lent<'a> {
    engine: &'a mut Engine,
    failure: Option<Failure>,
}

/// Owns a task's data.
struct Owned(Task);

// Safety: the library promises that its data may be used and dropped in any thread, one at a time; the context's lock
// sees to the latter.
unsafe impl Send for Owned {}
// Safety: as above.
unsafe impl Sync for Owned {}

impl Drop for Owned {
    fn drop(&mut self) {
        (self.0.drop)(self.0.data);
    }
}

static INTERFACE: Interface = Interface { version: VERSION, submit, capability, seed, report };

/// The table; see the module's page.
#[unsafe(no_mangle)]
extern "C" fn patarm_emulator_interface() -> *const Interface {
    &INTERFACE
}

extern "C" fn submit(stream: *mut c_void, task: *const Task) -> u32 {
    // Safety: the cuBLASLt library passes a pointer to a task of its own, alive for the call.
    let owned = Arc::new(Owned(unsafe { *task }));
    entry("cublasLtMatmul", || {
        on_stream(stream, |context, serial| {
            let work = Work::device(move |engine| run(&owned.0, engine));
            context.submit(serial, work).map(|_| ())
        })
    })
}

fn run(task: &Task, engine: &mut Engine) -> Result<(), Failure> {
    let mut lent = Lent { engine, failure: None };
    let memory = Memory { engine: (&raw mut lent).cast(), read, write };
    match (task.run)(task.data, &memory) {
        0 => Ok(()),
        status => Err(lent
            .failure
            .take()
            .unwrap_or_else(|| Failure { status: Status(status), report: "the matrix product failed".to_owned() })),
    }
}

extern "C" fn read(engine: *mut c_void, address: u64, bytes: *mut u8, length: usize) -> u32 {
    // Safety: `engine` is the `Lent` of `run`, which is alive and not used otherwise while the task runs; the library
    // owns `length` writable bytes at `bytes`.
    let (lent, bytes) = unsafe { (&mut *engine.cast::<Lent>(), std::slice::from_raw_parts_mut(bytes, length)) };
    lent.attempt("reads", |engine| engine.read(address, bytes))
}

extern "C" fn write(engine: *mut c_void, address: u64, bytes: *const u8, length: usize) -> u32 {
    // Safety: as in `read`, with readable bytes.
    let (lent, bytes) = unsafe { (&mut *engine.cast::<Lent>(), std::slice::from_raw_parts(bytes, length)) };
    lent.attempt("writes", |engine| engine.write(address, bytes))
}

impl Lent<'_> {
    /// Accesses memory, keeps what went wrong and answers its code; a panic must not reach the other library.
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
    // Safety: the library passes a string slice.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), length) };
    super::reports::add(String::from_utf8_lossy(bytes).into_owned());
}
