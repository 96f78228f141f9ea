// The global norm of all gradients, for clipping: the root of the sum of their squares. It stays on the device, where AdamW reads
// it.
//
// Shapes: gradient [len] f32, parts [gridDim.x] f64, norm [1] f64. Squares and sums in f64: f32 overflows for
// elements above 1e19. The root is correctly rounded, as on the CPU. Not finite if any element is not.
//
// Floor in bytes: 4 * len. Beyond it: 16 bytes a block for the parts.
// Work: blocks loop over tiles of GLOBAL_NORM_TILE elements. A thread takes four neighbouring elements at a time, in one load of
// 16 bytes if the gradient is 16-byte aligned, and issues all its GLOBAL_NORM_LOADS of a tile before it uses the first.
// Order of sums: a thread adds the elements of each of its loads in order, to a sum for each; these sums in pairs; a butterfly
// over the warp, the warps in order, then one warp adds the parts: lane by lane in order, then a butterfly. The grid depends on
// len alone, and elements are assigned by their index, so the bits depend neither on the device nor on the alignment.

#include "common/export.cuh"
#include "common/reduce.cuh"

EXPORT(unsigned, GLOBAL_NORM_THREADS, 256);
EXPORT(unsigned, GLOBAL_NORM_BLOCKS_MAX, 1024);
EXPORT(unsigned, GLOBAL_NORM_TILE, 4096);

constexpr int WIDTH = 4;
// 64 bytes a thread, 96 KiB a multiprocessor with 48 warps. Latency times bandwidth is 25 KiB (700 ns of 4.8 TB/s over 132 of
// them).
constexpr int GLOBAL_NORM_LOADS = GLOBAL_NORM_TILE / (GLOBAL_NORM_THREADS * WIDTH);
static_assert(GLOBAL_NORM_LOADS == 4, "the pairs of sums are written out");

template <bool ALIGNED>
__device__ __forceinline__ float4 load(const float *from) {
    return ALIGNED ? *reinterpret_cast<const float4 *>(from) : make_float4(from[0], from[1], from[2], from[3]);
}

__device__ __forceinline__ double add_squares(double sum, float4 values) {
    const double x = values.x, y = values.y, z = values.z, w = values.w;
    return fma(w, w, fma(z, z, fma(y, y, fma(x, x, sum))));
}

// Sum of squares of this thread's elements. Without ALIGNED the same elements are read one by one.
template <bool ALIGNED>
__device__ __forceinline__ double sum_of_squares(const float *__restrict__ gradient, size_t len) {
    double sums[GLOBAL_NORM_LOADS] = {};
    const size_t whole = len / GLOBAL_NORM_TILE;
    size_t tile = blockIdx.x;
    // Loads without conditions, at fixed distances: with a condition each, ptxas moves uses between them to save registers.
    for (; tile < whole; tile += gridDim.x) {
        const float *from = gradient + tile * GLOBAL_NORM_TILE + threadIdx.x * WIDTH;
        float4 values[GLOBAL_NORM_LOADS];
#pragma unroll
        for (int i = 0; i < GLOBAL_NORM_LOADS; i++) values[i] = load<ALIGNED>(from + i * GLOBAL_NORM_THREADS * WIDTH);
#pragma unroll
        for (int i = 0; i < GLOBAL_NORM_LOADS; i++) sums[i] = add_squares(sums[i], values[i]);
    }
    // The rest is less than a tile and belongs to one block.
    if (tile == whole) {
#pragma unroll
        for (int i = 0; i < GLOBAL_NORM_LOADS; i++) {
            const size_t at = tile * GLOBAL_NORM_TILE + (i * GLOBAL_NORM_THREADS + threadIdx.x) * WIDTH;
            float4 values = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (at + WIDTH <= len) {
                values = load<ALIGNED>(gradient + at);
            } else {
                if (at < len) values.x = gradient[at];
                if (at + 1 < len) values.y = gradient[at + 1];
                if (at + 2 < len) values.z = gradient[at + 2];
            }
            sums[i] = add_squares(sums[i], values);
        }
    }
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

extern "C" __global__ void __launch_bounds__(GLOBAL_NORM_THREADS)
    global_norm_parts_f64(double *__restrict__ parts, const float *__restrict__ gradient, size_t len) {
    __shared__ double warps[GLOBAL_NORM_THREADS / WARP];
    const bool aligned = reinterpret_cast<size_t>(gradient) % sizeof(float4) == 0;
    double sum = aligned ? sum_of_squares<true>(gradient, len) : sum_of_squares<false>(gradient, len);
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
