//! Device memory: buffers that own it, views that borrow ranges of it, and copies to and from the host.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::result;
use half::bf16;

use super::arena::Allocation;
use super::command::{Recording, StreamCommand};
use super::pending_copy::PendingCopy;
use super::staging::PART_BYTES;
use super::timing::TimedCommand;
use super::{Argument, Cuda, CudaError, nvtx};
use crate::memory::{Ledger, labelled};
use crate::tensor::{self, Device, DeviceError, Element, Fetch, Profile, ProfileDetail};

/// Memory of one device for `len` elements.
pub struct Buffer<T> {
    allocation: Allocation,
    len: usize,
    elements: PhantomData<T>,
}

/// A read-only range of a buffer.
#[derive(Debug)]
pub struct View<'a, T> {
    address: u64,
    len: usize,
    elements: PhantomData<&'a [T]>,
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

/// A writable range of a buffer.
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    address: u64,
    len: usize,
    elements: PhantomData<&'a mut [T]>,
}

impl<T> tensor::View for View<'_, T> {
    fn len(&self) -> usize {
        self.len
    }
}

impl<T> tensor::View for ViewMut<'_, T> {
    fn len(&self) -> usize {
        self.len
    }
}

/// What the driver, its context and the code of the kernels take of a card, beside what is allocated: an estimate.
const CONTEXT_BYTES: usize = 600 << 20;

/// The widest load of a kernel, in bytes; an aligned view allows it.
const WIDEST_LOAD_BYTES: u64 = 16;

impl<T> View<'_, T> {
    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// The address of the first element, as a kernel's argument.
    pub fn argument(&self) -> Argument {
        Argument::Pointer(self.address)
    }

    /// Whether kernels may use their widest loads from the start of this view.
    pub fn is_aligned(&self) -> bool {
        self.address.is_multiple_of(WIDEST_LOAD_BYTES)
    }
}

impl<T> ViewMut<'_, T> {
    /// The same range for a shorter lifetime, so that several users can write to it one after another.
    pub fn reborrow(&mut self) -> ViewMut<'_, T> {
        ViewMut { address: self.address, len: self.len, elements: PhantomData }
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// The address of the first element, as the argument of a kernel that writes to it.
    pub fn argument(&mut self) -> Argument {
        Argument::Pointer(self.address)
    }

    /// Whether kernels may use their widest stores from the start of this view.
    pub fn is_aligned(&self) -> bool {
        self.address.is_multiple_of(WIDEST_LOAD_BYTES)
    }
}

impl<T: Element> Buffer<T> {
    fn address_of(&self, range: &Range<usize>) -> u64 {
        let Range { start, end } = *range;
        assert!(start <= end && end <= self.len, "{start}..{end} is outside a buffer of {} elements", self.len);
        self.allocation.address + (start * size_of::<T>()) as u64
    }

    /// The whole buffer, as an argument that a kernel may read and write.
    pub(crate) fn argument(&mut self) -> Argument {
        Argument::Pointer(self.allocation.address)
    }

    /// The whole buffer, as an argument that a kernel only reads.
    pub(crate) fn read_argument(&self) -> Argument {
        Argument::Pointer(self.allocation.address)
    }

    fn slice_mut(&mut self, range: Range<usize>) -> ViewMut<'_, T> {
        ViewMut { address: self.address_of(&range), len: range.len(), elements: PhantomData }
    }
}

impl Buffer<f32> {
    /// The memory of the whole buffer as twice as many bf16, for a result that overwrites its input.
    pub(crate) fn halves(&self) -> View<'_, bf16> {
        View { address: self.allocation.address, len: 2 * self.len, elements: PhantomData }
    }
}

impl Cuda {
    /// Uninitialised memory: scratch of a launcher, whose kernels write it before they read it. All other buffers come from
    /// [`Device::zeros`].
    pub(crate) fn scratch<T: Element>(&self, len: usize) -> Result<Buffer<T>, CudaError> {
        labelled("scratch", || {
            let allocation = self.arena().allocate_scratch(len.saturating_mul(size_of::<T>()))?;
            Ok(Buffer { allocation, len, elements: PhantomData })
        })
    }

    fn buffer<T: Element>(&self, len: usize) -> Result<Buffer<T>, CudaError> {
        let allocation = self.arena().allocate(len.saturating_mul(size_of::<T>()))?;
        Ok(Buffer { allocation, len, elements: PhantomData })
    }
}

/// A copy between host and device, as a profile lists it.
fn host_copy(op: &'static str, bytes: usize, gated: bool) -> TimedCommand {
    TimedCommand { op, bytes: Some(bytes as u64), flops: None, gated }
}

impl Device for Cuda {
    type Compute = bf16;
    type Buffer<T: Element> = Buffer<T>;
    type View<'a, T: Element> = View<'a, T>;
    type ViewMut<'a, T: Element> = ViewMut<'a, T>;

    fn zeros<T: Element>(&self, len: usize) -> Result<Buffer<T>, DeviceError> {
        let mut buffer = self.buffer(len)?;
        self.clear(buffer.slice_mut(0..len))?;
        Ok(buffer)
    }

    fn len<T: Element>(&self, buffer: &Buffer<T>) -> usize {
        buffer.len
    }

    fn view<'a, T: Element>(&self, buffer: &'a Buffer<T>, range: Range<usize>) -> View<'a, T> {
        View { address: buffer.address_of(&range), len: range.len(), elements: PhantomData }
    }

    fn view_mut<'a, T: Element>(&self, buffer: &'a mut Buffer<T>, range: Range<usize>) -> ViewMut<'a, T> {
        buffer.slice_mut(range)
    }

    fn view_two<'a, T: Element>(&self, buffer: &'a mut Buffer<T>, ranges: [Range<usize>; 2]) -> [ViewMut<'a, T>; 2] {
        let [a, b] = &ranges;
        assert!(a.end <= b.start || b.end <= a.start, "{a:?} and {b:?} overlap");
        ranges.map(|range| ViewMut { address: buffer.address_of(&range), len: range.len(), elements: PhantomData })
    }

    fn write<T: Element>(&self, to: ViewMut<'_, T>, from: &[T]) -> Result<(), DeviceError> {
        assert_eq!(to.len, from.len(), "a view is written from a slice of its own length");
        assert!(!Recording::is_active(self.stream()), "replayed work cannot write from the host");
        if from.is_empty() {
            return Ok(());
        }
        self.context().bind_to_thread().map_err(CudaError::driver("binding the device to this thread"))?;
        self.synchronisations().command_sent();
        let bytes: &[u8] = bytemuck::cast_slice(from);
        // A larger write waits until the device has read parts of the ring; its own gate would keep the device from doing so.
        let gated = bytes.len() <= PART_BYTES;
        let timed = || host_copy("copy to the device", bytes.len(), gated);
        // Safety: the view lies inside its buffer and is borrowed for writing.
        let write = || unsafe { self.staging().write(to.address, bytes, self.stream()) };
        Ok(self.measured(timed, write)?)
    }

    fn read<T: Element>(&self, from: View<'_, T>, to: &mut [T]) -> Result<(), DeviceError> {
        assert_eq!(from.len, to.len(), "a view is read into a slice of its own length");
        assert!(!Recording::is_active(self.stream()), "replayed work cannot read back");
        let failed = || CudaError::driver(format!("copying {} bytes from the device", from.len * size_of::<T>()));
        self.context().bind_to_thread().map_err(failed())?;
        self.synchronisations().command_sent();
        if !to.is_empty() {
            // Safety: the view lies inside its buffer; `to` is borrowed until the synchronisation below.
            let mut read = || unsafe { result::memcpy_dtoh_async(to, from.address, self.stream().cu_stream()) };
            let timed = || host_copy("copy to the host, pageable", from.len * size_of::<T>(), false);
            self.measured(timed, || read().map_err(failed()))?;
        }
        self.synchronisations().host_waits();
        self.stream().synchronize().map_err(failed())?;
        Ok(())
    }

    fn fetch<T: Element>(&self, from: View<'_, T>) -> Result<Fetch<T>, DeviceError> {
        assert!(!Recording::is_active(self.stream()), "replayed work cannot read back");
        if from.len == 0 {
            return Ok(Fetch::ready(Vec::new()));
        }
        self.synchronisations().command_sent();
        let timed = || host_copy("copy to the host", from.len * size_of::<T>(), true);
        let copy = self.measured(timed, || PendingCopy::start(self.pinned_pool(), from, self.stream()))?;
        let cuda = self.clone();
        Ok(Fetch::pending(move || {
            cuda.synchronisations().host_waits();
            Ok(copy.get()?)
        }))
    }

    fn copy<T: Element>(&self, to: ViewMut<'_, T>, from: View<'_, T>) -> Result<(), DeviceError> {
        assert_eq!(to.len, from.len, "both views of a copy must have the same length");
        if to.len == 0 {
            return Ok(());
        }
        Ok(self.submit(StreamCommand::Copy { to: to.address, from: from.address, bytes: to.len * size_of::<T>() })?)
    }

    fn memory_bytes(&self) -> Option<usize> {
        // The emulator has no driver that keeps a part.
        let context = if self.is_emulated() { 0 } else { CONTEXT_BYTES };
        Some(self.total_bytes().saturating_sub(context))
    }

    fn set_aside(&self, scratch: usize, needed: usize, budget: usize) -> Result<(), DeviceError> {
        Ok(self.arena().set_aside(scratch, needed, budget)?)
    }

    fn ledger(&self) -> Arc<Ledger> {
        self.arena().ledger().clone()
    }

    fn replayed<E: From<DeviceError>>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        self.replay(work)
    }

    fn replay_size(&self, rows: usize) -> usize {
        tensor::replay_size(rows)
    }

    fn logits_max(&self) -> Option<usize> {
        Some(tensor::LOGITS_MAX)
    }

    fn range<R>(&self, name: impl FnOnce() -> String, work: impl FnOnce() -> R) -> R {
        let _open = (nvtx::is_attached() || self.timing().is_on()).then(|| {
            let name = name();
            (nvtx::enter(&name), self.timing().enter(&name))
        });
        work()
    }

    fn profiled<R>(
        &self,
        detail: ProfileDetail,
        work: impl FnOnce() -> R,
    ) -> Result<(R, Option<Profile>), DeviceError> {
        let (result, profile) = self.profile(detail, work)?;
        Ok((result, Some(profile)))
    }

    fn memory_table(&self) -> Option<String> {
        Some(self.arena().table())
    }

    fn wait(&self) -> Result<(), DeviceError> {
        Ok(self.synchronize()?)
    }

    fn clear<T: Element>(&self, view: ViewMut<'_, T>) -> Result<(), DeviceError> {
        if view.len == 0 {
            return Ok(());
        }
        Ok(self.submit(StreamCommand::Clear { address: view.address, bytes: view.len * size_of::<T>() })?)
    }
}
