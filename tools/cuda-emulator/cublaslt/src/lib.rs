//! cuBLASLt without a GPU: allow-listed products, computed on the host over the emulated device memory.
//!
//! A product runs as a task of its stream, reads and writes device memory through the driver's checks, accumulates in
//! f32, rounds once to the output type, and sums in an order that depends on the shape, the chosen algorithm and the
//! seed, as the order on a device does: nobody can lean on equal rows giving equal bits in products of different shapes.
//!
//! | module | what it is |
//! |---|---|
//! | [`entry`] | the border to C: status codes, pointers, handles |
//! | [`driver`] | the way to the driver library: streams, device memory, reports |
//! | [`descriptors`] | matrix layouts, product descriptors, preferences and their attributes |
//! | [`problem`] | a checked product: shapes, types, what is refused |
//! | [`algorithm`] | the algorithms on offer for a shape: their order of summation and their workspace |
//! | [`product`] | the sums |
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
