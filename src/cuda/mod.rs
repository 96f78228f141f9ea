//! The CUDA device: context, memory, the kernels of this binary, and the one launch.
//!
//! | file | what it is for |
//! |---|---|
//! | `context.rs` | [`Cuda`]: opens a device, refuses what cannot work with one clear error each |
//! | `memory.rs` | buffers and views: [`crate::tensor::Device`] for [`Cuda`] |
//! | `arena.rs`, `free_list.rs` | where buffers get their memory: chunks of the driver's, lent out and kept |
//! | `staging.rs`, `landing.rs`, `pinned.rs` | how writes leave and results reach the host without anybody waiting |
//! | `round_trips.rs` | how often the host waited |
//! | `blas.rs` | matrix products by cuBLASLt |
//! | [`kernels`] | typed handles that `build.rs` generated from the PTX, and the modules they lie in |
//! | [`ledger`] | who holds how much device memory |
//! | [`survey`] | what this machine has, for `doctor` |
//! | `work.rs` | what goes to the stream, as data |
//! | `replay.rs` | work that comes again, launched as a graph |
//! | `timing.rs` | device time by phase and op, when asked for |
//! | [`nvtx`] | named ranges for profilers |
//! | `measure.rs` | what benches need: the L2 cache's size, filled buffers, time between events |
//! | `launch.rs` | the one unsafe launch |
//! | `error.rs` | [`CudaError`] |
//!
//! All work of a [`Cuda`] goes to one stream, so it happens in the order of the calls; only who needs a result waits for it.
//! Present where the build had nvcc (`cfg(has_cuda)`); libcuda itself is loaded at run time, so the binary starts anywhere.

mod arena;
mod blas;
mod context;
mod error;
mod free_list;
pub mod kernels;
mod landing;
mod launch;
pub mod ledger;
mod measure;
mod memory;
pub mod nvtx;
mod pinned;
mod replay;
mod round_trips;
mod staging;
pub mod survey;
mod timing;
mod work;

pub use blas::{Factor, Product};
pub use context::{Cuda, Emulation};
pub use error::CudaError;
pub use launch::{Argument, Grid};
pub use memory::{Buffer, View, ViewMut};
pub use replay::{ReplayCounts, replay_size};
