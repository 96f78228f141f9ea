//! A context: one device with its memory, the streams and other objects created in it, the pending commands, and the
//! sticky fault. Also the entry points for contexts (`cuCtx*`, `cuDevicePrimaryCtx*`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_void;
use std::thread::ThreadId;
use std::time::Instant;

use super::capture::Capture;
use super::command::{Command, Failure};
use super::engine::Engine;
use super::entry::{self, Out, entry};
use super::event::Event;
use super::function::Function;
use super::graph::{Graph, GraphExec};
use super::handle::{Handle, Kind};
use super::module::Module;
use super::queue::{Goal, Queue, TaskId};
use super::registry;
use super::reports;
use super::status::{Answer, Status};
use super::stream::{LEGACY, Stream};

/// More pending tasks than this are run at once; a device also has a finite queue.
const PENDING_MAX: usize = 4096;

/// One context. The keys of all maps are the serial numbers from handles.
pub struct Context {
    pub number: u16,
    pub ordinal: usize,
    pub engine: Engine,
    pub queue: Queue<Command>,
    pub streams: BTreeMap<u32, Stream>,
    /// The per-thread default streams, created on first use.
    pub thread_streams: Vec<(ThreadId, u32)>,
    pub events: BTreeMap<u32, Event>,
    pub captures: BTreeMap<u32, Capture>,
    pub graphs: BTreeMap<u32, Graph>,
    pub graph_execs: BTreeMap<u32, GraphExec>,
    pub modules: BTreeMap<u32, Module>,
    pub functions: BTreeMap<u32, Function>,
    /// Page-locked host memory: address → (size, whether the emulator allocated it).
    pub pinned: BTreeMap<usize, (usize, bool)>,
    /// Allocations with a free that may still be pending.
    pub freeing: BTreeSet<u64>,
    /// The first fault: every later call returns it.
    pub fault: Option<Status>,
    pub limits: BTreeMap<u32, usize>,
    serials: u32,
}

impl Context {
    /// An empty context on a device.
    pub fn new(number: u16, ordinal: usize, engine: Engine) -> Self {
        let seed = engine.order_seed();
        let mut streams = BTreeMap::new();
        streams.insert(LEGACY, Stream::new(true, 0));
        Context {
            number,
            ordinal,
            engine,
            queue: Queue::new(seed),
            streams,
            thread_streams: Vec::new(),
            events: BTreeMap::new(),
            captures: BTreeMap::new(),
            graphs: BTreeMap::new(),
            graph_execs: BTreeMap::new(),
            modules: BTreeMap::new(),
            functions: BTreeMap::new(),
            pinned: BTreeMap::new(),
            freeing: BTreeSet::new(),
            fault: None,
            limits: BTreeMap::from([(0, 1024), (1, 1 << 20), (2, 8 << 20), (5, 128)]),
            serials: LEGACY,
        }
    }

    /// A serial number for a new object of this context.
    pub fn new_serial(&mut self) -> u32 {
        self.serials += 1;
        self.serials
    }

    /// The handle of an object of this context.
    pub fn handle(&self, serial: u32, kind: Kind) -> *mut c_void {
        Handle { context: self.number, serial }.encode(kind)
    }

    /// The serial in a handle of this context.
    ///
    /// # Errors
    /// `INVALID_HANDLE` when it is not a handle of this kind; `INVALID_CONTEXT` when it belongs to another context.
    pub fn serial(&self, handle: *mut c_void, kind: Kind) -> Answer<u32> {
        let handle = Handle::decode(handle, kind)?;
        if handle.context != self.number {
            return Err(Status::INVALID_CONTEXT.because(format!("the {kind:?} belongs to another context")));
        }
        Ok(handle.serial)
    }

    /// Runs pending tasks until the goal is reached.
    ///
    /// # Errors
    /// The code of the first fault, which is reported once and then sticks; the remaining tasks are dropped.
    pub fn run(&mut self, goal: Goal) -> Answer {
        let mut wait_set = self.queue.wait_set(&goal);
        while let Some(command) = wait_set.next(&mut self.queue) {
            self.perform(command)?;
        }
        Ok(())
    }

    /// Runs one pending task towards the goal, so that polling makes progress.
    pub fn step(&mut self, goal: Goal) -> Answer {
        match self.queue.wait_set(&goal).next(&mut self.queue) {
            Some(command) => self.perform(command),
            None => Ok(()),
        }
    }

    fn perform(&mut self, command: Command) -> Answer {
        match command {
            Command::Nothing => {}
            Command::Host { function, argument } => entry::call_host_function(function, argument),
            Command::Record { event, generation } => {
                if let Some(event) = self.events.get_mut(&event) {
                    event.reached(generation, Instant::now());
                }
            }
            Command::Device(function) => function(&mut self.engine).map_err(|failure| self.fail(failure))?,
        }
        Ok(())
    }

    /// Reports a failure and makes it stick to the context.
    pub fn fail(&mut self, Failure { status, report }: Failure) -> Status {
        reports::add(format!("{report}\n[{}; it sticks to the context]", status.name()));
        self.queue.clear();
        self.fault = Some(status);
        status
    }

    /// Adds a task that runs after the given ones.
    ///
    /// # Errors
    /// A fault of an older task that had to run because the queue was full.
    pub fn enqueue(&mut self, after: &[TaskId], command: Command) -> Answer<TaskId> {
        if self.queue.len() >= PENDING_MAX {
            self.run(Goal::Empty)?;
        }
        Ok(self.queue.submit(after, command))
    }

    /// Ends the context: runs the pending tasks and reports what was never freed.
    pub fn shut_down(&mut self) {
        if self.fault.is_none() && self.run(Goal::Empty).is_ok() {
            let leaks = self.engine.leaks();
            if !leaks.is_empty() {
                reports::add(format!(
                    "{} allocations were never freed when context {} ended:\n  {}",
                    leaks.len(),
                    self.number,
                    leaks.join("\n  ")
                ));
            }
        }
        for (address, (_, ours)) in std::mem::take(&mut self.pinned) {
            if ours {
                super::pinned::release(address);
            }
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRetain(slot: Out<*mut c_void>, device: i32) -> u32 {
    entry("cuDevicePrimaryCtxRetain", || slot.put(registry::retain_primary(device)?))
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(device: i32) -> u32 {
    entry("cuDevicePrimaryCtxRelease", || registry::release_primary(device))
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxReset_v2(device: i32) -> u32 {
    entry("cuDevicePrimaryCtxReset", || registry::reset_primary(device))
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) -> u32 {
    entry("cuDevicePrimaryCtxGetState", || {
        flags.put(0)?;
        active.put(registry::primary_is_active(device)? as i32)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: i32, _flags: u32) -> u32 {
    entry("cuDevicePrimaryCtxSetFlags", || registry::primary_is_active(device).map(|_| ()))
}

/// `parameters` asks for execution affinity or graphics sharing, which do not exist here, so it must be null.
#[unsafe(no_mangle)]
extern "C" fn cuCtxCreate_v4(slot: Out<*mut c_void>, parameters: *const c_void, _flags: u32, device: i32) -> u32 {
    entry("cuCtxCreate", || {
        if !parameters.is_null() {
            return Err(Status::NOT_SUPPORTED.because("context parameters (affinity, graphics) are not supported"));
        }
        slot.put(registry::create(device)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxCreate_v2(slot: Out<*mut c_void>, flags: u32, device: i32) -> u32 {
    cuCtxCreate_v4(slot, std::ptr::null(), flags, device)
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxDestroy_v2(context: *mut c_void) -> u32 {
    entry("cuCtxDestroy", || registry::destroy(context))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetCurrent(slot: Out<*mut c_void>) -> u32 {
    entry("cuCtxGetCurrent", || slot.put(registry::current_handle()))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(context: *mut c_void) -> u32 {
    entry("cuCtxSetCurrent", || registry::set_current(context))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPushCurrent_v2(context: *mut c_void) -> u32 {
    entry("cuCtxPushCurrent", || registry::push_current(context))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPopCurrent_v2(slot: Out<*mut c_void>) -> u32 {
    entry("cuCtxPopCurrent", || slot.put_if_wanted(registry::pop_current()?))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetDevice(slot: Out<i32>) -> u32 {
    entry("cuCtxGetDevice", || registry::with_current(|context| slot.put(context.ordinal as i32)))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetId(context: *mut c_void, slot: Out<u64>) -> u32 {
    entry("cuCtxGetId", || registry::with_context(context, |context| slot.put(context.number as u64)))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetApiVersion(_context: *mut c_void, slot: Out<u32>) -> u32 {
    entry("cuCtxGetApiVersion", || slot.put(3020))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> u32 {
    entry("cuCtxSynchronize", || {
        registry::with_current(|context| {
            context.refuse_while_capturing("it waits for streams that are capturing")?;
            context.run(Goal::Empty)
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetFlags(_flags: u32) -> u32 {
    entry("cuCtxSetFlags", || registry::with_current(|_| Ok(())))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetFlags(slot: Out<u32>) -> u32 {
    entry("cuCtxGetFlags", || registry::with_current(|_| slot.put(0)))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetLimit(slot: Out<usize>, limit: u32) -> u32 {
    entry("cuCtxGetLimit", || {
        registry::with_current(|context| slot.put(*context.limits.get(&limit).ok_or(Status::UNSUPPORTED_LIMIT)?))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetLimit(limit: u32, value: usize) -> u32 {
    entry("cuCtxSetLimit", || {
        registry::with_current(|context| {
            *context.limits.get_mut(&limit).ok_or(Status::UNSUPPORTED_LIMIT)? = value;
            Ok(())
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetCacheConfig(slot: Out<u32>) -> u32 {
    entry("cuCtxGetCacheConfig", || registry::with_current(|_| slot.put(0)))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCacheConfig(_preference: u32) -> u32 {
    entry("cuCtxSetCacheConfig", || registry::with_current(|_| Ok(())))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) -> u32 {
    entry("cuCtxGetStreamPriorityRange", || {
        registry::with_current(|_| {
            least.put_if_wanted(0)?;
            greatest.put_if_wanted(-5)
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuProfilerStart() -> u32 {
    entry("cuProfilerStart", || registry::with_current(|_| Ok(())))
}

#[unsafe(no_mangle)]
extern "C" fn cuProfilerStop() -> u32 {
    entry("cuProfilerStop", || registry::with_current(|_| Ok(())))
}
