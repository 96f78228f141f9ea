//! A CUDA driver for machines without a GPU: runs the PTX that nvcc emitted, a warp at a time, with checks of memory,
//! races, barriers and launches.
//!
//! | module | what it is |
//! |---|---|
