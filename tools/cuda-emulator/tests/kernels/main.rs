//! Kernels that were not written for the emulator, from CUDA source to results. Correct ones are compared with
//! references; ones with a planted mistake must be reported. The tests need nvcc; without it they print that they were
//! skipped (in CI they fail).

mod adamw;
mod compile;
mod fixture;
mod flash_attention;
mod log_sum_exp;
mod planted;
mod sampling;
