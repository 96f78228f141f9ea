// The global norm of all gradients, for clipping: the root of the sum of their squares. It stays on the device, where AdamW reads
// it.
//
// Shapes: gradient [len] f32, parts [gridDim.x] f64, norm [1] f64. Squares and sums in f64, which f32 could not hold for
// elements above 1e19; the root is correctly rounded, as the CPU's. Not finite when any element is not.
//
// Floor in bytes: 4 * len. Beyond it: 16 bytes a block for the parts.
// Order of sums: a thread adds its elements in order (the grid depends on len alone, so which ones are always the same), a
// butterfly over the warp, the warps in order, then one warp adds the parts: lane by lane in order, then a butterfly.

#include "common/export.cuh"
#include "common/reduce.cuh"

EXPORT(unsigned, GLOBAL_NORM_THREADS, 256);
EXPORT(unsigned, GLOBAL_NORM_BLOCKS_MAX, 1024);

// `gradient` need not be aligned: elements are read one by one, neighbours by neighbouring threads.
extern "C" __global__ void __launch_bounds__(GLOBAL_NORM_THREADS)
    global_norm_parts_f64(double *__restrict__ parts, const float *__restrict__ gradient, size_t len) {
    __shared__ double warps[GLOBAL_NORM_THREADS / WARP];
    const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
    double sum = 0.0;
    for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < len; i += stride) {
        const double value = gradient[i];
        sum = fma(value, value, sum);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) warps[threadIdx.x / WARP] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        double total = 0.0;
        for (int warp = 0; warp < GLOBAL_NORM_THREADS / WARP; warp++) total += warps[warp];
        parts[blockIdx.x] = total;
    }
}

// One warp: norm = root of the sum of `count` parts; 0 without parts.
extern "C" __global__ void __launch_bounds__(WARP)
    global_norm_total_f64(double *__restrict__ norm, const double *__restrict__ parts, int count) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += WARP) sum += parts[i];
    sum = warp_sum(sum);
    if (threadIdx.x == 0) *norm = __dsqrt_rn(sum);
}
