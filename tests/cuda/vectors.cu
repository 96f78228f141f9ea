// The functions of kernels/common/mma.cuh, each called by one warp. tests/cuda/vectors.rs loads vectors.ptx, compiled by
//
//   nvcc -ptx -std=c++17 -arch=compute_80 -o tests/cuda/vectors.ptx tests/cuda/vectors.cu

#include "../../kernels/common/mma.cuh"

// The registers of each lane: a [32, 4], b [32, 2], c [32, 4], which is overwritten with the result.
extern "C" __global__ void __launch_bounds__(32) matmul(float *c, const unsigned *a, const unsigned *b) {
    const int lane = threadIdx.x;
    unsigned of_a[4];
    float sums[4];
    for (int i = 0; i < 4; i++) of_a[i] = a[4 * lane + i], sums[i] = c[4 * lane + i];
    mma(sums, of_a, b[2 * lane], b[2 * lane + 1]);
    for (int i = 0; i < 4; i++) c[4 * lane + i] = sums[i];
}

// Copies `tiles` [256], 16-bit numbers, to shared memory; lane i passes the address of the row that starts at element `rows`[i].
// out [32, 4].
template <bool TRANSPOSED>
__device__ __forceinline__ void load(unsigned *out, const bf16 *tiles, const unsigned *rows) {
    __shared__ alignas(16) bf16 shared[256];
    const int lane = threadIdx.x;
    for (int i = lane; i < 256; i += 32) shared[i] = tiles[i];
    __syncthreads();
    unsigned registers[4];
    if (TRANSPOSED) {
        load_tiles_transposed(registers, shared + rows[lane]);
    } else {
        load_tiles(registers, shared + rows[lane]);
    }
    for (int i = 0; i < 4; i++) out[4 * lane + i] = registers[i];
}

extern "C" __global__ void __launch_bounds__(32) tiles(unsigned *out, const bf16 *tiles, const unsigned *rows) {
    load<false>(out, tiles, rows);
}

extern "C" __global__ void __launch_bounds__(32) tiles_transposed(unsigned *out, const bf16 *tiles, const unsigned *rows) {
    load<true>(out, tiles, rows);
}
