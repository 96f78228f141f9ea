//! A CUDA driver for machines without a GPU. It runs PTX from nvcc one warp at a time and checks memory accesses,
//! races, barriers and launches.
//!
//! | module | what it is |
//! |---|---|
//! | [`loader`] | [`load`]: loads the emulator instead of the CUDA driver |
//! | [`arena`] | for programs with their own sub-allocator: tells the emulator where its buffers are |
//! | [`fatbin`] | the container of `nvcc -fatbin`: which PTX a device runs |
//! | [`ptx`] | PTX text → syntax tree |
//! | [`ir`] | syntax tree → [`ir::Program`]: instructions over rows of registers, with source lines and reconvergence points |
//! | [`forms`] | the table of register-only instructions: name, operand types, meaning |
//! | [`machine`] | a launch: blocks, warps, instructions |
//! | [`tensor_core`] | `mma.sync` in three rounding models |
//! | [`memory`] | global, shared and local memory with their checks |
//! | [`options`], [`fault`], [`counters`] | how a device behaves, what it reports, what it counts |
//! | [`driver`] | the `cu*` entry points: contexts, streams, events, graphs, memory, modules, launches |

pub mod arena;
pub mod counters;
#[allow(non_snake_case)] // entry points have the names of the C API
mod driver;
pub mod fatbin;
pub mod fault;
pub mod forms;
pub mod ir;
pub mod loader;
pub mod machine;
pub mod memory;
pub mod options;
pub mod ptx;
pub mod tensor_core;

pub use loader::{LoadError, configure, counters, load, reports};
