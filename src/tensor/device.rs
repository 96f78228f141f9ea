//! A device: where buffers live, and which element types its tensors have.

use std::ops::Range;

use super::{Element, Fetch, Profile, ProfileDetail};

/// A read-only stretch of a device's memory.
pub type Ref<'a, D, T> = <D as Device>::View<'a, T>;
/// A writable stretch of a device's memory.
pub type Mut<'a, D, T> = <D as Device>::ViewMut<'a, T>;

/// What every view can tell without touching its memory.
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

/// A fault of the device itself: out of memory, a lost context. Misuse of a buffer is a bug and asserts.
#[derive(Debug, thiserror::Error)]
#[error("device: {0}")]
pub struct DeviceError(pub String);

/// Memory and element types of one backend. Which tensor has which type is this table:
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
    /// The elements `range` of a buffer; panics when the range lies outside.
    fn view<'a, T: Element>(&self, buffer: &'a Self::Buffer<T>, range: Range<usize>) -> Self::View<'a, T>;
    /// The elements `range` of a buffer, to be written; panics when the range lies outside.
    fn view_mut<'a, T: Element>(&self, buffer: &'a mut Self::Buffer<T>, range: Range<usize>) -> Self::ViewMut<'a, T>;
    /// Two disjoint stretches of one buffer, to be written; panics when they overlap or lie outside.
    fn view_two<'a, T: Element>(
        &self,
        buffer: &'a mut Self::Buffer<T>,
        ranges: [Range<usize>; 2],
    ) -> [Self::ViewMut<'a, T>; 2];
    /// Copies host memory into a view of the same length.
    fn write<T: Element>(&self, to: Self::ViewMut<'_, T>, from: &[T]) -> Result<(), DeviceError>;
    /// Copies a view into host memory of the same length; waits for the work that produces it.
    fn read<T: Element>(&self, from: Self::View<'_, T>, to: &mut [T]) -> Result<(), DeviceError>;
    /// Asks for a copy of a view in host memory, as it is when its turn comes: nobody waits before [`Fetch::get`].
    fn fetch<T: Element>(&self, from: Self::View<'_, T>) -> Result<Fetch<T>, DeviceError> {
        self.download(from).map(Fetch::ready)
    }
    /// Sets every element of a view to zero.
    fn clear<T: Element>(&self, view: Self::ViewMut<'_, T>) -> Result<(), DeviceError>;

    /// Waits for all work that was asked for so far, and reports a fault that any of it had.
    fn wait(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Runs work whose new buffers are listed under `name` in the table of memory.
    fn named<R>(&self, _name: &'static str, work: impl FnOnce() -> R) -> R {
        work()
    }

    /// Runs work that is asked for again and again with the same buffers and sizes, such as the forward pass of a decode step.
    /// A device may then hand it over as a whole, and does what `work` asks for in any case. `work` neither writes from the
    /// host nor reads back: that panics.
    fn replayed<E: From<DeviceError>>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        work()
    }

    /// The number that a batch of `rows` is filled up to, so that [`Self::replayed`] meets few different ones.
    fn replay_size(&self, rows: usize) -> usize {
        rows
    }

    /// Logits that a buffer may hold for the sake of one [`Self::replayed`] piece of work; `None`: as many as anywhere else.
    fn logits_max(&self) -> Option<usize> {
        None
    }

    /// Runs work that a profiler's timeline shows as a range of this name.
    fn range<R>(&self, _name: impl FnOnce() -> String, work: impl FnOnce() -> R) -> R {
        work()
    }

    /// Runs work and measures where its device time goes; `None` where device time is the host's, which profilers show better.
    fn profiled<R>(
        &self,
        _detail: ProfileDetail,
        work: impl FnOnce() -> R,
    ) -> Result<(R, Option<Profile>), DeviceError> {
        Ok((work(), None))
    }

    /// Who holds how much of the device's memory, for people; `None` where that is the system's affair.
    fn memory_table(&self) -> Option<String> {
        None
    }

    /// Streams of work that this device runs side by side without sharing anything: threads, on the CPU.
    fn workers(&self) -> usize {
        1
    }

    /// Bytes of keys and values in use from which another sequence that decodes beside the others is no gain, where each step
    /// reads `weights` bytes whatever their number.
    fn kv_cache_budget(&self, _weights: usize) -> usize {
        usize::MAX
    }

    /// Runs the work of one lane beside others: its ops leave the other lanes' threads alone.
    fn alone<R>(&self, work: impl FnOnce() -> R) -> R {
        work()
    }

    /// Runs work made of many small ops that follow each other closely. A device may keep its helpers from falling asleep
    /// meanwhile.
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
