//! cuBLASLt without a GPU: an allow-list of matmuls, computed on the host from emulated device memory.
//!
//! A matmul runs as a task of its stream and accesses device memory through the driver's checks. It accumulates in f32 and
//! rounds once to the output type. As on a GPU, the order of its sums depends on the shape and the chosen algorithm (and on a
//! seed), so code cannot rely on equal rows giving equal bits in matmuls of different shapes.
//!
//! | module | what it is |
//! |---|---|
//! | [`entry`] | the C interface: status codes, pointers, handles |
//! | [`driver`] | calls to the driver library: streams, device memory, reports |
//! | [`descriptors`] | matrix layouts, matmul descriptors, preferences and their attributes |
//! | [`problem`] | a checked matmul: shapes, types, what is refused |
//! | [`algorithm`] | the algorithms for a shape: their order of summation and their workspace |
//! | [`multiply`] | the sums |
//! | [`matmul`] | `cublasLtMatmul` and the heuristic |

#![allow(non_snake_case)] // entry points carry the names that C gives them

mod algorithm;
mod descriptors;
mod driver;
mod entry;
mod matmul;
mod multiply;
mod problem;
mod refused;
