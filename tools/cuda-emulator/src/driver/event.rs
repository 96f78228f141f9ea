//! Events: points in streams that the host and other streams can wait for.

use std::ffi::c_void;
use std::time::Instant;

use super::command::Command;
use super::context::Context;
use super::entry::{Out, entry};
use super::handle::Kind;
use super::queue::{Goal, TaskId};
use super::registry;
use super::status::{Answer, Status};
use super::stream::on_stream;

/// Event flag: records no time.
const DISABLE_TIMING: u32 = 2;

pub struct Event {
    timed: bool,
    pub mark: Mark,
    /// Number of recordings, so that a late recording does not count for a newer one.
    generation: u64,
    reached: Option<Instant>,
}

/// Where an event was last recorded.
pub enum Mark {
    Nowhere,
    Stream(TaskId),
    /// In a capture, after these nodes.
    Capture {
        capture: u32,
        tips: Vec<usize>,
    },
}

impl Event {
    /// Stores the time of a recording if it is still the latest one.
    pub fn reached(&mut self, generation: u64, time: Instant) {
        if self.generation == generation {
            self.reached = Some(time);
        }
    }
}

impl Context {
    fn event(&mut self, handle: *mut c_void) -> Answer<(u32, &mut Event)> {
        let serial = self.serial(handle, Kind::Event)?;
        let event = self.events.get_mut(&serial);
        Ok((serial, event.ok_or_else(|| Status::INVALID_HANDLE.because("the event was destroyed"))?))
    }

    fn record(&mut self, event: *mut c_void, stream: u32) -> Answer {
        let (serial, _) = self.event(event)?;
        let mark = match self.stream(stream)?.capture.clone() {
            Some(capturing) => {
                self.refuse_invalidated(stream)?;
                Mark::Capture { capture: capturing.capture, tips: capturing.tips }
            }
            None => {
                let (_, event) = self.event(event)?;
                event.generation += 1;
                event.reached = None;
                let generation = event.generation;
                match self.submit(stream, Command::Record { event: serial, generation })? {
                    Some(task) => Mark::Stream(task),
                    None => Mark::Nowhere,
                }
            }
        };
        self.event(event)?.1.mark = mark;
        Ok(())
    }

    /// The task that a recorded event marks.
    ///
    /// # Errors
    /// `CAPTURED_EVENT` for an event recorded in a capture: the host cannot wait for it.
    fn task_of(&mut self, event: *mut c_void) -> Answer<Option<TaskId>> {
        let capture = match self.event(event)?.1.mark {
            Mark::Nowhere => return Ok(None),
            Mark::Stream(task) => return Ok(Some(task)),
            Mark::Capture { capture, .. } => capture,
        };
        self.invalidate(capture);
        Err(Status::CAPTURED_EVENT
            .because("the event was recorded in a stream capture: it can only be waited for there"))
    }

    fn wait_event(&mut self, stream: u32, event: *mut c_void) -> Answer {
        let (_, found) = self.event(event)?;
        match &found.mark {
            Mark::Nowhere => Ok(()),
            Mark::Stream(task) => {
                let task = *task;
                self.refuse_isolation(stream)?;
                self.wait_for(stream, vec![task])
            }
            Mark::Capture { capture, tips } => {
                let (capture, tips) = (*capture, tips.clone());
                self.join_capture(stream, capture, tips)
            }
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuEventCreate(slot: Out<*mut c_void>, flags: u32) -> u32 {
    entry("cuEventCreate", || {
        if flags & !7 != 0 {
            return Err(Status::INVALID_VALUE.because(format!("unknown event flags {flags:#x}")));
        }
        registry::with_current(|context| {
            let serial = context.new_serial();
            let timed = flags & DISABLE_TIMING == 0;
            context.events.insert(serial, Event { timed, mark: Mark::Nowhere, generation: 0, reached: None });
            slot.put(context.handle(serial, Kind::Event))
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: *mut c_void) -> u32 {
    entry("cuEventDestroy", || {
        registry::with_owner(event, Kind::Event, |context, serial| {
            context.event(event)?;
            context.events.remove(&serial);
            Ok(())
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: *mut c_void, stream: *mut c_void) -> u32 {
    entry("cuEventRecord", || on_stream(stream, |context, serial| context.record(event, serial)))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecordWithFlags(event: *mut c_void, stream: *mut c_void, _flags: u32) -> u32 {
    cuEventRecord(event, stream)
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: *mut c_void) -> u32 {
    entry("cuEventSynchronize", || {
        registry::with_owner(event, Kind::Event, |context, _| match context.task_of(event)? {
            Some(task) => context.run(Goal::Done(vec![task])),
            None => Ok(()),
        })
    })
}

/// Each query runs one task, so that polling makes progress.
#[unsafe(no_mangle)]
extern "C" fn cuEventQuery(event: *mut c_void) -> u32 {
    entry("cuEventQuery", || {
        registry::with_owner(event, Kind::Event, |context, _| match context.task_of(event)? {
            Some(task) if context.queue.is_pending(task) => {
                context.step(Goal::Done(vec![task]))?;
                Err(Status::NOT_READY.into())
            }
            _ => Ok(()),
        })
    })
}

/// Milliseconds of the host's clock between two events: this measures the emulator, not a device.
#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime_v2(slot: Out<f32>, start: *mut c_void, end: *mut c_void) -> u32 {
    entry("cuEventElapsedTime", || {
        registry::with_owner(start, Kind::Event, |context, _| {
            let mut times = [None; 2];
            for (time, event) in times.iter_mut().zip([start, end]) {
                let task = context.task_of(event)?;
                let pending = task.is_some_and(|task| context.queue.is_pending(task));
                let (_, event) = context.event(event)?;
                if !event.timed || task.is_none() {
                    return Err(Status::INVALID_HANDLE.because("an event has timing disabled or was never recorded"));
                }
                if pending {
                    return Err(Status::NOT_READY.into());
                }
                *time = event.reached;
            }
            let [Some(start), Some(end)] = times else { return Err(Status::NOT_READY.into()) };
            let seconds = match end.checked_duration_since(start) {
                Some(later) => later.as_secs_f64(),
                None => -start.duration_since(end).as_secs_f64(),
            };
            slot.put((seconds * 1000.0) as f32)
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime(slot: Out<f32>, start: *mut c_void, end: *mut c_void) -> u32 {
    cuEventElapsedTime_v2(slot, start, end)
}

/// A wait for an event of another context first completes that context's work, which is a legal order.
#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(stream: *mut c_void, event: *mut c_void, _flags: u32) -> u32 {
    entry("cuStreamWaitEvent", || {
        let owner = super::handle::Handle::decode(event, Kind::Event)?.context;
        let own = on_stream(stream, |context, serial| {
            let own = context.number == owner;
            if own { context.wait_event(serial, event) } else { context.refuse_isolation(serial) }.map(|()| own)
        })?;
        match own {
            true => Ok(()),
            false => registry::with_owner(event, Kind::Event, |context, _| match context.task_of(event)? {
                Some(task) => context.run(Goal::Done(vec![task])),
                None => Ok(()),
            }),
        }
    })
}
