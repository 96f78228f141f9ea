//! A device: it owns buffers, and determines the element types of tensors.

use std::ops::Range;
use std::sync::Arc;

use super::{Element, Fetch, Profile, ProfileDetail};
use crate::memory::{self, Ledger, Phase};

/// A read-only range of a device's memory.
pub type Ref<'a, D, T> = <D as Device>::View<'a, T>;
/// A writable range of a device's memory.
pub type Mut<'a, D, T> = <D as Device>::ViewMut<'a, T>;

/// What can be asked of a view without reading its memory.
#[allow(clippy::len_without_is_empty)]
pub trait View {
    /// Elements in the view.
    fn len(&self) -> usize;
}

impl<T> View for &[T] {
    fn len(&self) -> usize {
        <[T]>::len(self)
    }
}

impl<T> View for &mut [T] {
    fn len(&self) -> usize {
        <[T]>::len(self)
    }
}

/// Rounds a size up, with four steps per doubling: batches that are padded to such sizes repeat sooner.
pub fn replay_size(size: usize) -> usize {
    match size {
        0..=8 => size,
        _ => size.next_multiple_of(1 << ((size - 1).ilog2() - 2)),
    }
}

/// [`Device::logits_max`] of a GPU. 512 MiB: 880 rows of 151,936. A GPU can spare that, and a second matmul for the remaining
/// rows would read the weights of the LM head twice.
pub const LOGITS_MAX: usize = 128 << 20;

/// An error of the device itself, such as too little memory or a lost context. Misuse of a buffer is a bug and panics.
#[derive(Debug, thiserror::Error)]
#[error("device: {0}")]
pub struct DeviceError(pub String);

/// Memory and element types of one backend. Tensors have these types:
///
/// | tensor | CPU | CUDA |
/// |---|---|---|
/// | activations, residual stream, keys and values, and their gradients (`Compute`) | f32 | bf16 |
/// | master weights, weight gradients, moments, logits, log-probabilities | f32 | f32 |
/// | token ids, positions, row indices | u32 | u32 |
/// | the gradient's norm | f64 | f64 |
pub trait Device: Clone + Send + Sync + 'static {
    type Compute: Element;
    type Buffer<T: Element>: Send + Sync;
    type View<'a, T: Element>: View + Copy + Send + Sync;
    type ViewMut<'a, T: Element>: View + Send;

    /// A buffer of `len` zeros.
    fn zeros<T: Element>(&self, len: usize) -> Result<Self::Buffer<T>, DeviceError>;
    /// Elements in a buffer.
    fn len<T: Element>(&self, buffer: &Self::Buffer<T>) -> usize;
    /// The elements `range` of a buffer; panics if the range is outside the buffer.
    fn view<'a, T: Element>(&self, buffer: &'a Self::Buffer<T>, range: Range<usize>) -> Self::View<'a, T>;
    /// The elements `range` of a buffer, to be written; panics if the range is outside the buffer.
    fn view_mut<'a, T: Element>(&self, buffer: &'a mut Self::Buffer<T>, range: Range<usize>) -> Self::ViewMut<'a, T>;
    /// Two disjoint ranges of one buffer, to be written; panics if they overlap or are outside the buffer.
    fn view_two<'a, T: Element>(
        &self,
        buffer: &'a mut Self::Buffer<T>,
        ranges: [Range<usize>; 2],
    ) -> [Self::ViewMut<'a, T>; 2];
    /// Copies host memory into a view of the same length.
    fn write<T: Element>(&self, to: Self::ViewMut<'_, T>, from: &[T]) -> Result<(), DeviceError>;
    /// Fills a view with what `fill` writes to host memory of its length. The CPU needs no second memory for it.
    fn write_with<T: Element, E: From<DeviceError>>(
        &self,
        to: Self::ViewMut<'_, T>,
        fill: impl FnOnce(&mut [T]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut staged = vec![T::zeroed(); to.len()];
        fill(&mut staged)?;
        Ok(self.write(to, &staged)?)
    }
    /// Copies a view into host memory of the same length; waits for the commands that produce it.
    fn read<T: Element>(&self, from: Self::View<'_, T>, to: &mut [T]) -> Result<(), DeviceError>;
    /// Starts a copy of a view to host memory, in the order of the commands. Only [`Fetch::get`] waits for it.
    fn fetch<T: Element>(&self, from: Self::View<'_, T>) -> Result<Fetch<T>, DeviceError> {
        self.download(from).map(Fetch::ready)
    }
    /// Sets every element of a view to zero.
    fn clear<T: Element>(&self, view: Self::ViewMut<'_, T>) -> Result<(), DeviceError>;

    /// Waits for all commands so far, and reports a fault of any of them.
    fn wait(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// The books of all buffers that this device has handed out.
    fn ledger(&self) -> Arc<Ledger>;

    /// Runs work; the buffers that it creates are listed under `name` in the ledger.
    fn named<R>(&self, name: &'static str, work: impl FnOnce() -> R) -> R {
        memory::labelled(name, work)
    }

    /// Runs work as a phase of a run, whose peak the ledger keeps.
    fn phase<R>(&self, phase: Phase, work: impl FnOnce() -> R) -> R {
        memory::during(phase, || {
            self.ledger().mark();
            work()
        })
    }

    /// Runs work that repeats with the same buffers and sizes, such as the forward pass of a decode step. A device may then
    /// launch its commands as one graph; the results are the same. `work` must not write from the host or read back: that
    /// panics.
    fn replayed<E: From<DeviceError>>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        work()
    }

    /// The size that a batch of `rows` rows is padded to, so that [`Self::replayed`] sees few different sizes.
    fn replay_size(&self, rows: usize) -> usize {
        rows
    }

    /// The most logits that a buffer may hold so that [`Self::replayed`] can include them; `None`: no more than elsewhere.
    fn logits_max(&self) -> Option<usize> {
        None
    }

    /// Runs work as a named range of a profiler's timeline.
    fn range<R>(&self, _name: impl FnOnce() -> String, work: impl FnOnce() -> R) -> R {
        work()
    }

    /// Runs work and profiles its device time; `None` on the CPU, where ordinary profilers show more.
    fn profiled<R>(
        &self,
        _detail: ProfileDetail,
        work: impl FnOnce() -> R,
    ) -> Result<(R, Option<Profile>), DeviceError> {
        Ok((work(), None))
    }

    /// Bytes that a run may hold on this device: all that it has, but for what the driver or the system keeps. `None` where
    /// nobody says.
    fn memory_bytes(&self) -> Option<usize> {
        None
    }

    /// Prepares for a run whose plan is known, before any of its buffers is made: takes `needed` bytes, sets `scratch` of them
    /// aside for ops, and refuses to hand out more than `budget` bytes in all.
    fn set_aside(&self, _scratch: usize, _needed: usize, _budget: usize) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Copies a view to another of the same length.
    fn copy<T: Element>(&self, to: Self::ViewMut<'_, T>, from: Self::View<'_, T>) -> Result<(), DeviceError>;

    /// A table of the device's allocations, to be printed; `None` where the operating system manages the memory.
    fn memory_table(&self) -> Option<String> {
        None
    }

    /// How many workers can run on this device side by side without sharing anything: on the CPU, the threads.
    fn workers(&self) -> usize {
        1
    }

    /// Bytes of keys and values in use beyond which decoding another sequence no longer raises throughput. Each step also reads
    /// `weight_bytes`, regardless of the number of sequences.
    fn kv_cache_budget(&self, _weight_bytes: usize) -> usize {
        usize::MAX
    }

    /// Runs the work of one of several workers: its ops do not use the threads of the others.
    fn alone<R>(&self, work: impl FnOnce() -> R) -> R {
        work()
    }

    /// Runs work of many small ops in quick succession. A device may keep its threads awake between them.
    fn together<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        work()
    }

    /// A new buffer with a copy of host memory.
    fn upload<T: Element>(&self, from: &[T]) -> Result<Self::Buffer<T>, DeviceError> {
        let mut buffer = self.zeros(from.len())?;
        self.write(self.view_mut(&mut buffer, 0..from.len()), from)?;
        Ok(buffer)
    }

    /// A copy of a view in host memory.
    fn download<T: Element>(&self, from: Self::View<'_, T>) -> Result<Vec<T>, DeviceError> {
        let mut host = vec![T::zeroed(); from.len()];
        self.read(from, &mut host)?;
        Ok(host)
    }
}
