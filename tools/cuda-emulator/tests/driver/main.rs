//! The driver through cudarc's API: contexts, streams, events, graphs, memory, launches, matmuls, errors.
//!
//! Tests run in parallel in one process, so each creates its own context with [`fixture::context`]: a fault sticks only
//! to that context, and settings and reports belong to the test's thread.

mod contexts;
mod fixture;
mod graphs;
mod launches;
mod matmuls;
mod memory;
mod streams;
