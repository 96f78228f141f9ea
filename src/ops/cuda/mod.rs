//! The CUDA backend: bf16 in memory, f32 in registers; one launcher an op: check the contract, pick the grid, launch.
//!
//! Kernels are in `kernels/NAME.cu`, whose head says what is fused, what the order of sums is, and the floor in bytes.

mod attention;
mod rmsnorm;
mod score_margin;

pub use crate::cuda::Cuda;
use crate::cuda::CudaError;

impl From<CudaError> for super::OpError {
    fn from(error: CudaError) -> Self {
        Self::Device(error.into())
    }
}

/// Sizes that kernels count in `int`.
const COUNT_MAX: usize = i32::MAX as usize;
