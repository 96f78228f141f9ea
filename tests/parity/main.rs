//! Parity with transformers: goldens computed in f64 by `tools/golden.py`, committed under `tests/goldens`.

#[cfg(has_cuda)]
mod cuda;
#[cfg(has_cuda)]
#[allow(dead_code)] // what ops alone need
#[path = "../ops/cuda_device.rs"]
mod cuda_device;
mod generation;
mod golden;
mod grpo;
mod model;
mod optimizer;
