//! A CUDA driver for machines without a GPU: runs the PTX that nvcc emitted, a warp at a time, with checks of memory,
//! races, barriers and launches.
//!
//! | module | what it is |
//! |---|---|
//! | [`loader`] | [`load`]: the emulator in place of the CUDA driver, for tests |
//! | [`fatbin`] | the container of `nvcc -fatbin`: which PTX a device runs |
//! | [`ptx`] | PTX text → syntax tree |
//! | [`ir`] | syntax tree → [`ir::Program`]: instructions over rows of registers, with source lines and meeting points |
//! | [`forms`] | the table of register-only instructions: name, operand types, meaning |
//! | [`tensor_core`] | `mma.sync`, as tensor cores round |
//! | [`driver`] | the `cu*` entry points: contexts, streams, events, graphs, memory, modules, launches |

#[allow(non_snake_case)] // entry points carry the names that C gives them
mod driver;
pub mod fatbin;
pub mod forms;
pub mod ir;
pub mod loader;
pub mod ptx;
pub mod tensor_core;

pub use loader::{LoadError, configure, load, reports};
