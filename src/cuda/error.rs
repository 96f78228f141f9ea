//! The errors of a device, each with what to do about it.

use cudarc::cublaslt::result::CublasError;
use cudarc::driver::DriverError;

use crate::tensor::DeviceError;

/// An error of the driver or the device. Misuse of a buffer is a bug and panics.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    #[error("no CUDA driver: libcuda is not installed on this machine (the NVIDIA driver brings it)")]
    NoDriver,
    #[error("the CUDA driver is too old: it supports CUDA {}.{}, this binary needs {}.{}", .got / 1000, .got % 1000 / 10,
            .expected / 1000, .expected % 1000 / 10)]
    DriverTooOld { expected: i32, got: i32 },
    #[error("no CUDA device {ordinal}: the driver sees {count}")]
    NoDevice { ordinal: usize, count: usize },
    #[error("device {name} has compute capability {}.{}, but this binary only has code for {architectures}: build it with \
             PATARM_CUDA_ARCH={}{}", .capability.0, .capability.1, .capability.0, .capability.1)]
    Architecture { name: String, capability: (i32, i32), architectures: &'static str },
    #[error("device {ordinal} is `{name}`, not a GPU: choose the emulator explicitly if it is what you want")]
    Emulated { ordinal: usize, name: String },
    #[error(
        "out of device memory: {wanted_bytes} more contiguous bytes are needed for {purpose}; {free_bytes} of {total_bytes} \
         bytes are free, and {spare_bytes} more in gaps between buffers. Reduce the tokens of a micro-batch \
         (micro_batch_tokens) or the completions that run at a time (max_running). Allocated:\n{held}"
    )]
    OutOfMemory {
        purpose: &'static str,
        wanted_bytes: usize,
        free_bytes: usize,
        spare_bytes: usize,
        total_bytes: usize,
        held: String,
    },
    #[error(
        "the run may hold {budget} bytes (memory.budget, or what the device has), and {wanted_bytes} more for {purpose} are too \
         many. Allocated:\n{held}"
    )]
    OverBudget { purpose: &'static str, wanted_bytes: usize, budget: usize, held: String },
    #[error(
        "no cuBLASLt: libcublasLt.so.13 was not found in {searched}. The CUDA 13 toolkit contains it (lib64), and so does the \
         Python package nvidia-cublas (nvidia/cu13/lib or nvidia/cublas/lib of its site-packages): add that folder to \
         LD_LIBRARY_PATH"
    )]
    NoBlas { searched: String },
    #[error("cuBLASLt, {what}: {error}")]
    Blas { what: String, error: CublasError },
    #[error("{what}: {error}")]
    Driver { what: String, error: DriverError },
}

impl CudaError {
    /// Adds what was being done when the driver returned an error.
    pub fn driver(what: impl Into<String>) -> impl FnOnce(DriverError) -> Self {
        |error| Self::Driver { what: what.into(), error }
    }

    /// Adds what was being done when cuBLASLt returned an error.
    pub fn blas(what: impl Into<String>) -> impl FnOnce(CublasError) -> Self {
        |error| Self::Blas { what: what.into(), error }
    }
}

impl From<CudaError> for DeviceError {
    fn from(error: CudaError) -> Self {
        Self(error.to_string())
    }
}
