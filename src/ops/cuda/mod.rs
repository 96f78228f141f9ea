//! The CUDA backend: bf16 in memory, f32 in registers; one launcher for each op: check the contract, choose the grid, launch.
//!
//! Kernels are in `kernels/NAME.cu`, whose first lines say what is fused, the order of sums, and the floor in bytes.

mod adamw;
mod attention;
mod embedding;
mod global_norm;
mod linear;
mod lm_head;
mod peak;
mod qk_norm_rope;
mod rmsnorm;
mod sample;
mod score_margin;
mod swiglu;

use super::OpError;
pub use crate::cuda::Cuda;
use crate::cuda::CudaError;

impl From<CudaError> for OpError {
    fn from(error: CudaError) -> Self {
        Self::Device(error.into())
    }
}

/// Sizes that kernels count in `int`.
const COUNT_MAX: usize = i32::MAX as usize;

/// Blocks of a kernel whose threads loop over `work` items: at most eight for each of an H100's 132 multiprocessors. It depends
/// on the work alone, so a kernel that sums by blocks has the same sums on every device.
fn blocks_for(work: usize, threads: usize) -> usize {
    work.div_ceil(threads).min(8 * 132)
}

impl super::Backend for Cuda {
    /// The number of rows may change the algorithm of a matmul, and decoding splits attention over the keys.
    const ROLLOUTS_EQUAL_TRAINING: bool = false;

    fn name(&self) -> String {
        Cuda::name(self).to_owned()
    }

    fn matmul_gflops(&self) -> Result<f64, OpError> {
        peak::matmul_gflops(self)
    }
}

/// What a plan knows of the kernels without a toolkit.
const _: () = {
    use super::paper::cuda as paper;
    use crate::cuda::kernels;
    assert!(paper::GLOBAL_NORM_BLOCKS == kernels::GLOBAL_NORM_BLOCKS_MAX as usize);
    assert!(paper::DRAW_WORDS == kernels::SAMPLE_DRAW_WORDS as usize);
    assert!(paper::SPLIT == kernels::ATTENTION_DECODE_SPLIT as usize);
    assert!(paper::FEW == kernels::ATTENTION_DECODE_ROWS as usize);
};
