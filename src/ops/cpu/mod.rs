//! The CPU backend: f32 throughout, threads by rayon, the same bits for any number of them.

mod adamw;
pub mod attention;
mod embedding;
pub mod gemm;
mod global_norm;
pub mod linear;
pub mod lm_head;
pub mod log_softmax;
pub(crate) mod memory;
mod parallel;
mod qk_norm_rope;
mod rmsnorm;
mod sample;
mod score_margin;
mod shared;
pub mod simd;
mod swiglu;
mod team;

use std::ops::Range;
use std::sync::Arc;

use crate::memory::Ledger;
use crate::tensor::host_memory::total_bytes;
use crate::tensor::{Device, DeviceError, Element};
use memory::Aligned;

/// Bytes of a shared third-level cache that one program can expect to keep.
const CACHE: usize = 12 << 20;

/// The CPU: memory is the heap, views are slices.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu;

impl Device for Cpu {
    type Compute = f32;
    type Buffer<T: Element> = Aligned<T>;
    type View<'a, T: Element> = &'a [T];
    type ViewMut<'a, T: Element> = &'a mut [T];

    fn zeros<T: Element>(&self, len: usize) -> Result<Aligned<T>, DeviceError> {
        Aligned::zeros(len)
    }

    fn ledger(&self) -> Arc<Ledger> {
        memory::ledger()
    }

    fn len<T: Element>(&self, buffer: &Aligned<T>) -> usize {
        buffer.len()
    }

    fn view<'a, T: Element>(&self, buffer: &'a Aligned<T>, range: Range<usize>) -> &'a [T] {
        &buffer[range]
    }

    fn view_mut<'a, T: Element>(&self, buffer: &'a mut Aligned<T>, range: Range<usize>) -> &'a mut [T] {
        &mut buffer[range]
    }

    fn view_two<'a, T: Element>(&self, buffer: &'a mut Aligned<T>, ranges: [Range<usize>; 2]) -> [&'a mut [T]; 2] {
        buffer.get_disjoint_mut(ranges).expect("two ranges inside the buffer that do not overlap")
    }

    fn write<T: Element>(&self, to: &mut [T], from: &[T]) -> Result<(), DeviceError> {
        to.copy_from_slice(from);
        Ok(())
    }

    fn write_with<T: Element, E: From<DeviceError>>(
        &self,
        to: &mut [T],
        fill: impl FnOnce(&mut [T]) -> Result<(), E>,
    ) -> Result<(), E> {
        fill(to)
    }

    fn read<T: Element>(&self, from: &[T], to: &mut [T]) -> Result<(), DeviceError> {
        to.copy_from_slice(from);
        Ok(())
    }

    fn copy<T: Element>(&self, to: &mut [T], from: &[T]) -> Result<(), DeviceError> {
        to.copy_from_slice(from);
        Ok(())
    }

    /// The rest is for the system, other programs, and what this one holds beside its buffers.
    fn memory_bytes(&self) -> Option<usize> {
        total_bytes().map(|bytes| bytes - bytes / 16)
    }

    fn workers(&self) -> usize {
        rayon::current_num_threads()
    }

    /// If weights stay in the third-level cache, keys and values should too. Larger weights come from memory in any case, so
    /// more sequences should share each read.
    fn kv_cache_budget(&self, weights: usize) -> usize {
        if weights <= CACHE / 2 { CACHE - weights } else { usize::MAX }
    }

    fn alone<R>(&self, work: impl FnOnce() -> R) -> R {
        team::alone(work)
    }

    fn together<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        team::together(work)
    }

    fn clear<T: Element>(&self, view: &mut [T]) -> Result<(), DeviceError> {
        view.fill(T::zeroed());
        Ok(())
    }
}

impl crate::ops::Backend for Cpu {
    const ROLLOUTS_EQUAL_TRAINING: bool = true;

    fn name(&self) -> String {
        "CPU".into()
    }

    fn matmul_gflops(&self) -> Result<f64, crate::ops::OpError> {
        // One thread's peak, times the threads: cores share no multiply-add units.
        Ok(gemm::peak_gflops() * rayon::current_num_threads() as f64)
    }
}
