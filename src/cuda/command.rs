//! Commands for the device as plain data: sent to the stream at once, or recorded to be replayed as a graph (`replay.rs`).

use std::cell::RefCell;

use cudarc::driver::{CudaStream, result};

use super::arena::AddressRange;
use super::blas::MatmulCall;
use super::launch::Launch;
use super::timing::TimedCommand;
use super::{Cuda, CudaError};

/// One command of a stream.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum StreamCommand {
    Launch(Launch),
    Matmul(MatmulCall),
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
    /// Reports a new buffer to the emulator. A GPU has no such command.
    ReportAllocation {
        address: u64,
        bytes: usize,
    },
    /// Reports a freed buffer to the emulator.
    ReportFree {
        address: u64,
    },
}

thread_local! {
    static RECORDING: RefCell<Option<Recording>> = const { RefCell::new(None) };
}

/// The commands that a thread submitted while it was recording.
pub(super) struct Recording {
    /// The stream that the commands are for.
    stream: usize,
    pub commands: Vec<StreamCommand>,
    /// Memory that was freed during the recording. Until all commands have been sent, only later commands of the recording
    /// may use it.
    pub freed: Vec<AddressRange>,
}

impl Recording {
    /// Starts to record this thread's commands for a stream.
    ///
    /// # Panics
    /// When a recording is active: replays do not nest.
    pub fn begin(stream: &CudaStream) {
        let recording = Self { stream: stream.cu_stream() as usize, commands: Vec::new(), freed: Vec::new() };
        let previous = RECORDING.with_borrow_mut(|current| current.replace(recording));
        assert!(previous.is_none(), "replays do not nest");
    }

    /// Stops the recording and returns it.
    pub fn end() -> Option<Self> {
        RECORDING.take()
    }

    /// Whether this thread records its commands for a stream.
    pub fn is_active(stream: &CudaStream) -> bool {
        Self::with(stream, |_| ()).is_some()
    }

    /// Calls `change` with the active recording for a stream, if there is one.
    pub fn with<R>(stream: &CudaStream, change: impl FnOnce(&mut Self) -> R) -> Option<R> {
        let stream = stream.cu_stream() as usize;
        RECORDING.with_borrow_mut(|current| current.as_mut().filter(|recording| recording.stream == stream).map(change))
    }
}

impl StreamCommand {
    /// How a profile lists it; `None` for what a GPU does not execute.
    fn timed(&self) -> Option<TimedCommand> {
        let timed = |op, bytes, flops| Some(TimedCommand { op, bytes, flops, gated: true });
        match self {
            Self::Launch(launch) => timed(launch.name(), None, None),
            Self::Matmul(call) => timed("matmul", Some(call.bytes()), Some(call.flops())),
            Self::Clear { bytes, .. } => timed("clear", Some(*bytes as u64), None),
            Self::Copy { bytes, .. } => timed("copy on the device", Some(2 * *bytes as u64), None),
            Self::ReportAllocation { .. } | Self::ReportFree { .. } => None,
        }
    }
}

impl Cuda {
    /// Sends a command to the stream, or adds it to the active recording.
    pub(super) fn submit(&self, command: StreamCommand) -> Result<(), CudaError> {
        let mut command = Some(command);
        Recording::with(self.stream(), |recording| recording.commands.extend(command.take()));
        command.map_or(Ok(()), |command| self.send(&command, self.stream()))
    }

    /// Sends a command to a stream and returns at once. Every op's commands pass through here, so a profile sees them all.
    pub(super) fn send(&self, command: &StreamCommand, stream: &CudaStream) -> Result<(), CudaError> {
        if !self.timing().measures_commands() {
            return self.enqueue(command, stream);
        }
        // The capture stream only builds a graph; its commands do not run yet.
        match command.timed().filter(|_| stream.cu_stream() == self.stream().cu_stream()) {
            Some(timed) => self.measured(|| timed, || self.enqueue(command, stream)),
            None => self.enqueue(command, stream),
        }
    }

    fn enqueue(&self, command: &StreamCommand, stream: &CudaStream) -> Result<(), CudaError> {
        self.context().bind_to_thread().map_err(CudaError::driver("binding the device to this thread"))?;
        self.synchronisations().command_sent();
        match command {
            StreamCommand::Launch(launch) => self.send_launch(launch, stream),
            StreamCommand::Matmul(call) => self.blas().send(call, stream),
            // Safety: the caller that submitted it held a view of these bytes for writing.
            StreamCommand::Clear { address, bytes } => {
                unsafe { result::memset_d8_async(*address, 0, *bytes, stream.cu_stream()) }
                    .map_err(CudaError::driver(format!("clearing {bytes} bytes")))
            }
            // Safety: the caller that submitted it held views of both, `to` for writing, so they do not overlap.
            StreamCommand::Copy { to, from, bytes } => {
                unsafe { result::memcpy_dtod_async(*to, *from, *bytes, stream.cu_stream()) }
                    .map_err(CudaError::driver(format!("copying {bytes} bytes on the device")))
            }
            StreamCommand::ReportAllocation { address, bytes } => {
                self.arena().report_allocation(*address, *bytes, stream);
                Ok(())
            }
            StreamCommand::ReportFree { address } => {
                self.arena().report_free(*address, stream);
                Ok(())
            }
        }
    }
}
