//! The CUDA device: context, memory, the kernels of this binary, and the one function that launches them.
//!
//! | file | what it is for |
//! |---|---|
//! | `context.rs` | [`Cuda`]: opens a device; every cause of failure has its own error |
//! | `memory.rs` | buffers and views: [`crate::tensor::Device`] for [`Cuda`] |
//! | `arena.rs` | all memory of the device: chunks of the driver's, divided among buffers |
//! | `planned.rs` | the budget of a run, and the region for the scratch of its ops |
//! | `staging.rs`, `pending_copy.rs`, `pinned.rs` | asynchronous copies between host and device, through page-locked memory |
//! | `synchronisation_count.rs` | how often the host waited |
//! | `blas.rs` | matmuls by cuBLASLt |
//! | [`kernels`] | typed handles that `build.rs` generated from the PTX, and the modules that hold the kernels |
//! | [`device_info`] | driver, libraries and devices of this machine, for `doctor` |
//! | `command.rs` | the commands of a stream, as data, and their recording |
//! | `replay.rs` | repeated commands, launched as a graph |
//! | `timing.rs` | device time by phase and op, for profiles |
//! | [`nvtx`] | named ranges for profilers |
//! | `measure.rs` | what benches need: the L2 cache's size, filled buffers, time between events |
//! | `launch.rs` | the one unsafe launch |
//! | `error.rs` | [`CudaError`] |
//!
//! All commands of a [`Cuda`] go to one stream, so they run in the order of the calls, and the host waits only for results.
//! This module exists if the build had nvcc (`cfg(has_cuda)`). libcuda is loaded at run time, so the binary starts without it.

mod arena;
mod blas;
mod command;
mod context;
pub mod device_info;
mod error;
pub mod kernels;
mod launch;
mod measure;
mod memory;
pub mod nvtx;
mod pending_copy;
mod pinned;
mod planned;
mod replay;
mod staging;
mod synchronisation_count;
mod timing;

pub use blas::{Matmul, Operand};
pub use context::{Cuda, Emulation};
pub use error::CudaError;
pub use launch::{Argument, Grid};
pub use memory::{Buffer, View, ViewMut};
pub use replay::ReplayCounts;
