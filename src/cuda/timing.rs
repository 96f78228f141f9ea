//! Device time of every command, by CUDA events, and host time of every named range. It is off except inside
//! [`Device::profiled`]; while it is off, a command costs one relaxed load.
//!
//! Commands are measured where they are sent to the stream (`command.rs`, and copies to and from the host in `memory.rs`), not
//! in the ops' launchers, so none can be forgotten. The phase of a command is the stack of [`Device::range`]s of its thread.
//!
//! Two events around a command measure the device only if it never waits for the host between them. On an empty stream it
//! would: the first event passes at once, and the kernel arrives some microseconds later, which is longer than many kernels of
//! a decode step take. So a gate, a host function in the stream, blocks the stream until the command and both events are queued
//! behind it. (A captured graph would do so too, but only for replayed commands.) The device idles between commands, so a
//! kernel that a GPU slows down under steady load, to save power, may look faster here than it is in a run.
//!
//! [`Device::profiled`]: crate::tensor::Device::profiled
//! [`Device::range`]: crate::tensor::Device::range

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use cudarc::driver::{CudaEvent, CudaStream, result, sys};

use super::{Cuda, CudaError};
use crate::tensor::{OpTime, Phase, Profile, ProfileDetail};

const OFF: u8 = 0;
const PHASES: u8 = 1;
const COMMANDS: u8 = 2;

/// Commands whose events are read together, because each read waits for the device.
const PENDING_MAX: usize = 512;
/// Empty pairs of events that are measured; the median is reported.
const EMPTY_PAIRS: usize = 9;
/// The longest time that a gate blocks the stream. Queueing a command behind it takes microseconds, but the driver may wait for
/// the device while it queues one, and both would wait for ever.
const GATE_MAX: Duration = Duration::from_millis(20);

/// The name of a command in a profile, and the fewest bytes and flops it needs, where they are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimedCommand {
    pub op: &'static str,
    pub bytes: Option<u64>,
    pub flops: Option<u64>,
    /// Whether a gate blocks the stream until the host has queued the command. It must not for copies of pageable memory, during
    /// which the host waits for the device.
    pub gated: bool,
}

/// The current profile of a device, if there is one.
#[derive(Default)]
pub(super) struct Timing {
    /// [`OFF`], [`PHASES`] or [`COMMANDS`]
    level: AtomicU8,
    measurement: Mutex<Option<Measurement>>,
}

struct Measurement {
    start: Instant,
    phases: Vec<Phase>,
    /// (outer phase, name) → index in `phases`.
    known: HashMap<(usize, String), usize>,
    /// The open phases of each thread. A thread without any is in phase 0, the whole work.
    open: HashMap<ThreadId, Vec<usize>>,
    ops: Vec<OpTime>,
    /// (phase, op) → index in `ops`.
    known_ops: HashMap<(usize, &'static str), usize>,
    pool: Vec<[CudaEvent; 2]>,
    /// Index in `ops`, and the events around one of its commands.
    pending: Vec<(usize, [CudaEvent; 2])>,
    /// The first and the last event of the profile.
    span: Option<[CudaEvent; 2]>,
    event_ms: f64,
    gate: &'static Gate,
}

/// Blocks the stream until the host has opened the gate as many times as the stream has reached it.
#[derive(Default)]
struct Gate {
    opened: AtomicU64,
    arrived: AtomicU64,
    /// How often the stream continued without waiting for the host any longer.
    given_up: AtomicU64,
}

impl Gate {
    /// Puts the closed gate into the stream. Dropping the returned value opens it, so an error or a panic opens it too.
    fn close(&'static self, stream: &CudaStream) -> Result<OpenGate, CudaError> {
        // Safety: `pass` takes a gate and calls no function of CUDA; the gate is never freed.
        unsafe {
            result::stream::launch_host_function(stream.cu_stream(), pass, std::ptr::from_ref(self) as *mut c_void)
        }
        .map_err(CudaError::driver("blocking the stream for a measurement"))?;
        Ok(OpenGate(self))
    }
}

struct OpenGate(&'static Gate);

impl Drop for OpenGate {
    fn drop(&mut self) {
        self.0.opened.fetch_add(1, Ordering::Release);
    }
}

/// The driver calls this when the stream reaches a gate.
///
/// # Safety
/// `gate` is a [`Gate`] that lives as long as the program.
unsafe extern "C" fn pass(gate: *mut c_void) {
    // Safety: the caller's promise.
    let gate: &Gate = unsafe { &*gate.cast::<Gate>() };
    let turn = gate.arrived.fetch_add(1, Ordering::Relaxed) + 1;
    let start = Instant::now();
    while gate.opened.load(Ordering::Acquire) < turn {
        if start.elapsed() > GATE_MAX {
            gate.given_up.fetch_add(1, Ordering::Relaxed);
            return;
        }
        std::hint::spin_loop();
    }
}

/// The phase that a range belongs to: its name without the number of a layer or step, and without sizes.
fn phase_name(range: &str) -> &str {
    let mut name = range.split(',').next().unwrap_or(range);
    for numbered in ["layer ", "step "] {
        let rest = name.strip_prefix(numbered).and_then(|rest| rest.split_once(' '));
        if let Some((number, rest)) = rest
            && number.bytes().all(|byte| byte.is_ascii_digit())
        {
            name = rest;
        }
    }
    name
}

impl Measurement {
    fn new(stream: &CudaStream, detail: ProfileDetail) -> Result<Self, CudaError> {
        let mut measurement = Self {
            start: Instant::now(),
            phases: vec![Phase { calls: 1, ..Phase::default() }],
            known: HashMap::new(),
            open: HashMap::new(),
            ops: Vec::new(),
            known_ops: HashMap::new(),
            pool: Vec::new(),
            pending: Vec::new(),
            span: None,
            event_ms: 0.0,
            // These few bytes per profile are never freed: a stream may still hold the gate when its device is closed.
            gate: Box::leak(Box::default()),
        };
        if detail == ProfileDetail::Commands {
            measurement.event_ms = measurement.empty_pair_ms(stream)?;
            let span = measurement.events(stream)?;
            record(&span[0], stream)?;
            measurement.span = Some(span);
        }
        measurement.start = Instant::now();
        Ok(measurement)
    }

    /// The median time between two events with nothing between them.
    fn empty_pair_ms(&mut self, stream: &CudaStream) -> Result<f64, CudaError> {
        let mut times = Vec::new();
        for _ in 0..EMPTY_PAIRS {
            let events = self.events(stream)?;
            let gate = self.gate.close(stream)?;
            events.iter().try_for_each(|event| record(event, stream))?;
            drop(gate);
            times.push(elapsed_ms(&events)?);
            self.pool.push(events);
        }
        times.sort_by(f64::total_cmp);
        Ok(times[EMPTY_PAIRS / 2])
    }

    fn events(&mut self, stream: &CudaStream) -> Result<[CudaEvent; 2], CudaError> {
        if let Some(events) = self.pool.pop() {
            return Ok(events);
        }
        let event = || {
            let timed = sys::CUevent_flags::CU_EVENT_DEFAULT;
            stream.context().new_event(Some(timed)).map_err(CudaError::driver("creating an event"))
        };
        Ok([event()?, event()?])
    }

    /// The innermost open phase of this thread.
    fn phase(&self) -> usize {
        self.open.get(&std::thread::current().id()).and_then(|open| open.last()).copied().unwrap_or(0)
    }

    fn enter(&mut self, name: &str) {
        let (outer, name) = (self.phase(), phase_name(name));
        let phase = match self.known.get(&(outer, name.to_owned())) {
            Some(phase) => *phase,
            None => {
                let above = &self.phases[outer].path;
                let path = if above.is_empty() { name.to_owned() } else { format!("{above}/{name}") };
                self.phases.push(Phase { path, ..Phase::default() });
                self.known.insert((outer, name.to_owned()), self.phases.len() - 1);
                self.phases.len() - 1
            }
        };
        self.phases[phase].calls += 1;
        self.open.entry(std::thread::current().id()).or_default().push(phase);
    }

    fn leave(&mut self, host: Duration) {
        if let Some(phase) = self.open.get_mut(&std::thread::current().id()).and_then(Vec::pop) {
            self.phases[phase].host += host;
        }
    }

    /// Adds a command to the line of its op in the current phase, and returns the line's index.
    fn count(&mut self, command: &TimedCommand) -> usize {
        let phase = self.phase();
        let index = *self.known_ops.entry((phase, command.op)).or_insert_with(|| {
            let TimedCommand { op, bytes, flops, .. } = *command;
            let nothing = |known: Option<u64>| known.map(|_| 0);
            let line = OpTime { phase, op, calls: 0, device_ms: 0.0, bytes: nothing(bytes), flops: nothing(flops) };
            self.ops.push(line);
            self.ops.len() - 1
        });
        let line = &mut self.ops[index];
        line.calls += 1;
        let add = |sum: Option<u64>, more: Option<u64>| Some(sum? + more?);
        (line.bytes, line.flops) = (add(line.bytes, command.bytes), add(line.flops, command.flops));
        index
    }

    /// Sends a command between two events.
    fn send<R>(
        &mut self,
        command: &TimedCommand,
        stream: &CudaStream,
        send: impl FnOnce() -> Result<R, CudaError>,
    ) -> Result<R, CudaError> {
        if self.pending.len() >= PENDING_MAX {
            self.read_pending()?;
        }
        let events = self.events(stream)?;
        let gate = command.gated.then(|| self.gate.close(stream)).transpose()?;
        record(&events[0], stream)?;
        let sent = send()?;
        record(&events[1], stream)?;
        drop(gate);
        let index = self.count(command);
        self.pending.push((index, events));
        Ok(sent)
    }

    /// Waits for the commands so far and adds their times to their lines.
    fn read_pending(&mut self) -> Result<(), CudaError> {
        for (index, events) in std::mem::take(&mut self.pending) {
            self.ops[index].device_ms += elapsed_ms(&events)?;
            self.pool.push(events);
        }
        Ok(())
    }

    /// Waits for the device and returns the profile.
    fn finish(mut self, stream: &CudaStream) -> Result<Profile, CudaError> {
        let span_ms = match self.span.take() {
            None => 0.0,
            Some(span) => {
                record(&span[1], stream)?;
                elapsed_ms(&span)?
            }
        };
        let host = self.start.elapsed();
        self.read_pending()?;
        self.phases[0].host = host;
        Ok(Profile {
            host,
            phases: self.phases,
            ops: self.ops,
            span_ms,
            event_ms: self.event_ms,
            late_commands: self.gate.given_up.load(Ordering::Relaxed),
        })
    }
}

fn record(event: &CudaEvent, stream: &CudaStream) -> Result<(), CudaError> {
    event.record(stream).map_err(CudaError::driver("recording an event"))
}

/// Waits for both events.
fn elapsed_ms([start, end]: &[CudaEvent; 2]) -> Result<f64, CudaError> {
    start.elapsed_ms(end).map(f64::from).map_err(CudaError::driver("reading the time between two events"))
}

impl Timing {
    fn level(&self) -> u8 {
        self.level.load(Ordering::Relaxed)
    }

    /// Whether every command is measured, so that none may be replayed as part of a graph.
    pub fn measures_commands(&self) -> bool {
        self.level() == COMMANDS
    }

    /// Whether a profile is active, so that the name of a range is worth building.
    pub fn is_on(&self) -> bool {
        self.level() != OFF
    }

    fn measurement(&self) -> MutexGuard<'_, Option<Measurement>> {
        // A panic while a command was sent only leaves that command out.
        self.measurement.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a range, which ends when the returned value is dropped.
    pub fn enter(&self, name: &str) -> Option<OpenRange<'_>> {
        self.measurement().as_mut()?.enter(name);
        Some(OpenRange { timing: self, start: Instant::now() })
    }
}

/// An open range of this thread.
pub(super) struct OpenRange<'a> {
    timing: &'a Timing,
    start: Instant,
}

impl Drop for OpenRange<'_> {
    fn drop(&mut self) {
        let host = self.start.elapsed();
        if let Some(measurement) = self.timing.measurement().as_mut() {
            measurement.leave(host);
        }
    }
}

impl Cuda {
    /// Sends a command to the device's stream, and measures it if a profile is active.
    pub(super) fn measured<R>(
        &self,
        command: impl FnOnce() -> TimedCommand,
        send: impl FnOnce() -> Result<R, CudaError>,
    ) -> Result<R, CudaError> {
        if !self.timing().measures_commands() {
            return send();
        }
        match self.timing().measurement().as_mut() {
            Some(measurement) => measurement.send(&command(), self.stream(), send),
            None => send(),
        }
    }

    /// See [`crate::tensor::Device::profiled`].
    pub(super) fn profile<R>(
        &self,
        detail: ProfileDetail,
        work: impl FnOnce() -> R,
    ) -> Result<(R, Profile), CudaError> {
        /// Ends the measurement, also after a panic.
        struct End<'a>(&'a Timing);
        impl End<'_> {
            fn take(&self) -> Option<Measurement> {
                self.0.level.store(OFF, Ordering::Relaxed);
                self.0.measurement().take()
            }
        }
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.take();
            }
        }
        self.synchronize()?;
        self.context().bind_to_thread().map_err(CudaError::driver("binding the device to this thread"))?;
        let measurement = Measurement::new(self.stream(), detail)?;
        {
            let mut current = self.timing().measurement();
            assert!(current.is_none(), "profiles of one device do not nest");
            *current = Some(measurement);
        }
        let end = End(self.timing());
        let level = if detail == ProfileDetail::Phases { PHASES } else { COMMANDS };
        self.timing().level.store(level, Ordering::Relaxed);
        let result = work();
        self.synchronize()?;
        let measurement = end.take().expect("stored above");
        Ok((result, measurement.finish(self.stream())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_has_neither_the_numbers_of_layers_and_steps_nor_sizes() {
        for (range, phase) in [
            ("layer 12 mlp backward", "mlp backward"),
            ("step 3 rollouts and rewards", "rollouts and rewards"),
            ("forward, 512 tokens", "forward"),
            ("lm_head loss", "lm_head loss"),
            ("layer norm", "layer norm"),
            ("layer", "layer"),
        ] {
            assert_eq!(phase_name(range), phase);
        }
    }

    #[test]
    fn a_gate_that_nobody_opens_gives_up_and_counts_it() {
        let gate: &'static Gate = Box::leak(Box::default());
        // Safety: the gate is never freed.
        let pass = || unsafe { pass(std::ptr::from_ref(gate) as *mut c_void) };
        drop(OpenGate(gate));
        pass();
        assert_eq!(gate.given_up.load(Ordering::Relaxed), 0);
        pass();
        assert_eq!(gate.given_up.load(Ordering::Relaxed), 1);
        // The host opens the gate late, for the pass that was given up.
        drop(OpenGate(gate));
        let waiting = std::thread::spawn(move || drop(OpenGate(gate)));
        pass();
        waiting.join().unwrap();
        assert_eq!(gate.opened.load(Ordering::Relaxed), 3);
    }
}
