//! Stream capture: while a stream captures, submitted commands become nodes of a graph instead of running. Events
//! extend the capture to other streams. This file also enforces the driver's rules on what a capture forbids.

use std::cell::Cell;
use std::ffi::c_void;
use std::thread::ThreadId;

use super::command::Command;
use super::context::Context;
use super::entry::{Out, entry};
use super::graph::{Graph, Node};
use super::handle::Kind;
use super::registry;
use super::status::{Answer, Refusal, Status};
use super::stream::{Capturing, LEGACY, on_stream};

const GLOBAL: u32 = 0;
const RELAXED: u32 = 2;

thread_local! {
    /// How this thread treats calls that could disturb a capture (`cuThreadExchangeStreamCaptureMode`).
    static THREAD_MODE: Cell<u32> = const { Cell::new(GLOBAL) };
}

/// A capture in progress.
pub struct Capture {
    /// The stream that began the capture and must end it.
    origin: u32,
    mode: u32,
    thread: ThreadId,
    nodes: Vec<Node>,
    /// A rule was broken, so the capture must fail.
    invalidated: bool,
}

impl Context {
    fn begin_capture(&mut self, stream: u32, mode: u32) -> Answer {
        if stream == LEGACY {
            return Err(Status::STREAM_CAPTURE_UNSUPPORTED.because("the legacy default stream cannot be captured"));
        }
        if mode > RELAXED {
            return Err(Status::INVALID_VALUE.because(format!("unknown capture mode {mode}")));
        }
        if self.stream(stream)?.capture.is_some() {
            return Err(Status::ILLEGAL_STATE.because("the stream is already capturing"));
        }
        let id = self.new_serial();
        let thread = std::thread::current().id();
        self.captures.insert(id, Capture { origin: stream, mode, thread, nodes: Vec::new(), invalidated: false });
        self.stream(stream)?.capture = Some(Capturing { capture: id, tips: Vec::new() });
        Ok(())
    }

    fn end_capture(&mut self, stream: u32) -> Answer<u32> {
        let Some(own) = self.stream(stream)?.capture.clone() else {
            return Err(Status::ILLEGAL_STATE.because("the stream is not capturing"));
        };
        let Some(capture) = self.captures.get(&own.capture) else { return Err(Status::ILLEGAL_STATE.into()) };
        if capture.origin != stream {
            self.invalidate(own.capture);
            return Err(
                Status::STREAM_CAPTURE_UNMATCHED.because("the capture began in another stream and must end there")
            );
        }
        if capture.mode != RELAXED && capture.thread != std::thread::current().id() {
            return Err(Status::STREAM_CAPTURE_WRONG_THREAD.because("the capture began in another thread"));
        }
        let unjoined = self
            .streams
            .values()
            .filter_map(|other| other.capture.as_ref())
            .any(|other| other.capture == own.capture && !reaches_all(&capture.nodes, &own.tips, &other.tips));
        let Some(capture) = self.captures.remove(&own.capture) else { return Err(Status::ILLEGAL_STATE.into()) };
        for other in self.streams.values_mut() {
            other.capture.take_if(|part| part.capture == own.capture);
        }
        if capture.invalidated {
            return Err(Status::STREAM_CAPTURE_INVALIDATED.into());
        }
        if unjoined {
            return Err(Status::STREAM_CAPTURE_UNJOINED
                .because("a stream joined the capture, and the first stream never waited for its work"));
        }
        let serial = self.new_serial();
        self.graphs.insert(serial, Graph::new(capture.nodes));
        Ok(serial)
    }

    /// Adds a node after the tips of a capturing stream.
    pub fn add_node(&mut self, stream: u32, command: Command) -> Answer {
        self.refuse_invalidated(stream)?;
        let Some(part) = self.stream(stream)?.capture.clone() else { return Err(Status::ILLEGAL_STATE.into()) };
        let Some(capture) = self.captures.get_mut(&part.capture) else { return Err(Status::ILLEGAL_STATE.into()) };
        capture.nodes.push(Node { after: part.tips, command });
        let tips = vec![capture.nodes.len() - 1];
        self.stream(stream)?.capture = Some(Capturing { capture: part.capture, tips });
        Ok(())
    }

    /// A stream waits for an event recorded in a capture: the stream joins the capture or is joined back.
    pub fn join_capture(&mut self, stream: u32, capture: u32, tips: Vec<usize>) -> Answer {
        if !self.captures.contains_key(&capture) {
            return Err(Status::CAPTURED_EVENT.because("the event was recorded in a capture that has ended"));
        }
        if stream == LEGACY {
            self.invalidate(capture);
            return Err(Status::STREAM_CAPTURE_IMPLICIT.because("the legacy default stream cannot join a capture"));
        }
        match self.stream(stream)?.capture.as_mut() {
            Some(part) if part.capture == capture => {
                part.tips.extend(tips);
                part.tips.sort_unstable();
                part.tips.dedup();
            }
            Some(part) => {
                let other = part.capture;
                self.invalidate(capture);
                self.invalidate(other);
                return Err(Status::STREAM_CAPTURE_MERGE.because("two captures would become one"));
            }
            None => self.stream(stream)?.capture = Some(Capturing { capture, tips }),
        }
        self.refuse_invalidated(stream)
    }

    /// Marks a capture as broken; its end returns `STREAM_CAPTURE_INVALIDATED`.
    pub fn invalidate(&mut self, capture: u32) {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.invalidated = true;
        }
    }

    /// Marks the capture of a stream as broken.
    pub fn invalidate_capture_of(&mut self, stream: u32) {
        let capture = self.streams.get(&stream).and_then(|stream| stream.capture.as_ref()).map(|part| part.capture);
        if let Some(capture) = capture {
            self.invalidate(capture);
        }
    }

    /// Refuses a command on a stream whose capture is broken.
    pub fn refuse_invalidated(&mut self, stream: u32) -> Answer {
        let part = self.stream(stream)?.capture.as_ref().map(|part| part.capture);
        match part.and_then(|capture| self.captures.get(&capture)) {
            Some(capture) if capture.invalidated => Err(Status::STREAM_CAPTURE_INVALIDATED.into()),
            _ => Ok(()),
        }
    }

    /// Refuses a call on a stream that is capturing, and breaks the capture.
    pub fn refuse_on_capturing(&mut self, stream: u32, what: &str) -> Answer {
        if self.stream(stream)?.capture.is_none() {
            return Ok(());
        }
        self.invalidate_capture_of(stream);
        Err(Status::STREAM_CAPTURE_UNSUPPORTED.because(format!("{what} is not permitted and breaks the capture")))
    }

    /// Refuses to let a capturing stream wait for work outside its capture.
    pub fn refuse_isolation(&mut self, stream: u32) -> Answer {
        if self.stream(stream)?.capture.is_none() {
            return Ok(());
        }
        self.invalidate_capture_of(stream);
        Err(Status::STREAM_CAPTURE_ISOLATION.because("a capturing stream would wait for work outside the capture"))
    }

    /// Refuses a command on the legacy default stream while a stream that it waits for is capturing.
    pub fn refuse_implicit_capture(&mut self, stream: u32) -> Answer {
        if stream != LEGACY {
            return Ok(());
        }
        let capturing = self.streams.values().filter(|other| other.blocking).find_map(|other| other.capture.as_ref());
        let Some(capture) = capturing.map(|part| part.capture) else { return Ok(()) };
        self.invalidate(capture);
        Err(Status::STREAM_CAPTURE_IMPLICIT.because("the default stream would wait for a stream that is capturing"))
    }

    /// Refuses a call that affects every stream of the context while one of them captures.
    pub fn refuse_while_capturing(&mut self, why: &str) -> Answer {
        if self.captures.is_empty() {
            return Ok(());
        }
        self.captures.values_mut().for_each(|capture| capture.invalidated = true);
        Err(Status::STREAM_CAPTURE_UNSUPPORTED.because(format!("not permitted during a capture: {why}")))
    }

    /// Refuses a call that may synchronise with the device implicitly (an allocation, loading a module), if the modes
    /// of the captures and of this thread forbid it.
    pub fn refuse_unsafe_in_capture(&mut self) -> Answer {
        let thread = std::thread::current().id();
        let strictness = THREAD_MODE.get();
        let forbidding = self.captures.values_mut().find(|capture| {
            let own = capture.thread == thread && capture.mode != RELAXED;
            strictness != RELAXED && (own || (strictness == GLOBAL && capture.mode == GLOBAL))
        });
        let Some(capture) = forbidding else { return Ok(()) };
        capture.invalidated = true;
        Err(unsafe_call())
    }
}

fn unsafe_call() -> Refusal {
    Status::STREAM_CAPTURE_UNSUPPORTED.because("not permitted during a capture in this mode, and breaks the capture")
}

/// Whether all `targets` are ancestors of `tips` or are among them.
fn reaches_all(nodes: &[Node], tips: &[usize], targets: &[usize]) -> bool {
    let mut reached = vec![false; nodes.len()];
    let mut open = tips.to_vec();
    while let Some(node) = open.pop() {
        if !std::mem::replace(&mut reached[node], true) {
            open.extend(&nodes[node].after);
        }
    }
    targets.iter().all(|target| reached[*target])
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamBeginCapture_v2(stream: *mut c_void, mode: u32) -> u32 {
    entry("cuStreamBeginCapture", || on_stream(stream, |context, serial| context.begin_capture(serial, mode)))
}

/// The graph is null if the capture failed.
#[unsafe(no_mangle)]
extern "C" fn cuStreamEndCapture(stream: *mut c_void, slot: Out<*mut c_void>) -> u32 {
    entry("cuStreamEndCapture", || {
        slot.put(std::ptr::null_mut())?;
        on_stream(stream, |context, serial| {
            let graph = context.end_capture(serial)?;
            slot.put(context.handle(graph, Kind::Graph))
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamIsCapturing(stream: *mut c_void, slot: Out<u32>) -> u32 {
    entry("cuStreamIsCapturing", || {
        on_stream(stream, |context, serial| {
            context.refuse_implicit_capture(serial)?;
            let part = context.stream(serial)?.capture.as_ref().map(|part| part.capture);
            let broken = part.and_then(|capture| context.captures.get(&capture)).map(|capture| capture.invalidated);
            slot.put(broken.map_or(0, |broken| if broken { 2 } else { 1 }))
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) -> u32 {
    entry("cuThreadExchangeStreamCaptureMode", || {
        let wanted = mode.get()?;
        if wanted > RELAXED {
            return Err(Status::INVALID_VALUE.because(format!("unknown capture mode {wanted}")));
        }
        registry::with_current(|_| mode.put(THREAD_MODE.replace(wanted)))
    })
}
