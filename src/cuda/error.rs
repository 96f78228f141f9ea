//! What can go wrong with the device, each with what to do about it.

use cudarc::cublaslt::result::CublasError;
use cudarc::driver::DriverError;

use crate::tensor::DeviceError;

/// A fault of the driver or of the device. Misuse of a buffer is a bug and asserts.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    #[error("no CUDA driver: libcuda is not installed on this machine (the NVIDIA driver brings it)")]
    NoDriver,
    #[error("the CUDA driver is too old: it supports CUDA {}.{}, this binary needs {}.{}", .got / 1000, .got % 1000 / 10,
            .expected / 1000, .expected % 1000 / 10)]
    DriverTooOld { expected: i32, got: i32 },
    #[error("no CUDA device {ordinal}: the driver sees {count}")]
    NoDevice { ordinal: usize, count: usize },
    #[error("device {name} has compute capability {}.{}, and this binary holds code for {architectures} only: build it with \
             PATARM_CUDA_ARCH={}{}", .capability.0, .capability.1, .capability.0, .capability.1)]
    Architecture { name: String, capability: (i32, i32), architectures: &'static str },
    #[error("device {ordinal} is `{name}`, which is no GPU: it must be asked for by name")]
    Emulated { ordinal: usize, name: String },
    #[error(
        "out of device memory: {wanted_bytes} more bytes in one piece were wanted for {purpose}; {free_bytes} of {total_bytes} \
         are free, and {spare_bytes} in pieces between buffers. Fewer tokens in a micro-batch (micro_batch_tokens) or fewer \
         completions at a time (max_running) need less. Held:\n{held}"
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
        "no cuBLASLt: libcublasLt.so.13 is in none of these: {searched}. The CUDA 13 toolkit brings it (lib64), and so does the \
         Python package nvidia-cublas (nvidia/cu13/lib or nvidia/cublas/lib of its site-packages): put that folder on \
         LD_LIBRARY_PATH"
    )]
    NoBlas { searched: String },
    #[error("cuBLASLt, {what}: {source}")]
    Product { what: String, source: CublasError },
    #[error("{what}: {source}")]
    Driver { what: String, source: DriverError },
}

impl CudaError {
    /// Says what was being done when the driver refused.
    pub fn driver(what: impl Into<String>) -> impl FnOnce(DriverError) -> Self {
        |source| Self::Driver { what: what.into(), source }
    }

    /// Says what was being done when cuBLASLt refused.
    pub fn product(what: impl Into<String>) -> impl FnOnce(CublasError) -> Self {
        |source| Self::Product { what: what.into(), source }
    }
}

impl From<CudaError> for DeviceError {
    fn from(error: CudaError) -> Self {
        Self(error.to_string())
    }
}
