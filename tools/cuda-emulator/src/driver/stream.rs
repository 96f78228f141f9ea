//! Streams: queues of commands that the host fills and that run when the host waits.

use std::ffi::c_void;

use super::command::Command;
use super::context::Context;
use super::entry::{Out, entry};
use super::handle::{Handle, Kind};
use super::queue::{Goal, TaskId};
use super::registry;
use super::status::{Answer, Status};

/// Serial of the legacy default stream (the null stream) in every context.
pub const LEGACY: u32 = 0;

/// Stream flag: does not wait for the legacy default stream.
const NON_BLOCKING: u32 = 1;

pub struct Stream {
    /// Whether the stream and the legacy default stream wait for each other.
    pub blocking: bool,
    pub priority: i32,
    /// The task submitted last; the next one runs after it.
    pub last: Option<TaskId>,
    /// Set while the stream is part of a capture.
    pub capture: Option<Capturing>,
}

/// A stream's part in a capture: new nodes depend on `tips`.
#[derive(Clone)]
pub struct Capturing {
    pub capture: u32,
    pub tips: Vec<usize>,
}

impl Stream {
    /// An empty stream.
    pub fn new(blocking: bool, priority: i32) -> Self {
        Stream { blocking, priority, last: None, capture: None }
    }
}

impl Context {
    /// The serial of a stream handle; null and 1 are the legacy default stream, 2 is the per-thread default stream.
    pub fn stream_serial(&mut self, handle: *mut c_void) -> Answer<u32> {
        match handle as usize {
            0 | 1 => Ok(LEGACY),
            2 => Ok(self.thread_stream()),
            _ => {
                let serial = self.serial(handle, Kind::Stream)?;
                match self.streams.contains_key(&serial) {
                    true => Ok(serial),
                    false => Err(Status::INVALID_HANDLE.because("the stream was destroyed")),
                }
            }
        }
    }

    fn thread_stream(&mut self) -> u32 {
        let thread = std::thread::current().id();
        if let Some((_, serial)) = self.thread_streams.iter().find(|(owner, _)| *owner == thread) {
            return *serial;
        }
        let serial = self.new_serial();
        self.streams.insert(serial, Stream::new(true, 0));
        self.thread_streams.push((thread, serial));
        serial
    }

    /// The stream with this serial.
    pub fn stream(&mut self, serial: u32) -> Answer<&mut Stream> {
        self.streams.get_mut(&serial).ok_or_else(|| Status::INVALID_HANDLE.because("the stream was destroyed"))
    }

    /// Submits a command to a stream. While the stream captures, the command becomes a node of the capture; otherwise
    /// it runs after the stream's earlier commands, its waits, and what the rules of the default stream require.
    ///
    /// Returns the task, or `None` for a captured node.
    pub fn submit(&mut self, stream: u32, command: Command) -> Answer<Option<TaskId>> {
        if self.stream(stream)?.capture.is_some() {
            self.add_node(stream, command)?;
            return Ok(None);
        }
        self.refuse_implicit_capture(stream)?;
        let after = self.before_next(stream)?;
        let task = self.enqueue(&after, command)?;
        self.stream(stream)?.last = Some(task);
        Ok(Some(task))
    }

    /// The tasks that the next task of a stream must wait for.
    pub fn before_next(&mut self, stream: u32) -> Answer<Vec<TaskId>> {
        let own = self.stream(stream)?;
        let (blocking, mut after) = (own.blocking, Vec::from_iter(own.last));
        if stream == LEGACY {
            after.extend(self.streams.values().filter(|other| other.blocking).filter_map(|other| other.last));
        } else if blocking {
            after.extend(self.stream(LEGACY)?.last);
        }
        Ok(after)
    }

    /// Runs everything that was submitted to a stream.
    pub fn synchronize(&mut self, stream: u32) -> Answer {
        self.refuse_on_capturing(stream, "waiting for a stream that is capturing")?;
        let tasks = self.before_next(stream)?;
        self.run(Goal::Done(tasks))
    }

    /// Makes a stream wait for tasks of other streams.
    pub fn wait_for(&mut self, stream: u32, tasks: Vec<TaskId>) -> Answer {
        let mut after = self.before_next(stream)?;
        after.extend(tasks);
        let task = self.enqueue(&after, Command::Nothing)?;
        self.stream(stream)?.last = Some(task);
        Ok(())
    }
}

/// Calls `body` with a stream and the context of its handle; the default streams use the current context.
pub fn on_stream<T>(stream: *mut c_void, body: impl FnOnce(&mut Context, u32) -> Answer<T>) -> Answer<T> {
    let body = |context: &mut Context| {
        let serial = context.stream_serial(stream)?;
        body(context, serial)
    };
    match stream as usize {
        0..=2 => registry::with_current(body),
        _ => registry::with_number(Handle::decode(stream, Kind::Stream)?.context, body),
    }
}

fn create(slot: Out<*mut c_void>, flags: u32, priority: i32) -> Answer {
    if flags & !NON_BLOCKING != 0 {
        return Err(Status::INVALID_VALUE.because(format!("unknown stream flags {flags:#x}")));
    }
    registry::with_current(|context| {
        let serial = context.new_serial();
        context.streams.insert(serial, Stream::new(flags & NON_BLOCKING == 0, priority.clamp(-5, 0)));
        slot.put(context.handle(serial, Kind::Stream))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreate(slot: Out<*mut c_void>, flags: u32) -> u32 {
    entry("cuStreamCreate", || create(slot, flags, 0))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreateWithPriority(slot: Out<*mut c_void>, flags: u32, priority: i32) -> u32 {
    entry("cuStreamCreateWithPriority", || create(slot, flags, priority))
}

/// Work that was already submitted still runs, as on a device.
#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(stream: *mut c_void) -> u32 {
    entry("cuStreamDestroy", || {
        if (stream as usize) <= 2 {
            return Err(Status::INVALID_HANDLE.because("a default stream cannot be destroyed"));
        }
        on_stream(stream, |context, serial| {
            if context.stream(serial)?.capture.is_some() {
                context.invalidate_capture_of(serial);
            }
            context.streams.remove(&serial);
            Ok(())
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(stream: *mut c_void) -> u32 {
    entry("cuStreamSynchronize", || on_stream(stream, |context, serial| context.synchronize(serial)))
}

/// Each query runs one task, so that polling makes progress.
#[unsafe(no_mangle)]
extern "C" fn cuStreamQuery(stream: *mut c_void) -> u32 {
    entry("cuStreamQuery", || {
        on_stream(stream, |context, serial| {
            context.refuse_on_capturing(serial, "querying a stream that is capturing")?;
            let tasks = context.before_next(serial)?;
            if !tasks.iter().any(|task| context.queue.is_pending(*task)) {
                return Ok(());
            }
            context.step(Goal::Done(tasks))?;
            Err(Status::NOT_READY.into())
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamGetPriority(stream: *mut c_void, slot: Out<i32>) -> u32 {
    entry("cuStreamGetPriority", || on_stream(stream, |context, serial| slot.put(context.stream(serial)?.priority)))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamGetFlags(stream: *mut c_void, slot: Out<u32>) -> u32 {
    entry("cuStreamGetFlags", || {
        on_stream(stream, |context, serial| slot.put(if context.stream(serial)?.blocking { 0 } else { NON_BLOCKING }))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamGetId(stream: *mut c_void, slot: Out<u64>) -> u32 {
    entry("cuStreamGetId", || {
        on_stream(stream, |context, serial| slot.put((context.number as u64) << 32 | serial as u64))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamGetCtx(stream: *mut c_void, slot: Out<*mut c_void>) -> u32 {
    entry("cuStreamGetCtx", || on_stream(stream, |context, _| slot.put(context.handle(0, Kind::Context))))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamGetDevice(stream: *mut c_void, slot: Out<i32>) -> u32 {
    entry("cuStreamGetDevice", || on_stream(stream, |context, _| slot.put(context.ordinal as i32)))
}

/// Managed memory does not exist here, so there is nothing to attach.
#[unsafe(no_mangle)]
extern "C" fn cuStreamAttachMemAsync(_stream: *mut c_void, _address: u64, _length: usize, _flags: u32) -> u32 {
    entry("cuStreamAttachMemAsync", || Err(Status::NOT_SUPPORTED.because("there is no managed memory")))
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchHostFunc(
    stream: *mut c_void,
    function: Option<extern "C" fn(*mut c_void)>,
    argument: *mut c_void,
) -> u32 {
    entry("cuLaunchHostFunc", || {
        let function = function.ok_or_else(|| Status::INVALID_VALUE.because("the host function is null"))?;
        on_stream(stream, |context, serial| {
            context.submit(serial, Command::Host { function, argument: argument as usize }).map(|_| ())
        })
    })
}
