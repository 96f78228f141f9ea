//! Kernels that the emulator was not written for, from CUDA source to results: clean ones against references, and ones with a
//! planted mistake that a check must find. Needs nvcc; without one the tests say that they were skipped (in CI they fail).

mod adamw;
mod compile;
mod flash_attention;
mod log_sum_exp;
mod planted;
mod sampling;
mod world;
