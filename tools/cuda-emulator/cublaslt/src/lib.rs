//! cuBLASLt without a GPU: allow-listed products, computed on the host over the emulated device memory.
