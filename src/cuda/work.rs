//! Work for the device as plain data: sent to the stream at once, or noted down to be replayed as a graph (`replay.rs`).

use std::cell::RefCell;

use cudarc::driver::{CudaStream, result};

use super::arena::Stretch;
use super::blas::Call;
use super::launch::Launch;
use super::timing::Command;
use super::{Cuda, CudaError};

/// One thing that a stream does.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Work {
    Launch(Launch),
    Product(Call),
    /// Sets bytes to zero.
    Clear {
        address: u64,
        bytes: usize,
    },
    Copy {
        to: u64,
        from: u64,
        bytes: usize,
    },
    /// Tells the emulator that a buffer begins; devices have no such work.
    Lend {
        address: u64,
        bytes: usize,
    },
    /// Tells the emulator that a buffer ends.
    TakeBack {
        address: u64,
    },
}

thread_local! {
    static NOTES: RefCell<Option<Notes>> = const { RefCell::new(None) };
}

/// What a thread has asked for while its work was noted down.
pub(super) struct Notes {
    /// The stream whose work is noted.
    stream: usize,
    pub works: Vec<Work>,
    /// Memory that was given back meanwhile: only work that is noted behind it may have it, until all of it has been sent.
    pub spare: Vec<Stretch>,
}

impl Notes {
    /// From here on, this thread's work for a stream is noted down.
    ///
    /// # Panics
    /// When it is noted down already: replays do not nest.
    pub fn begin(stream: &CudaStream) {
        let notes = Self { stream: stream.cu_stream() as usize, works: Vec::new(), spare: Vec::new() };
        let before = NOTES.with_borrow_mut(|place| place.replace(notes));
        assert!(before.is_none(), "replays do not nest");
    }

    /// Ends it, and answers what was noted.
    pub fn end() -> Option<Self> {
        NOTES.take()
    }

    /// Whether this thread's work for a stream is noted down.
    pub fn are_taken(stream: &CudaStream) -> bool {
        Self::with(stream, |_| ()).is_some()
    }

    /// Works on the notes for a stream, if there are any.
    pub fn with<R>(stream: &CudaStream, work: impl FnOnce(&mut Self) -> R) -> Option<R> {
        let stream = stream.cu_stream() as usize;
        NOTES.with_borrow_mut(|notes| notes.as_mut().filter(|notes| notes.stream == stream).map(work))
    }
}

impl Work {
    /// What a profile says of it; `None` for what a device does not do.
    fn command(&self) -> Option<Command> {
        let command = |op, bytes, flops| Some(Command { op, bytes, flops, gated: true });
        match self {
            Self::Launch(launch) => command(launch.name(), None, None),
            Self::Product(call) => command("matmul", Some(call.bytes()), Some(call.flops())),
            Self::Clear { bytes, .. } => command("clear", Some(*bytes as u64), None),
            Self::Copy { bytes, .. } => command("copy on the device", Some(2 * *bytes as u64), None),
            Self::Lend { .. } | Self::TakeBack { .. } => None,
        }
    }
}

impl Cuda {
    /// Puts work on the stream, or notes it down for it.
    pub(super) fn submit(&self, work: Work) -> Result<(), CudaError> {
        let mut work = Some(work);
        Notes::with(self.stream(), |notes| notes.works.extend(work.take()));
        work.map_or(Ok(()), |work| self.send(&work, self.stream()))
    }

    /// Puts work on a stream and returns at once. A profile sees it here, whichever op it comes from.
    pub(super) fn send(&self, work: &Work, stream: &CudaStream) -> Result<(), CudaError> {
        if !self.timing().measures_commands() {
            return self.put(work, stream);
        }
        // What goes to the stream of captures is not done yet.
        match work.command().filter(|_| stream.cu_stream() == self.stream().cu_stream()) {
            Some(command) => self.measured(|| command, || self.put(work, stream)),
            None => self.put(work, stream),
        }
    }

    fn put(&self, work: &Work, stream: &CudaStream) -> Result<(), CudaError> {
        self.context().bind_to_thread().map_err(CudaError::driver("taking the device"))?;
        self.round_trips().ask();
        match work {
            Work::Launch(launch) => self.send_launch(launch, stream),
            Work::Product(call) => self.blas().send(call, stream),
            // Safety: whoever asked for it held a view of these bytes for writing.
            Work::Clear { address, bytes } => {
                unsafe { result::memset_d8_async(*address, 0, *bytes, stream.cu_stream()) }
                    .map_err(CudaError::driver(format!("clearing {bytes} bytes")))
            }
            // Safety: whoever asked for it held views of both, `to` for writing, so they do not overlap.
            Work::Copy { to, from, bytes } => {
                unsafe { result::memcpy_dtod_async(*to, *from, *bytes, stream.cu_stream()) }
                    .map_err(CudaError::driver(format!("copying {bytes} bytes on the device")))
            }
            Work::Lend { address, bytes } => {
                self.arena().tell_lent(*address, *bytes, stream);
                Ok(())
            }
            Work::TakeBack { address } => {
                self.arena().tell_taken_back(*address, stream);
                Ok(())
            }
        }
    }
}
