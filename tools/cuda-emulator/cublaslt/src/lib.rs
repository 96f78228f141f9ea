//! cuBLASLt without a GPU: allow-listed products, computed on the host over the emulated device memory.
#[unsafe(no_mangle)]
extern "C" fn patarm_emulator_cublaslt() {}
