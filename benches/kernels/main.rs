//! Every CUDA op at the sizes of Qwen3-0.6B, in one table: time, GB/s and TFLOP/s by the contract's `cost()`, and what share that
//! is of this device's own copy and matrix-product speed: `cargo bench --bench kernels` (or `-- --emulated --tokens 64`, to see
//! it run).

#[cfg(has_cuda)]
mod table;

fn main() {
    #[cfg(has_cuda)]
    table::run();
    #[cfg(not(has_cuda))]
    println!("this build has no CUDA kernels: run tools/install-nvcc, or set CUDA_HOME");
}
