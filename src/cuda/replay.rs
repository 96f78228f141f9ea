//! Work that comes again and again, replayed as a CUDA graph: one call of the driver instead of one a kernel.
//!
//! A replay never rests on a promise that the work is the same as last time. What `work` asks for is noted down (which costs
//! little) and compared with what was asked for before, kernel by kernel, argument by argument; only a graph of exactly this
//! work is launched in its place. So what runs is what would have run, and the worst that other sizes or addresses can do is
//! that nothing is saved.

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaGraph, CudaStream, result, sys};

use super::work::{Notes, Work};
use super::{Cuda, CudaError};
use crate::tensor::DeviceError;

/// Sequences of work that are remembered; the one that was not asked for the longest goes first.
const REMEMBERED_MAX: usize = 64;

/// A size that stands for those from a quarter less on, four to a doubling: what has such sizes comes again sooner.
pub fn replay_size(size: usize) -> usize {
    match size {
        0..=8 => size,
        _ => size.next_multiple_of(1 << ((size - 1).ilog2() - 2)),
    }
}

/// How often work was replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayCounts {
    /// Sequences that were sent piece by piece, because they had not been seen before.
    pub sent: u64,
    /// Graphs that were made, at the second time.
    pub captured: u64,
    /// Launches of graphs.
    pub launched: u64,
}

/// What a device remembers.
#[derive(Default)]
pub(super) struct Replays {
    /// The one that was asked for last comes first.
    remembered: Vec<Remembered>,
    /// Graphs are captured on a stream of their own, so that another thread's work does not end up in them.
    capturing: Option<Arc<CudaStream>>,
    counts: ReplayCounts,
    /// Work is sent as it is asked for.
    off: bool,
}

struct Remembered {
    works: Vec<Work>,
    /// Made when the work comes a second time: at the first, the driver may still have to load a kernel, which a capture
    /// forbids, and work that comes but once is not worth a graph.
    graph: Option<Graph>,
}

struct Graph(CudaGraph);

// Safety: a graph may be used by any thread, one at a time; it lies behind the lock of `Replays`.
unsafe impl Send for Graph {}

/// Ends the notes whatever happens; after a panic nothing that was noted is sent.
struct Noting;

impl Drop for Noting {
    fn drop(&mut self) {
        Notes::end();
    }
}

impl Cuda {
    /// Runs work whose kernels are the same from call to call: see [`crate::tensor::Device::replayed`].
    pub(super) fn replay<E: From<DeviceError>>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        // A graph is one launch: sent piece by piece, each kernel has its time in a profile and stands in its phase.
        if self.timing().measures_commands() || self.lock_replays(|replays| replays.off) {
            return work();
        }
        Notes::begin(self.stream());
        let noting = Noting;
        let done = work();
        let notes = Notes::end().expect("begun above");
        drop(noting);
        let sent = match &done {
            Ok(()) => self.send_noted(notes.works),
            // As far as it came, as if nothing had been noted: buffers have begun and ended in it.
            Err(_) => notes.works.iter().try_for_each(|work| self.send(work, self.stream())),
        };
        notes.spare.into_iter().for_each(|stretch| self.arena().give_back(stretch));
        done.and(sent.map_err(|error| E::from(error.into())))
    }

    /// Launches the graph of this work, or sends it and remembers it.
    fn send_noted(&self, works: Vec<Work>) -> Result<(), CudaError> {
        let replays = self.replays();
        // A launch that failed half-way leaves nothing that the next one relies on.
        let mut replays = replays.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(place) = replays.remembered.iter().position(|known| known.works == works) else {
            works.iter().try_for_each(|work| self.send(work, self.stream()))?;
            replays.counts.sent += 1;
            replays.remembered.insert(0, Remembered { works, graph: None });
            replays.remembered.truncate(REMEMBERED_MAX);
            return Ok(());
        };
        replays.remembered[..=place].rotate_right(1);
        if replays.remembered[0].graph.is_none() {
            let graph = self.capture(&mut replays.capturing, &works)?;
            replays.remembered[0].graph = Some(graph);
            replays.counts.captured += 1;
        }
        let graph = replays.remembered[0].graph.as_ref().expect("made just now");
        self.context().bind_to_thread().map_err(CudaError::driver("taking the device"))?;
        self.round_trips().ask();
        // Safety: the graph is alive and under its lock. Its work is what was just asked for, by callers who hold the memory.
        unsafe { result::graph::launch(graph.0.cu_graph_exec(), self.stream().cu_stream()) }
            .map_err(CudaError::driver("launching a graph"))?;
        replays.counts.launched += 1;
        Ok(())
    }

    fn capture(&self, stream: &mut Option<Arc<CudaStream>>, works: &[Work]) -> Result<Graph, CudaError> {
        let stream = match stream {
            Some(stream) => stream,
            None => {
                let made = self.context().new_stream().map_err(CudaError::driver("making a stream for captures"))?;
                stream.insert(made)
            }
        };
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).map_err(CudaError::driver("beginning a capture"))?;
        let sent = works.iter().try_for_each(|work| self.send(work, stream));
        // Ended also after an error, else the stream stays in it.
        let ended = stream.end_capture(sys::CUgraphInstantiate_flags(0));
        sent?;
        let graph = ended.map_err(CudaError::driver(format!("making a graph of {} pieces of work", works.len())))?;
        graph.map(Graph).ok_or_else(|| CudaError::Driver {
            what: "ending a capture".into(),
            source: cudarc::driver::DriverError(sys::CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED),
        })
    }

    /// How often work was replayed on this device.
    pub fn replay_counts(&self) -> ReplayCounts {
        self.lock_replays(|replays| replays.counts)
    }

    /// Switches replays off, or on again: for comparisons, and to see single kernels in a profile.
    pub fn set_replays(&self, on: bool) {
        self.lock_replays(|replays| replays.off = !on);
    }

    fn lock_replays<R>(&self, look: impl FnOnce(&mut Replays) -> R) -> R {
        look(&mut self.replays().lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn replays(&self) -> Arc<Mutex<Replays>> {
        self.kept::<Mutex<Replays>>()
    }
}
