//! Device time of every command, by CUDA events, and host time of every named range. Off unless [`Device::profiled`] asks
//! for it; then a command costs one relaxed load.
//!
//! Commands are measured where they go to the stream (`work.rs`, and copies to and from the host in `memory.rs`), not in the
//! launchers of the ops: so none can be forgotten. The phase of a command is the stack of [`Device::range`]s of its thread.
//!
//! Two events around a command measure the device only if it never waits for the host between them. On a stream that has
//! run dry it would: the first event passes at once, and the kernel arrives some microseconds later, which is longer than many
//! kernels of a decode step take. So a gate, a host function in the stream, holds the device back until the command and both
//! events stand behind it. (A recorded graph would do it as well, but only for what is replayed.) The device rests between
//! commands, so one that the card slows down under steady load, for its power, may look faster here than it is in a run.
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

/// Commands whose events are read together. Each read waits for the device.
const PENDING_MAX: usize = 512;
/// Empty pairs of events that are measured; their median counts.
const EMPTY_PAIRS: usize = 9;
/// How long a gate holds the device back at most. Putting a command behind it takes microseconds; but a driver may wait for the
/// device while it does, and both would wait for ever.
const GATE_MAX: Duration = Duration::from_millis(20);

/// What a command of the stream is called, and what it moves and computes at least, where that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub op: &'static str,
    pub bytes: Option<u64>,
    pub flops: Option<u64>,
    /// Whether the device is held back until the host is done. Not for copies of pageable memory, during which the host waits
    /// for the device.
    pub gated: bool,
}

/// A device's profile in the making.
#[derive(Default)]
pub(super) struct Timing {
    /// [`OFF`], [`PHASES`] or [`COMMANDS`]
    level: AtomicU8,
    recording: Mutex<Option<Recording>>,
}

struct Recording {
    start: Instant,
    phases: Vec<Phase>,
    /// (outer phase, name) → index in `phases`.
    known: HashMap<(usize, String), usize>,
    /// Phases that are open, of each thread; without any it is in phase 0, the whole.
    open: HashMap<ThreadId, Vec<usize>>,
    ops: Vec<OpTime>,
    /// (phase, op) → index in `ops`.
    known_ops: HashMap<(usize, &'static str), usize>,
    pool: Vec<[CudaEvent; 2]>,
    /// Index in `ops`, and the events around a command of it.
    pending: Vec<(usize, [CudaEvent; 2])>,
    /// At the beginning and at the end of it all.
    span: Option<[CudaEvent; 2]>,
    event_ms: f64,
    gate: &'static Gate,
}

/// Holds the device back until the host has opened it as often as the device has come to it.
#[derive(Default)]
struct Gate {
    opened: AtomicU64,
    arrived: AtomicU64,
    /// How often the device went on before it was opened.
    given_up: AtomicU64,
}

impl Gate {
    /// Puts the gate into the stream, closed. The answer opens it when it is dropped, so also after an error or a panic.
    fn close(&'static self, stream: &CudaStream) -> Result<OpenGate, CudaError> {
        // Safety: `pass` takes a gate and calls no function of CUDA; the gate is never freed.
        unsafe {
            result::stream::launch_host_function(stream.cu_stream(), pass, std::ptr::from_ref(self) as *mut c_void)
        }
        .map_err(CudaError::driver("holding the device back for a measurement"))?;
        Ok(OpenGate(self))
    }
}

struct OpenGate(&'static Gate);

impl Drop for OpenGate {
    fn drop(&mut self) {
        self.0.opened.fetch_add(1, Ordering::Release);
    }
}

/// What the driver calls when the stream has come to a gate.
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

/// The name of a range as a phase: layers and steps are folded, and sizes left out.
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

impl Recording {
    fn new(stream: &CudaStream, detail: ProfileDetail) -> Result<Self, CudaError> {
        let mut recording = Self {
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
            // A few bytes a profile, kept for ever: a stream may still hold the gate when its device is closed.
            gate: Box::leak(Box::default()),
        };
        if detail == ProfileDetail::Commands {
            recording.event_ms = recording.empty_pair_ms(stream)?;
            let span = recording.events(stream)?;
            record(&span[0], stream)?;
            recording.span = Some(span);
        }
        recording.start = Instant::now();
        Ok(recording)
    }

    /// The median of what two events with nothing between them measure.
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
            stream.context().new_event(Some(timed)).map_err(CudaError::driver("making an event"))
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

    /// The line of a command's kind in this phase, with the command added.
    fn count(&mut self, command: &Command) -> usize {
        let phase = self.phase();
        let index = *self.known_ops.entry((phase, command.op)).or_insert_with(|| {
            let Command { op, bytes, flops, .. } = *command;
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
        command: &Command,
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

    /// Waits for the commands so far and adds up their times.
    fn read_pending(&mut self) -> Result<(), CudaError> {
        for (index, events) in std::mem::take(&mut self.pending) {
            self.ops[index].device_ms += elapsed_ms(&events)?;
            self.pool.push(events);
        }
        Ok(())
    }

    /// What was recorded, once the device has done all of it.
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

    /// Whether every command is measured, so that none may be replayed as a part of a graph.
    pub fn measures_commands(&self) -> bool {
        self.level() == COMMANDS
    }

    /// Whether the names of ranges are of use.
    pub fn is_on(&self) -> bool {
        self.level() != OFF
    }

    fn recording(&self) -> MutexGuard<'_, Option<Recording>> {
        // A panic while a command was sent leaves a line without it.
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a range, which ends when the answer is dropped.
    pub fn enter(&self, name: &str) -> Option<OpenRange<'_>> {
        self.recording().as_mut()?.enter(name);
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
        if let Some(recording) = self.timing.recording().as_mut() {
            recording.leave(host);
        }
    }
}

impl Cuda {
    /// Sends a command to the device's stream, and measures it if it should be.
    pub(super) fn measured<R>(
        &self,
        command: impl FnOnce() -> Command,
        send: impl FnOnce() -> Result<R, CudaError>,
    ) -> Result<R, CudaError> {
        if !self.timing().measures_commands() {
            return send();
        }
        match self.timing().recording().as_mut() {
            Some(recording) => recording.send(&command(), self.stream(), send),
            None => send(),
        }
    }

    /// See [`crate::tensor::Device::profiled`].
    pub(super) fn profile<R>(
        &self,
        detail: ProfileDetail,
        work: impl FnOnce() -> R,
    ) -> Result<(R, Profile), CudaError> {
        /// Ends the recording whatever happens.
        struct End<'a>(&'a Timing);
        impl End<'_> {
            fn take(&self) -> Option<Recording> {
                self.0.level.store(OFF, Ordering::Relaxed);
                self.0.recording().take()
            }
        }
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.take();
            }
        }
        self.synchronize()?;
        self.context().bind_to_thread().map_err(CudaError::driver("taking the device"))?;
        let recording = Recording::new(self.stream(), detail)?;
        {
            let mut place = self.timing().recording();
            assert!(place.is_none(), "profiles of one device do not nest");
            *place = Some(recording);
        }
        let end = End(self.timing());
        let level = if detail == ProfileDetail::Phases { PHASES } else { COMMANDS };
        self.timing().level.store(level, Ordering::Relaxed);
        let result = work();
        self.synchronize()?;
        let recording = end.take().expect("put there above");
        Ok((result, recording.finish(self.stream())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_and_steps_are_folded_and_sizes_left_out() {
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
    fn a_gate_that_nobody_opens_lets_the_device_through_and_counts_it() {
        let gate: &'static Gate = Box::leak(Box::default());
        // Safety: the gate lives for ever.
        let pass = || unsafe { pass(std::ptr::from_ref(gate) as *mut c_void) };
        drop(OpenGate(gate));
        pass();
        assert_eq!(gate.given_up.load(Ordering::Relaxed), 0);
        pass();
        assert_eq!(gate.given_up.load(Ordering::Relaxed), 1);
        // The host came late, for the turn that was given up.
        drop(OpenGate(gate));
        let waiting = std::thread::spawn(move || drop(OpenGate(gate)));
        pass();
        waiting.join().unwrap();
        assert_eq!(gate.opened.load(Ordering::Relaxed), 3);
    }
}
