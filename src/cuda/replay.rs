//! Commands that repeat, replayed as a CUDA graph: one driver call instead of one per kernel.
//!
//! A replay does not trust the caller that the commands are the same as last time. They are recorded (which is cheap) and
//! compared with earlier recordings, kernel by kernel and argument by argument. A graph is launched only if it holds exactly
//! these commands. So what runs is what would have run without replay, and other sizes or addresses only cost the saving.

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaGraph, CudaStream, result, sys};

use super::command::{Recording, StreamCommand};
use super::{Cuda, CudaError};
use crate::tensor::DeviceError;

/// Recordings in the cache. The least recently used one is dropped first.
const CACHED_MAX: usize = 64;

/// How often commands were replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayCounts {
    /// Recordings that were sent command by command, because they were new.
    pub sent: u64,
    /// Graphs that were captured, each when its recording came a second time.
    pub captured: u64,
    /// Launches of graphs.
    pub launched: u64,
}

/// The recordings of a device and their graphs.
#[derive(Default)]
pub(super) struct GraphCache {
    /// The most recently used one first.
    cached: Vec<CachedGraph>,
    /// Graphs are captured on a separate stream, so that commands of another thread do not end up in them.
    capture_stream: Option<Arc<CudaStream>>,
    counts: ReplayCounts,
    /// Commands are sent without being recorded.
    off: bool,
}

struct CachedGraph {
    commands: Vec<StreamCommand>,
    /// Captured the second time. The first time, the driver may still have to load a kernel, which it refuses during a
    /// capture, and commands that never repeat are not worth a graph.
    graph: Option<Graph>,
}

struct Graph(CudaGraph);

// Safety: a graph may be used by any thread, one at a time; the lock around `GraphCache` ensures that.
unsafe impl Send for Graph {}

/// Ends the recording also after a panic; then none of the recorded commands is sent.
struct RecordingGuard;

impl Drop for RecordingGuard {
    fn drop(&mut self) {
        Recording::end();
    }
}

impl Cuda {
    /// Runs work whose kernels are the same from call to call: see [`crate::tensor::Device::replayed`].
    pub(super) fn replay<E: From<DeviceError>>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        // A graph is one launch. Sent command by command, each kernel gets its own time and phase in a profile.
        if self.timing().measures_commands() || self.lock_graphs(|graphs| graphs.off) {
            return work();
        }
        Recording::begin(self.stream());
        let guard = RecordingGuard;
        let done = work();
        let recording = Recording::end().expect("started above");
        drop(guard);
        let sent = match &done {
            Ok(()) => self.send_recorded(recording.commands),
            // The commands before the error are sent as if they had not been recorded: buffers were allocated and freed by them.
            Err(_) => recording.commands.iter().try_for_each(|command| self.send(command, self.stream())),
        };
        recording.freed.into_iter().for_each(|range| self.arena().free(range));
        done.and(sent.map_err(|error| E::from(error.into())))
    }

    /// Launches the graph of these commands, or sends the commands and caches them.
    fn send_recorded(&self, commands: Vec<StreamCommand>) -> Result<(), CudaError> {
        let graphs = self.graphs();
        // A launch that failed half-way leaves nothing that the next one relies on.
        let mut graphs = graphs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = graphs.cached.iter().position(|cached| cached.commands == commands) else {
            commands.iter().try_for_each(|command| self.send(command, self.stream()))?;
            graphs.counts.sent += 1;
            graphs.cached.insert(0, CachedGraph { commands, graph: None });
            graphs.cached.truncate(CACHED_MAX);
            return Ok(());
        };
        graphs.cached[..=index].rotate_right(1);
        if graphs.cached[0].graph.is_none() {
            let graph = self.capture(&mut graphs.capture_stream, &commands)?;
            graphs.cached[0].graph = Some(graph);
            graphs.counts.captured += 1;
        }
        let graph = graphs.cached[0].graph.as_ref().expect("captured above");
        self.context().bind_to_thread().map_err(CudaError::driver("binding the device to this thread"))?;
        self.synchronisations().command_sent();
        // Safety: the graph is alive and under its lock. It holds the commands just submitted, by callers who hold the memory.
        unsafe { result::graph::launch(graph.0.cu_graph_exec(), self.stream().cu_stream()) }
            .map_err(CudaError::driver("launching a graph"))?;
        graphs.counts.launched += 1;
        Ok(())
    }

    fn capture(&self, stream: &mut Option<Arc<CudaStream>>, commands: &[StreamCommand]) -> Result<Graph, CudaError> {
        let stream = match stream {
            Some(stream) => stream,
            None => {
                let created =
                    self.context().new_stream().map_err(CudaError::driver("creating a stream for captures"))?;
                stream.insert(created)
            }
        };
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).map_err(CudaError::driver("beginning a capture"))?;
        let sent = commands.iter().try_for_each(|command| self.send(command, stream));
        // The capture is ended also after an error, or the stream would stay in it.
        let ended = stream.end_capture(sys::CUgraphInstantiate_flags(0));
        sent?;
        let graph = ended.map_err(CudaError::driver(format!("creating a graph of {} commands", commands.len())))?;
        graph.map(Graph).ok_or_else(|| CudaError::Driver {
            what: "ending a capture".into(),
            error: cudarc::driver::DriverError(sys::CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED),
        })
    }

    /// How often commands were replayed on this device.
    pub fn replay_counts(&self) -> ReplayCounts {
        self.lock_graphs(|graphs| graphs.counts)
    }

    /// Switches replays on or off: for comparisons, and to see single kernels in a profile.
    pub fn set_replays(&self, on: bool) {
        self.lock_graphs(|graphs| graphs.off = !on);
    }

    fn lock_graphs<R>(&self, look: impl FnOnce(&mut GraphCache) -> R) -> R {
        look(&mut self.graphs().lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn graphs(&self) -> Arc<Mutex<GraphCache>> {
        self.kept::<Mutex<GraphCache>>()
    }
}
